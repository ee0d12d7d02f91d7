//! Which rows: conditions of operators as SQL, and pages of what they find.

use super::{OperateError, Session};
use crate::config::units::parse_duration;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::time::SystemTime;
use tokio_postgres::types::ToSql;
use tokio_postgres::{GenericClient, Row};

/// Rows of a page, if nobody says.
pub(super) const PAGE: u32 = 50;
/// Rows of a page at most.
pub(super) const LARGEST_PAGE: u32 = 1_000;
/// Rows that one call changes at most.
pub(super) const LARGEST_CHANGE: u32 = 10_000;

/// Which rows. All conditions that are given have to hold; a row passes an empty filter.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// These numbers.
    pub ids: Vec<i64>,
    /// This record key.
    pub key: Option<Vec<u8>>,
    /// Of this handler.
    pub handler: Option<String>,
    /// Of this consumer group.
    pub group: Option<String>,
    /// From (outbox: for) this topic.
    pub topic: Option<String>,
    /// With this error class.
    pub error_class: Option<String>,
    /// With this text in the error's message.
    pub error: Option<String>,
    /// Parked, dead or written at this time or later.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// In this state.
    pub state: Option<String>,
    /// Every row: a change without any other condition has to say so.
    pub all: bool,
    /// At most so many rows, oldest first.
    pub limit: Option<u32>,
    /// Only rows with higher numbers: the `next` of the page before.
    pub after: Option<i64>,
}

impl Filter {
    /// Whether it names no condition at all.
    pub fn is_empty(&self) -> bool {
        let texts = [&self.handler, &self.group, &self.topic, &self.error_class, &self.error, &self.state];
        self.ids.is_empty()
            && self.key.is_none()
            && texts.iter().all(|text| text.is_none())
            && self.since.is_none()
            && self.until.is_none()
            && self.after.is_none()
    }

    /// Rows of a change at most.
    fn most(&self) -> Result<usize, OperateError> {
        limit(self.limit, LARGEST_CHANGE, LARGEST_CHANGE)
    }

    fn condition(&self, table: &Table) -> Result<Condition, OperateError> {
        let mut condition = Condition::none();
        if !self.ids.is_empty() {
            condition.add("r.id = ANY($?)", self.ids.clone());
        }
        if let Some(key) = &self.key {
            condition.add("r.key = $?", key.clone());
        }
        let texts = [
            ("handler", &self.handler, table.handled.then_some("r.handler = $?")),
            ("group", &self.group, table.handled.then_some("r.consumer_group = $?")),
            ("topic", &self.topic, Some("r.topic = $?")),
            ("error_class", &self.error_class, table.handled.then_some("r.error_class = $?")),
            ("error", &self.error, Some(table.error)),
        ];
        for (name, text, sql) in texts {
            let Some(text) = text else { continue };
            let sql = sql.ok_or_else(|| OperateError::Invalid(format!("{}s have no {name}", table.what)))?;
            if text.contains('\0') {
                return Err(OperateError::Invalid(format!("`{name}` has a zero byte, which no row has")));
            }
            condition.add(sql, text.clone());
        }
        for (time, operator) in [(self.since, ">="), (self.until, "<")] {
            if let Some(time) = time {
                condition.add(&format!("r.{} {operator} $?", table.time), SystemTime::from(time));
            }
        }
        if let Some(after) = self.after {
            condition.add("r.id > $?", after);
        }
        condition.sql += &self.state_sql(table)?;
        Ok(condition)
    }

    /// Numbers find a row in any state, other conditions those of the table's usual one.
    fn state_sql(&self, table: &Table) -> Result<String, OperateError> {
        let usual = table.usual_state.filter(|_| self.ids.is_empty());
        let Some(state) = self.state.as_deref().or(usual) else { return Ok(String::new()) };
        match table.states.iter().find(|(name, _)| *name == state) {
            Some((_, sql)) => Ok(format!(" AND ({sql})")),
            None => {
                let known: Vec<_> = table.states.iter().map(|(name, _)| *name).collect();
                Err(OperateError::Invalid(format!("there is no state `{state}`; {}s are {}", table.what, known.join(", "))))
            }
        }
    }
}

/// The limit that was given, or the usual one.
pub(super) fn limit(given: Option<u32>, usual: u32, most: u32) -> Result<usize, OperateError> {
    let limit = given.unwrap_or(usual);
    if !(1..=most).contains(&limit) {
        return Err(OperateError::Invalid(format!("the limit is {limit}; it goes from 1 to {most}")));
    }
    Ok(limit as usize)
}

/// A table as filters and pages see it. In SQL the row is called `r`.
pub(super) struct Table {
    /// One row of it, for people.
    pub(super) what: &'static str,
    pub(super) name: &'static str,
    /// What lists show of a row.
    pub(super) columns: &'static str,
    /// Whether rows are events of a handler.
    pub(super) handled: bool,
    /// The column that `since` and `until` mean.
    pub(super) time: &'static str,
    /// The condition on the text of the error.
    pub(super) error: &'static str,
    /// States by name.
    pub(super) states: &'static [(&'static str, &'static str)],
    /// The state of the rows that are meant if nothing is said.
    pub(super) usual_state: Option<&'static str>,
}

impl Table {
    /// These rows, by number.
    pub(super) async fn rows(&self, client: &impl GenericClient, ids: &[i64]) -> Result<Vec<Row>, OperateError> {
        let sql = format!("SELECT {} FROM {} r WHERE r.id = ANY($1) ORDER BY r.id", self.columns, self.name);
        Ok(client.query(&sql, &[&ids]).await?)
    }
}

