//! What happens to tasks, as events. Absent optional values are null, never missing.

use serde::Serialize;
use tidemill_sdk::{EventData, Timestamp, Uuid};

use crate::task::TaskRow;

const SOURCE: &str = "todo-backend";
const TASK_EVENTS: &str = "todo.task-events";

/// A task was created.
#[derive(Debug, Serialize)]
pub(crate) struct TaskCreated<'a> {
    task_id: Uuid,
    user_id: &'a str,
    title: &'a str,
    description: Option<&'a str>,
    priority: &'a str,
    tags: &'a [String],
    due_date: Option<&'a str>,
    recurrence: Option<&'a str>,
    created_at: Timestamp,
}

/// A task was completed. Carries what its next task needs, since the row may be gone when that is made.
#[derive(Debug, Serialize)]
pub(crate) struct TaskCompleted<'a> {
    task_id: Uuid,
    user_id: &'a str,
    title: &'a str,
    recurrence: Option<&'a str>,
    due_date: Option<&'a str>,
    completed_at: Timestamp,
    description: Option<&'a str>,
    priority: &'a str,
    tags: &'a [String],
    due_time: Option<&'a str>,
    series_id: Option<Uuid>,
    anchor_day: Option<i16>,
}

/// A task was deleted.
#[derive(Debug, Serialize)]
pub(crate) struct TaskDeleted<'a> {
    pub(crate) task_id: Uuid,
    pub(crate) user_id: &'a str,
    pub(crate) title: &'a str,
    pub(crate) deleted_at: Timestamp,
}

impl<'a> TaskCreated<'a> {
    /// The event of a task just inserted.
    pub(crate) fn of(task: &'a TaskRow) -> Self {
        Self {
            task_id: task.id,
            user_id: &task.user_id,
            title: &task.title,
            description: task.description.as_deref(),
            priority: &task.priority,
            tags: &task.tags,
            due_date: task.due_date.as_deref(),
            recurrence: task.recurrence.as_deref(),
            created_at: task.created_at,
        }
    }
}

impl<'a> TaskCompleted<'a> {
    /// The event of a task just completed.
    pub(crate) fn of(task: &'a TaskRow, completed_at: Timestamp) -> Self {
        Self {
            task_id: task.id,
            user_id: &task.user_id,
            title: &task.title,
            recurrence: task.recurrence.as_deref(),
            due_date: task.due_date.as_deref(),
            completed_at,
            description: task.description.as_deref(),
            priority: &task.priority,
            tags: &task.tags,
            due_time: task.due_time.as_deref(),
            series_id: task.series_id,
            anchor_day: task.anchor_day,
        }
    }
}

macro_rules! task_events {
    ($($event:ident = $type:literal at $time:ident;)*) => {$(
        impl EventData for $event<'_> {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = TASK_EVENTS;
            const SOURCE: &'static str = SOURCE;

            /// A user's events keep their order.
            fn key(&self) -> Option<&str> {
                Some(self.user_id)
            }

            fn time(&self) -> Option<Timestamp> {
                Some(self.$time)
            }
        }
    )*};
}

task_events! {
    TaskCreated = "task.created" at created_at;
    TaskCompleted = "task.completed" at completed_at;
    TaskDeleted = "task.deleted" at deleted_at;
}

#[cfg(test)]
mod tests {
    use serde_json::{json, to_value};

    use super::*;
    use crate::task::tests::{ID, plain};

    #[test]
    fn task_created_has_every_field_and_its_nulls() {
        let task = plain();
        let event = TaskCreated::of(&task);
        assert_eq!(
            (TaskCreated::TYPE, TaskCreated::TOPIC, TaskCreated::SOURCE),
            ("task.created", "todo.task-events", "todo-backend")
        );
        assert_eq!((event.key(), event.time()), (Some("alice"), Some(task.created_at)));
        assert_eq!(
            to_value(&event).unwrap(),
            json!({
                "task_id": ID, "user_id": "alice", "title": "Water the plants", "description": null, "priority": "medium", "tags": [],
                "due_date": null, "recurrence": null, "created_at": "2026-02-10T09:30:00Z",
            })
        );
    }

    #[test]
    fn task_completed_carries_what_the_next_task_needs() {
        let task = TaskRow {
            due_date: Some("2026-01-31".into()),
            due_time: Some("10:00".into()),
            recurrence: Some("monthly".into()),
            tags: vec!["home".into()],
            series_id: Some(Uuid::nil()),
            anchor_day: Some(31),
            ..plain()
        };
        let time = task.created_at;
        assert_eq!(
            to_value(TaskCompleted::of(&task, time)).unwrap(),
            json!({
                "task_id": ID, "user_id": "alice", "title": "Water the plants", "recurrence": "monthly", "due_date": "2026-01-31",
                "completed_at": "2026-02-10T09:30:00Z", "description": null, "priority": "medium", "tags": ["home"],
                "due_time": "10:00", "series_id": Uuid::nil(), "anchor_day": 31,
            })
        );
        assert_eq!(TaskCompleted::TYPE, "task.completed");
    }

    #[test]
    fn task_deleted_has_every_field() {
        let task = plain();
        let event = TaskDeleted { task_id: task.id, user_id: &task.user_id, title: &task.title, deleted_at: task.created_at };
        assert_eq!(
            to_value(&event).unwrap(),
            json!({"task_id": ID, "user_id": "alice", "title": "Water the plants", "deleted_at": "2026-02-10T09:30:00Z"})
        );
        assert_eq!(TaskDeleted::TYPE, "task.deleted");
    }
}
