//! The audit trail of one task, oldest first, and its reminders: what stays readable of a task that is deleted.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidemill_sdk::{Problem, Request, Response, Timestamp, params, sql};

use crate::cursor::Scope;
use crate::page::{self, Page};
use crate::reminders::{self, Reminder};

/// Deleted ones as well: their history stays readable.
const EXISTS: &str = "SELECT 1 FROM tasks WHERE id = $1 AND user_id = $2";
const HISTORY: &str = "SELECT id, event_id, source, type, occurred_at, recorded_at, correlation_id, data FROM audit_log \
    WHERE task_id = $1 AND user_id = $2 AND (occurred_at, id) > ($3::timestamptz, $4::bigint) ORDER BY occurred_at, id LIMIT $5";

pub(crate) fn list(request: &Request) -> Result<Response, Problem> {
    let (id, user) = (request.id("id")?, request.user()?);
    let page = page::requested(request.query(), Scope::new(user, &format!("history of {id}")), |text| text.parse().ok())?;
    sql::query_optional::<i32>(EXISTS, params![id, user])?.ok_or_else(Problem::not_found)?;
    let after = page.after.unwrap_or(Position::START);
    let rows: Vec<Entry> = sql::query(HISTORY, params![id, user, after.occurred_at, after.id, page.to_fetch()])?;
    let reminders = if page.after.is_none() { Some(reminders::of_task(id, user)?) } else { None };
    let trail = Page::cut(rows, &page, |entry| entry.position().to_string());
    Ok(Response::json(200, &History { trail, reminders }))
}

/// A page of the trail, and beside the first one the task's reminders.
#[derive(Serialize)]
struct History {
    #[serde(flatten)]
    trail: Page<Entry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reminders: Option<Vec<Reminder>>,
}

/// One entry: an event that happened to the task.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Entry {
    #[serde(skip_serializing)]
    id: i64,
    event_id: String,
    source: String,
    #[serde(rename = "type")]
    event_type: String,
    occurred_at: Timestamp,
    recorded_at: Timestamp,
    correlation_id: Option<String>,
    data: Value,
}

impl Entry {
    /// Its place in the trail.
    pub(crate) fn position(&self) -> Position {
        Position { occurred_at: self.occurred_at, id: self.id }
    }
}

/// A place in the trail.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Position {
    pub(crate) occurred_at: Timestamp,
    pub(crate) id: i64,
}

impl Position {
    /// Before the first entry, by a clock that PostgreSQL knows: its first year is 4713 BC.
    pub(crate) const START: Self = Self { occurred_at: Timestamp::from_micros(-200_000_000_000_000_000), id: 0 };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.occurred_at.as_micros(), self.id)
    }
}

impl FromStr for Position {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let parse = || {
            let (micros, id) = text.split_once('.')?;
            let position = Self { occurred_at: Timestamp::from_micros(micros.parse().ok()?), id: id.parse().ok()? };
            position.occurred_at.is_storable().then_some(position)
        };
        parse().ok_or("not a place in the trail")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_sdk::sql;

    use super::*;

    #[test]
    fn an_entry_is_shown_without_its_number() {
        let columns = ["id", "event_id", "source", "type", "occurred_at", "recorded_at", "correlation_id", "data"];
        let text = |text: &str| sql::Value::Text(text.into());
        let row = vec![
            sql::Value::Integer(7),
            text("event-1"),
            text("todo-backend"),
            text("task.created"),
            sql::Value::Timestamp(5),
            sql::Value::Timestamp(1_000_000),
            sql::Value::Null,
            sql::Value::Json(r#"{"title": "a", "due_date": null}"#.into()),
        ];
        let entry: Entry = sql::from_row(&columns.map(str::to_owned), row).unwrap();
        assert_eq!(entry.position().to_string(), "5.7");
        assert_eq!(
            serde_json::to_value(&entry).unwrap(),
            json!({
                "event_id": "event-1", "source": "todo-backend", "type": "task.created",
                "occurred_at": "1970-01-01T00:00:00.000005Z", "recorded_at": "1970-01-01T00:00:01Z", "correlation_id": null,
                "data": {"title": "a", "due_date": null},
            })
        );
    }

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is() {
        let position = Position { occurred_at: Timestamp::from_micros(-5), id: 7 };
        assert_eq!(position.to_string().parse(), Ok(position));
        assert_eq!(Position::START.to_string().parse(), Ok(Position::START));
        for text in ["", "5", "5.", ".7", "a.b", "5.7.1", "9223372036854775807.1"] {
            assert!(text.parse::<Position>().is_err(), "{text}");
        }
    }
}