/// Conditions in SQL, and their values.
pub(super) struct Condition {
    pub(super) sql: String,
    params: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Condition {
    /// None yet.
    pub(super) fn none() -> Self {
        Self { sql: "true".to_owned(), params: Vec::new() }
    }

    /// Adds a condition; `$?` in it stands for the value.
    pub(super) fn add(&mut self, sql: &str, value: impl ToSql + Sync + Send + 'static) {
        self.params.push(Box::new(value));
        self.sql += &format!(" AND {}", sql.replace("$?", &format!("${}", self.params.len())));
    }

    /// Adds a condition on several values; the first `$?` stands for the first of them.
    pub(super) fn add_each<const N: usize>(&mut self, sql: &str, values: [Box<dyn ToSql + Sync + Send>; N]) {
        let mut sql = sql.to_owned();
        for value in values {
            self.params.push(value);
            sql = sql.replacen("$?", &format!("${}", self.params.len()), 1);
        }
        self.sql += &format!(" AND {sql}");
    }

    pub(super) fn params(&self) -> Vec<&(dyn ToSql + Sync)> {
        self.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect()
    }
}

/// Some rows, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct Page<T, N = i64> {
    /// The rows.
    pub rows: Vec<T>,
    /// What to give as `after` (actions: `before`) for the next page; none when this is the last.
    pub next: Option<N>,
}

impl Session {
    /// A page of a table.
    pub(super) async fn page<T>(&self, table: &Table, filter: &Filter, read: fn(&Row) -> T) -> Result<Page<T>, OperateError> {
        let most = limit(filter.limit, PAGE, LARGEST_PAGE)?;
        let condition = filter.condition(table)?;
        let sql =
            format!("SELECT {} FROM {} r WHERE {} ORDER BY r.id LIMIT {}", table.columns, table.name, condition.sql, most + 1);
        let rows = self.client.query(&sql, &condition.params()).await?;
        let next = (rows.len() > most).then(|| rows[most - 1].get("id"));
        Ok(Page { rows: rows.iter().take(most).map(read).collect(), next })
    }

    /// One row with its value and headers.
    pub(super) async fn whole(&self, table: &Table, id: i64) -> Result<Row, OperateError> {
        let sql =
            format!("SELECT {}, r.value, r.header_names, r.header_values FROM {} r WHERE r.id = $1", table.columns, table.name);
        let row = self.client.query_opt(&sql, &[&id]).await?;
        row.ok_or_else(|| OperateError::Missing(format!("there is no {} {id}", table.what)))
    }

    /// The numbers of the rows that a change is for, oldest first, and whether there are more than one call changes. Of rows that nobody names, only
    /// those that are `changeable`.
    pub(super) async fn chosen(
        &self,
        table: &Table,
        filter: &Filter,
        changeable: &str,
    ) -> Result<(Vec<i64>, bool), OperateError> {
        if filter.is_empty() && !filter.all {
            return Err(OperateError::Invalid(format!("say which {}s: give a condition, or say that you mean all", table.what)));
        }
        let most = filter.most()?;
        let mut condition = filter.condition(table)?;
        if filter.ids.is_empty() && filter.state.is_none() {
            condition.sql += &format!(" AND {changeable}");
        }
        let sql = format!("SELECT r.id FROM {} r WHERE {} ORDER BY r.id LIMIT {}", table.name, condition.sql, most + 1);
        let rows = self.client.query(&sql, &condition.params()).await?;
        Ok((rows.iter().take(most).map(|row| row.get(0)).collect(), rows.len() > most))
    }
}

/// A time as operators write it: RFC 3339, how long ago (`2h`, `30m ago`), or how far ahead (`in 2h`).
pub fn parse_when(text: &str) -> Result<Timestamp, String> {
    let text = text.trim();
    let wrong = || {
        format!(
            "`{text}` is no time such as `2026-02-10T09:30:00Z`, nor how long ago, such as `2h`, nor how far ahead, such as `in 2h`"
        )
    };
    if let Some(ahead) = text.strip_prefix("in ") {
        let ahead = parse_duration(ahead.trim_start()).ok().and_then(|ahead| SignedDuration::try_from(ahead).ok());
        return ahead.and_then(|ahead| Timestamp::now().checked_add(ahead).ok()).ok_or_else(wrong);
    }
    let ago = text.strip_suffix("ago").map_or(text, str::trim_end);
    match parse_duration(ago) {
        Ok(ago) => {
            let ago = SignedDuration::try_from(ago).map_err(|_| wrong())?;
            Timestamp::now().checked_sub(ago).map_err(|_| wrong())
        }
        Err(_) => text.parse().map_err(|_| wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_or_how_long_ago() {
        assert_eq!(parse_when("1970-01-01T01:00:00+01:00"), Ok(Timestamp::UNIX_EPOCH));
        for text in ["2h", "2h ago", " 120m "] {
            let ago = Timestamp::now().duration_since(parse_when(text).unwrap());
            assert!((7_199..7_300).contains(&ago.as_secs()), "{text}: {ago}");
        }
        let ahead = parse_when("in 2h").unwrap().duration_since(Timestamp::now());
        assert!((7_100..7_201).contains(&ahead.as_secs()), "{ahead}");
        for text in ["", "yesterday", "2026-02-10", "2", "ago", "-2h", "in", "in 2", "in 99999999999d", "99999999999d"] {
            assert!(parse_when(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_has_bounds() {
        assert_eq!(limit(None, PAGE, LARGEST_PAGE).unwrap(), 50);
        assert!(limit(Some(0), PAGE, LARGEST_PAGE).is_err() && limit(Some(1_001), PAGE, LARGEST_PAGE).is_err());
    }
}
