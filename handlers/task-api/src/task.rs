//! A task: as it is asked for, as it is kept, as it is shown.

use serde::{Deserialize, Deserializer, Serialize};
use tidemill_sdk::{Timestamp, Uuid};

/// The columns of a [`TaskRow`].
macro_rules! columns {
    () => {
        "id, user_id, title, description, priority, tags, due_date, due_time, recurrence, series_id, anchor_day, \
         created_at, updated_at, completed_at, version"
    };
}
pub(crate) use columns;

/// A task that a caller asks for; every field is valid.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewTask {
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    pub(crate) priority: String,
    pub(crate) tags: Vec<String>,
    /// `YYYY-MM-DD`
    pub(crate) due_date: Option<String>,
    /// `HH:MM`
    pub(crate) due_time: Option<String>,
    pub(crate) recurrence: Option<String>,
}

impl NewTask {
    /// The row that it becomes.
    pub(crate) fn into_row(self, id: Uuid, user: &str, time: Timestamp) -> TaskRow {
        TaskRow {
            id,
            user_id: user.to_owned(),
            title: self.title,
            description: self.description,
            priority: self.priority,
            tags: self.tags,
            due_date: self.due_date,
            due_time: self.due_time,
            recurrence: self.recurrence,
            series_id: None,
            anchor_day: None,
            created_at: time,
            updated_at: time,
            completed_at: None,
            version: 1,
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub(crate) struct TaskRow {
    pub(crate) id: Uuid,
    pub(crate) user_id: String,
    pub(crate) title: String,
    pub(crate) description: Option<String>,
    pub(crate) priority: String,
    pub(crate) tags: Vec<String>,
    pub(crate) due_date: Option<String>,
    #[serde(deserialize_with = "hours_and_minutes")]
    pub(crate) due_time: Option<String>,
    pub(crate) recurrence: Option<String>,
    pub(crate) series_id: Option<Uuid>,
    pub(crate) anchor_day: Option<i16>,
    pub(crate) created_at: Timestamp,
    pub(crate) updated_at: Timestamp,
    pub(crate) completed_at: Option<Timestamp>,
    pub(crate) version: i32,
}

impl TaskRow {
    /// The next version of it, which begins now.
    pub(crate) fn touched(self, time: Timestamp) -> Self {
        Self { updated_at: time, version: self.version + 1, ..self }
    }
}

/// A task as the API shows it: every field, absent ones as null.
#[derive(Debug, Serialize)]
pub(crate) struct Task<'a> {
    id: Uuid,
    title: &'a str,
    description: Option<&'a str>,
    priority: &'a str,
    tags: &'a [String],
    due_date: Option<&'a str>,
    due_time: Option<&'a str>,
    recurrence: Option<&'a str>,
    completed: bool,
    created_at: Timestamp,
    updated_at: Timestamp,
    completed_at: Option<Timestamp>,
    version: i32,
}

impl<'a> From<&'a TaskRow> for Task<'a> {
    fn from(row: &'a TaskRow) -> Self {
        Self {
            id: row.id,
            title: &row.title,
            description: row.description.as_deref(),
            priority: &row.priority,
            tags: &row.tags,
            due_date: row.due_date.as_deref(),
            due_time: row.due_time.as_deref(),
            recurrence: row.recurrence.as_deref(),
            completed: row.completed_at.is_some(),
            created_at: row.created_at,
            updated_at: row.updated_at,
            completed_at: row.completed_at,
            version: row.version,
        }
    }
}

/// PostgreSQL shows the seconds of a time of day as well; a due time has none.
fn hours_and_minutes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let mut time: Option<String> = Deserialize::deserialize(deserializer)?;
    if let Some(time) = &mut time {
        time.truncate("HH:MM".len());
    }
    Ok(time)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;
    use tidemill_sdk::sql::{Value, from_row};

    use super::*;

    pub(crate) const ID: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";

    /// A task of which only the necessary fields are set.
    pub(crate) fn plain() -> TaskRow {
        let new = NewTask {
            title: "Water the plants".into(),
            description: None,
            priority: "medium".into(),
            tags: vec![],
            due_date: None,
            due_time: None,
            recurrence: None,
        };
        new.into_row(ID.parse().unwrap(), "alice", "2026-02-10T09:30:00Z".parse().unwrap())
    }

    #[test]
    fn a_task_shows_every_field() {
        assert_eq!(
            serde_json::to_value(Task::from(&plain())).unwrap(),
            json!({
                "id": ID, "title": "Water the plants", "description": null, "priority": "medium", "tags": [],
                "due_date": null, "due_time": null, "recurrence": null, "completed": false,
                "created_at": "2026-02-10T09:30:00Z", "updated_at": "2026-02-10T09:30:00Z", "completed_at": null, "version": 1,
            })
        );
    }

    #[test]
    fn a_row_becomes_a_task() {
        let text = |text: &str| Value::Text(text.into());
        let row = [
            ("id", Value::Uuid(ID.into())),
            ("user_id", text("alice")),
            ("title", text("Water the plants")),
            ("description", Value::Null),
            ("priority", text("high")),
            ("tags", Value::TextArray(vec![Some("home".into())])),
            ("due_date", Value::Date("2026-02-10".into())),
            ("due_time", Value::Time("10:05:00".into())),
            ("recurrence", text("daily")),
            ("series_id", Value::Null),
            ("anchor_day", Value::Integer(31)),
            ("created_at", Value::Timestamp(0)),
            ("updated_at", Value::Timestamp(1)),
            ("completed_at", Value::Timestamp(1)),
            ("version", Value::Integer(2)),
        ];
        let (columns, values): (Vec<String>, Vec<Value>) = row.into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        let row: TaskRow = from_row(&columns, values).unwrap();
        assert_eq!((row.due_date.as_deref(), row.due_time.as_deref()), (Some("2026-02-10"), Some("10:05")));
        assert_eq!((row.anchor_day, row.series_id, row.version), (Some(31), None, 2));
        let shown = serde_json::to_value(Task::from(&row)).unwrap();
        assert_eq!((&shown["completed"], &shown["completed_at"]), (&json!(true), &json!("1970-01-01T00:00:00.000001Z")));
    }
}
