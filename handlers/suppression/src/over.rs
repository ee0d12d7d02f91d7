//! The end of a task, as an event tells it.

use serde::Deserialize;
use tidemill_sdk::{Event, Failure, Timestamp, Uuid};

/// A task that was completed or deleted.
#[derive(Debug, PartialEq)]
pub(crate) struct Over {
    pub(crate) task_id: Uuid,
    /// When, by the clock of the host that answered the user.
    pub(crate) at: Timestamp,
    /// The version that made the task; absent where the publisher knows the schema alone. It is exact where clocks may differ.
    pub(crate) version: Option<i32>,
}

/// `task.completed` or `task.deleted`.
#[derive(Deserialize)]
struct Data {
    task_id: Uuid,
    completed_at: Option<Timestamp>,
    deleted_at: Option<Timestamp>,
    version: Option<i32>,
}

impl Over {
    /// Reads an event; rejects it, by name, if it does not say what is over since when.
    pub(crate) fn read(event: &Event) -> Result<Self, Failure> {
        let Data { task_id, completed_at, deleted_at, version } = event.data()?;
        let (name, at) = match event.event_type() {
            "task.deleted" => ("deleted_at", deleted_at),
            _ => ("completed_at", completed_at),
        };
        let at = at.ok_or_else(|| event.reject_data(format!("missing field `{name}`")))?;
        if !at.is_storable() {
            return Err(event.reject_data(format!("{name} is no time that a task can have")));
        }
        Ok(Self { task_id, at, version })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_sdk::testing;

    use super::*;

    const TASK: Uuid = Uuid::from_u128(7);
    const TIME: &str = "2026-02-10T09:30:00Z";

    #[test]
    fn the_end_of_a_task_has_a_time_and_may_have_a_version() {
        let completed = testing::event(0, "task.completed", &json!({ "task_id": TASK, "completed_at": TIME, "version": 3 }));
        let deleted = testing::event(1, "task.deleted", &json!({ "task_id": TASK, "deleted_at": TIME, "title": "a" }));
        let at = TIME.parse().unwrap();
        assert_eq!(Over::read(&completed).unwrap(), Over { task_id: TASK, at, version: Some(3) });
        assert_eq!(Over::read(&deleted).unwrap(), Over { task_id: TASK, at, version: None });
    }

    #[test]
    fn an_end_without_its_time_is_rejected_by_name() {
        let events = [
            testing::event(0, "task.completed", &json!({ "task_id": TASK, "deleted_at": TIME })),
            testing::event(1, "task.deleted", &json!({ "task_id": TASK, "completed_at": TIME })),
            testing::event(2, "task.deleted", &json!({ "task_id": TASK, "deleted_at": "soon" })),
            testing::event(3, "task.deleted", &json!({ "deleted_at": TIME })),
            testing::event(4, "task.deleted", &json!({ "task_id": TASK, "deleted_at": TIME, "version": "new" })),
            testing::event(5, "task.deleted", &json!({ "task_id": TASK, "deleted_at": "-009998-01-01T00:00:00Z" })),
        ];
        let failure = Failure::collect(&events, Over::read).unwrap_err();
        assert_eq!((failure.is_reject(), failure.events()), (true, Some(&[0, 1, 2, 3, 4, 5][..])));
        assert!(failure.message().contains("missing field `completed_at`"), "{failure}");
    }
}
