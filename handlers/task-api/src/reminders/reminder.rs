//! A reminder: as it is asked for, as it is kept and shown.

use serde::{Deserialize, Serialize};
use tidemill_sdk::{FieldError, Fields, Problem, Response, Timestamp, Uuid};
use todo::reminders::{LeadTime, due_at};

const STATES: [&str; 3] = ["PENDING", "TRIGGERED", "CANCELLED"];

/// A reminder, by the columns of its row and as the API shows it.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub(crate) struct Reminder {
    pub(crate) id: Uuid,
    task_id: Uuid,
    /// As it was given.
    lead_time: String,
    remind_at: Timestamp,
    /// `PENDING`, `TRIGGERED` or `CANCELLED`.
    state: String,
    created_at: Timestamp,
    triggered_at: Option<Timestamp>,
    cancelled_at: Option<Timestamp>,
}

/// A task, as far as a reminder is about it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct TaskDue {
    pub(crate) title: String,
    pub(crate) due_date: Option<String>,
    /// Its own, or the time at which tasks without one are due.
    due_time: String,
    completed: bool,
    pub(crate) version: i32,
    /// By the database's clock, which decides when the reminder comes.
    now: Timestamp,
}

/// Reads the lead time from a body.
pub(crate) fn lead_time(mut fields: Fields) -> Result<LeadTime, Problem> {
    let lead = fields.required("lead_time", |text: String| text.parse::<LeadTime>());
    fields.finish()?;
    lead.ok_or_else(Problem::internal)
}

/// Reads a state, in any case.
pub(crate) fn state(text: String) -> Result<String, String> {
    let text = text.to_uppercase();
    if STATES.contains(&text.as_str()) { Ok(text) } else { Err(format!("must be one of {}", STATES.join(", "))) }
}

/// 422 for a lead time that does not fit the task.
pub(crate) fn wrong(message: String) -> Problem {
    Problem::invalid(vec![FieldError::new("lead_time", message)])
}

impl TaskDue {
    /// When its user is to be reminded, or why that can't be.
    pub(crate) fn remind_at(&self, lead: &LeadTime) -> Result<Timestamp, Problem> {
        if self.completed {
            return Err(Problem::new(409).detail("The task is completed: reopen it before you set a reminder."));
        }
        let date = self.due_date.as_deref().ok_or_else(|| wrong("needs a task with a due_date: this one has none".to_owned()))?;
        let due = todo::date(date).and_then(|date| due_at(date, &self.due_time)).ok_or_else(Problem::internal)?;
        let time = lead.before(due);
        if time <= self.now {
            let lead = lead.as_str();
            return Err(wrong(format!("is too long: the task is due at {due}, and {lead} before that, {time}, is past")));
        }
        Ok(time)
    }
}

impl Reminder {
    /// The answer to cancelling it once more, or too late.
    pub(crate) fn already_over(&self) -> Result<Response, Problem> {
        match self.triggered_at {
            Some(time) => Err(Problem::new(409).detail(format!("The reminder was triggered at {time}: it can't be cancelled."))),
            None => Ok(Response::json(200, self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_sdk::sql::{Value, from_row};

    use super::*;

    const ID: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";

    fn task() -> TaskDue {
        TaskDue {
            title: "Water the plants".to_owned(),
            due_date: Some("2026-02-10".to_owned()),
            due_time: "10:00:00".to_owned(),
            completed: false,
            version: 1,
            now: "2026-02-10T09:00:00Z".parse().unwrap(),
        }
    }

    fn remind_at(task: &TaskDue, lead: &str) -> Result<String, (u16, String)> {
        let time = task.remind_at(&lead.parse().unwrap());
        time.map(|time| time.to_string()).map_err(|problem| {
            let errors: Vec<String> = problem.errors().iter().map(|error| format!("{} {}", error.field, error.message)).collect();
            (problem.status(), errors.join("; "))
        })
    }

    #[test]
    fn a_task_without_a_time_is_due_at_ten() {
        assert_eq!(remind_at(&task(), "30min").unwrap(), "2026-02-10T09:30:00Z");
        assert_eq!(remind_at(&TaskDue { due_time: "23:59:00".into(), ..task() }, "2h").unwrap(), "2026-02-10T21:59:00Z");
    }

    #[test]
    fn a_reminder_that_can_not_come_is_told_why() {
        let bare = remind_at(&TaskDue { due_date: None, ..task() }, "30min").unwrap_err();
        assert_eq!(bare, (422, "lead_time needs a task with a due_date: this one has none".to_owned()));
        let (status, message) = remind_at(&task(), "1d").unwrap_err();
        assert_eq!(status, 422);
        assert!(
            message.contains("due at 2026-02-10T10:00:00Z") && message.contains("2026-02-09T10:00:00Z, is past"),
            "{message}"
        );
        assert_eq!(remind_at(&task(), "1h").unwrap_err().0, 422, "not now either");
        assert_eq!(remind_at(&TaskDue { completed: true, ..task() }, "30min").unwrap_err().0, 409);
    }

    #[test]
    fn a_body_has_a_lead_time_and_nothing_else() {
        let read = |body: &str| lead_time(Fields::from_json(body.as_bytes()).unwrap());
        assert_eq!(read(r#"{"lead_time": "PT30M"}"#).unwrap().seconds(), 1_800);
        for (body, fields) in [
            ("{}", vec!["lead_time"]),
            (r#"{"lead_time": null}"#, vec!["lead_time"]),
            (r#"{"lead_time": 30}"#, vec!["lead_time"]),
            (r#"{"lead_time": "0min", "leadtime": 1}"#, vec!["lead_time", "leadtime"]),
        ] {
            let problem = read(body).unwrap_err();
            let named: Vec<&str> = problem.errors().iter().map(|error| error.field.as_str()).collect();
            assert_eq!((problem.status(), named), (422, fields), "{body}");
        }
    }

    #[test]
    fn a_state_is_one_of_three() {
        assert_eq!(state("pending".into()).unwrap(), "PENDING");
        assert!(state("DONE".into()).unwrap_err().contains("PENDING, TRIGGERED, CANCELLED"));
    }

    #[test]
    fn a_row_is_shown_with_every_field() {
        let row = [
            ("id", Value::Uuid(ID.into())),
            ("task_id", Value::Uuid(ID.into())),
            ("lead_time", Value::Text("30min".into())),
            ("remind_at", Value::Timestamp(1_770_715_800_000_000)),
            ("state", Value::Text("PENDING".into())),
            ("created_at", Value::Timestamp(0)),
            ("triggered_at", Value::Null),
            ("cancelled_at", Value::Null),
            ("others", Value::Integer(3)),
        ];
        let (columns, values): (Vec<String>, Vec<Value>) = row.into_iter().map(|(name, value)| (name.to_owned(), value)).unzip();
        let set: crate::reminders::SetRow = from_row(&columns, values).unwrap();
        assert_eq!(set.others, 3);
        assert_eq!(
            serde_json::to_value(&set.reminder).unwrap(),
            json!({
                "id": ID, "task_id": ID, "lead_time": "30min", "remind_at": "2026-02-10T09:30:00Z", "state": "PENDING",
                "created_at": "1970-01-01T00:00:00Z", "triggered_at": null, "cancelled_at": null,
            })
        );
        assert_eq!(set.reminder.already_over().unwrap().status, 200);
        let triggered = Reminder { triggered_at: Some(Timestamp::from_micros(0)), ..set.reminder };
        assert_eq!(triggered.already_over().unwrap_err().status(), 409);
    }
}
