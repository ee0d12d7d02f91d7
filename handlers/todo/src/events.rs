//! The event that more than one handler publishes. Absent optional values are null, never missing.

use serde::Serialize;
use tidemill_sdk::{EventData, Timestamp, Uuid};

/// CloudEvents `source` of the product's events.
pub const SOURCE: &str = "todo-backend";
/// The topic of `task.created`, `task.completed` and `task.deleted`.
pub const TASK_EVENTS: &str = "todo.task-events";
/// The topic of `task.updated`.
pub const TASK_UPDATES: &str = "todo.task-updates";

/// A task was created: by a user, or by the completion of the one before it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaskCreated<'a> {
    /// CloudEvents `id`, where it follows from what caused the event; `None`: a new one.
    #[serde(skip)]
    pub event_id: Option<Uuid>,
    /// The task.
    pub task_id: Uuid,
    /// Whose it is, and the record's key.
    pub user_id: &'a str,
    /// Its title.
    pub title: &'a str,
    /// Its description.
    pub description: Option<&'a str>,
    /// `low`, `medium` or `high`.
    pub priority: &'a str,
    /// Its tags.
    pub tags: &'a [String],
    /// `YYYY-MM-DD`
    pub due_date: Option<&'a str>,
    /// The name of a [`Rule`](crate::calendar::Rule).
    pub recurrence: Option<&'a str>,
    /// When, and the event's time.
    pub created_at: Timestamp,
    /// `HH:MM`, in UTC.
    pub due_time: Option<&'a str>,
    /// The first task of its series, for a task that follows another.
    pub series_id: Option<Uuid>,
    /// The task that it follows.
    pub previous_task_id: Option<Uuid>,
}

impl EventData for TaskCreated<'_> {
    const TYPE: &'static str = "task.created";
    const TOPIC: &'static str = TASK_EVENTS;
    const SOURCE: &'static str = SOURCE;

    /// A user's events keep their order.
    fn key(&self) -> Option<&str> {
        Some(self.user_id)
    }

    fn time(&self) -> Option<Timestamp> {
        Some(self.created_at)
    }

    fn id(&self) -> Option<Uuid> {
        self.event_id
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;

    #[test]
    fn task_created_has_every_field_and_its_nulls() {
        let id = Uuid::from_u128(1);
        let time: Timestamp = "2026-02-10T09:30:00Z".parse().unwrap();
        let event = TaskCreated {
            event_id: Some(Uuid::from_u128(2)),
            task_id: id,
            user_id: "alice",
            title: "Water the plants",
            description: None,
            priority: "medium",
            tags: &[],
            due_date: None,
            recurrence: None,
            created_at: time,
            due_time: None,
            series_id: None,
            previous_task_id: None,
        };
        assert_eq!(
            (TaskCreated::TYPE, TaskCreated::TOPIC, TaskCreated::SOURCE),
            ("task.created", "todo.task-events", "todo-backend")
        );
        assert_eq!((event.key(), event.time(), event.id()), (Some("alice"), Some(time), Some(Uuid::from_u128(2))));
        assert_eq!(
            to_value(&event).unwrap(),
            json!({
                "task_id": id, "user_id": "alice", "title": "Water the plants", "description": null, "priority": "medium", "tags": [],
                "due_date": null, "recurrence": null, "created_at": "2026-02-10T09:30:00Z",
                "due_time": null, "series_id": null, "previous_task_id": null,
            })
        );
    }
}
