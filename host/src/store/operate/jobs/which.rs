//! Which jobs: their names, conditions on them, and pages in the order of their times.

use super::super::filter::{Condition, LARGEST_CHANGE, LARGEST_PAGE, PAGE, limit};
use super::super::{OperateError, Outcome, Page, Session};
use super::{COLUMNS, Job};
use crate::store::jobs::Micros;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// A job's name with its app: `APP/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The app.
    pub app: String,
    /// The name, unique in the app.
    pub name: String,
}

impl FromStr for JobId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((app, name)) if !app.is_empty() && !name.is_empty() && !text.contains('\0') => {
                Ok(Self { app: app.to_owned(), name: name.to_owned() })
            }
            _ => Err(format!("`{text}` names no job; write its app, a slash and its name, such as `billing/invoice/7`")),
        }
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.app, self.name)
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JobId {
    fn read(row: &Row) -> Self {
        Self { app: row.get("app"), name: row.get("name") }
    }

    /// The names of several as columns.
    pub(super) fn columns(ids: &[Self]) -> (Vec<&str>, Vec<&str>) {
        ids.iter().map(|id| (id.app.as_str(), id.name.as_str())).unzip()
    }
}

/// Where a page ends: a job at its time, `TIME/APP/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCursor {
    due: Timestamp,
    id: JobId,
}

impl FromStr for JobCursor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(due, id)| Some((due.parse().ok()?, id.parse().ok()?)));
        let (due, id) = parts.ok_or_else(|| format!("`{text}` is not the `next` of a page of jobs"))?;
        Ok(Self { due, id })
    }
}

impl fmt::Display for JobCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}/{}", self.due, self.id)
    }
}

impl Serialize for JobCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which jobs. All conditions that are given have to hold.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// These jobs.
    pub ids: Vec<JobId>,
    /// Of this app.
    pub app: Option<String>,
    /// Of this handler.
    pub handler: Option<String>,
    /// With names that begin so.
    pub prefix: Option<String>,
    /// Due at this time or later.
    pub due_after: Option<Timestamp>,
    /// Due before this time.
    pub due_before: Option<Timestamp>,
    /// `due` or `scheduled`.
    pub state: Option<String>,
    /// Every job: a change without any other condition has to say so.
    pub all: bool,
    /// At most so many, the first due first.
    pub limit: Option<u32>,
    /// Only later jobs: the `next` of the page before.
    pub after: Option<JobCursor>,
}

impl JobFilter {
    fn is_empty(&self) -> bool {
        let texts = [&self.app, &self.handler, &self.prefix, &self.state];
        self.ids.is_empty()
            && texts.iter().all(|text| text.is_none())
            && self.due_after.is_none()
            && self.due_before.is_none()
            && self.after.is_none()
    }

    fn condition(&self) -> Result<Condition, OperateError> {
        let mut condition = Condition::none();
        if !self.ids.is_empty() {
            let (apps, names): (Vec<_>, Vec<_>) = self.ids.iter().map(|id| (id.app.clone(), id.name.clone())).unzip();
            let sql = "(r.app, r.name) IN (SELECT w.app, w.name FROM unnest($?::text[], $?::text[]) AS w(app, name))";
            condition.add_each(sql, [Box::new(apps), Box::new(names)]);
        }
        let texts = [
            ("app", &self.app, "r.app = $?"),
            ("handler", &self.handler, "r.handler = $?"),
            ("prefix", &self.prefix, "starts_with(r.name, $?)"),
        ];
        for (name, text, sql) in texts {
            let Some(text) = text else { continue };
            if text.contains('\0') {
                return Err(OperateError::Invalid(format!("`{name}` has a zero byte, which no job has")));
            }
            condition.add(sql, text.clone());
        }
        for (time, operator) in [(self.due_after, ">="), (self.due_before, "<")] {
            if let Some(time) = time {
                condition.add(&format!("r.due {operator} $?"), SystemTime::from(time));
            }
        }
        if let Some(JobCursor { due, id }) = &self.after {
            let cursor: [Box<dyn ToSql + Sync + Send>; 3] =
                [Box::new(Micros(due.as_microsecond())), Box::new(id.app.clone()), Box::new(id.name.clone())];
            condition.add_each("(r.due, r.app, r.name) > ($?, $?, $?)", cursor);
        }
        match self.state.as_deref() {
            None => {}
            Some("due") => condition.sql += " AND r.due <= clock_timestamp()",
            Some("scheduled") => condition.sql += " AND r.due > clock_timestamp()",
            Some(state) => {
                return Err(OperateError::Invalid(format!("there is no state `{state}`; jobs are due, scheduled")));
            }
        }
        Ok(condition)
    }
}

/// The first jobs by their times. Single and repeating ones have an index each; a plan for both at once would sort the whole table.
fn first(columns: &str, condition: &Condition, most: usize) -> String {
    let of = |which: &str| {
        format!(
            "(SELECT {columns} FROM tidemill.jobs r WHERE {which} AND {} ORDER BY r.due, r.app, r.name LIMIT {most})",
            condition.sql
        )
    };
    format!("SELECT * FROM ({} UNION ALL {}) j ORDER BY j.due, j.app, j.name LIMIT {most}", of("NOT r.repeats"), of("r.repeats"))
}

impl Session {
    /// A page of the jobs, the first due first.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Page<Job, JobCursor>, OperateError> {
        let most = limit(filter.limit, PAGE, LARGEST_PAGE)?;
        let condition = filter.condition()?;
        let rows = self.client.query(&first(COLUMNS, &condition, most + 1), &condition.params()).await?;
        let cursor = |row: &Row| {
            let due = Timestamp::from_microsecond(row.get::<_, Micros>("due").0).unwrap_or_default();
            JobCursor { due, id: JobId::read(row) }
        };
        let next = (rows.len() > most).then(|| cursor(&rows[most - 1]));
        Ok(Page { rows: rows.iter().take(most).map(Job::read).collect(), next })
    }

    /// The jobs that a change is for, and whether there are more than one call changes.
    pub(super) async fn chosen_jobs(&self, filter: &JobFilter) -> Result<(Vec<JobId>, bool), OperateError> {
        if filter.is_empty() && !filter.all {
            return Err(OperateError::Invalid("say which jobs: give a condition, or say that you mean all".to_owned()));
        }
        let most = limit(filter.limit, LARGEST_CHANGE, LARGEST_CHANGE)?;
        let condition = filter.condition()?;
        let rows = self.client.query(&first("r.due, r.app, r.name", &condition, most + 1), &condition.params()).await?;
        Ok((rows.iter().take(most).map(JobId::read).collect(), rows.len() > most))
    }
}

/// The jobs that were named and not found.
pub(super) fn missing(filter: &JobFilter, (chosen, more): &(Vec<JobId>, bool)) -> Vec<Outcome<Job, JobId>> {
    let found: HashSet<&JobId> = chosen.iter().collect();
    let named: HashSet<&JobId> = filter.ids.iter().filter(|id| !more && !found.contains(id)).collect();
    named.into_iter().map(|id| Outcome::failed(id.clone(), "missing", "there is no such job (any more)", None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_its_app_and_its_name() {
        let id: JobId = "shop/order/7/late".parse().unwrap();
        assert_eq!((id.app.as_str(), id.name.as_str(), id.to_string().as_str()), ("shop", "order/7/late", "shop/order/7/late"));
        for text in ["", "shop", "/x", "shop/", "shop/a\0b"] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_page_ends_at_a_job_exactly() {
        let text = "2026-02-10T09:30:00.123456Z/shop/order/7";
        let cursor: JobCursor = text.parse().unwrap();
        assert_eq!((cursor.to_string().as_str(), cursor.due.as_microsecond() % 1_000_000), (text, 123_456));
        for text in ["", "7", "2026-02-10T09:30:00Z", "2026-02-10T09:30:00Z/shop", "soon/shop/order"] {
            assert!(text.parse::<JobCursor>().is_err(), "{text}");
        }
    }
}
