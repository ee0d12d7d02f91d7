//! What happens to tasks, as events. Absent optional values are null, never missing.

use serde::Serialize;
use serde_json::{Map, Value, json};
use tidemill_sdk::{EventData, Timestamp, Uuid};
use todo::events::{SOURCE, TASK_EVENTS, TASK_UPDATES, TaskCreated};

use crate::task::TaskRow;

/// A task was changed, or reopened.
#[derive(Debug, Serialize)]
pub(crate) struct TaskUpdated<'a> {
    pub(crate) task_id: Uuid,
    pub(crate) user_id: &'a str,
    /// The new values of what changed, and of nothing else; null where something was removed.
    pub(crate) changes: Map<String, Value>,
    pub(crate) updated_at: Timestamp,
}

/// A task was completed. Beside the fields of its schema it carries what the next task needs: by then the row may be another.
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
    /// The task's from now on: what was set for it earlier has a lower one, whatever the clocks say.
    version: i32,
}

/// A task was deleted.
#[derive(Debug, Serialize)]
pub(crate) struct TaskDeleted<'a> {
    pub(crate) task_id: Uuid,
    pub(crate) user_id: &'a str,
    pub(crate) title: &'a str,
    pub(crate) deleted_at: Timestamp,
    /// As in [`TaskCompleted`].
    pub(crate) version: i32,
}

/// The event of a task that a user has just made.
pub(crate) fn created(task: &TaskRow) -> TaskCreated<'_> {
    TaskCreated {
        event_id: None,
        task_id: task.id,
        user_id: &task.user_id,
        title: &task.title,
        description: task.description.as_deref(),
        priority: &task.priority,
        tags: &task.tags,
        due_date: task.due_date.as_deref(),
        recurrence: task.recurrence.as_deref(),
        created_at: task.created_at,
        due_time: task.due_time.as_deref(),
        series_id: None,
        previous_task_id: None,
    }
}

/// What is different after an update, by field.
pub(crate) fn changes(before: &TaskRow, after: &TaskRow) -> Map<String, Value> {
    let fields = |task: &TaskRow| {
        [
            ("title", json!(task.title)),
            ("description", json!(task.description)),
            ("priority", json!(task.priority)),
            ("tags", json!(task.tags)),
            ("due_date", json!(task.due_date)),
            ("due_time", json!(task.due_time)),
            ("recurrence", json!(task.recurrence)),
            ("completed", json!(task.completed_at.is_some())),
            ("completed_at", json!(task.completed_at)),
        ]
    };
    let changed = fields(before).into_iter().zip(fields(after)).filter(|(before, after)| before != after);
    changed.map(|(_, (name, value))| (name.to_owned(), value)).collect()
}

impl<'a> TaskUpdated<'a> {
    /// The event of a task just changed.
    pub(crate) fn of(task: &'a TaskRow, changes: Map<String, Value>) -> Self {
        Self { task_id: task.id, user_id: &task.user_id, changes, updated_at: task.updated_at }
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
            version: task.version,
        }
    }
}

macro_rules! task_events {
    ($($event:ident = $type:literal in $topic:ident at $time:ident;)*) => {$(
        impl EventData for $event<'_> {
            const TYPE: &'static str = $type;
            const TOPIC: &'static str = $topic;
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
    TaskUpdated = "task.updated" in TASK_UPDATES at updated_at;
    TaskCompleted = "task.completed" in TASK_EVENTS at completed_at;
    TaskDeleted = "task.deleted" in TASK_EVENTS at deleted_at;
}

#[cfg(test)]
mod tests {
    use serde_json::to_value;

    use super::*;
    use crate::task::tests::{ID, plain};

    #[test]
    fn task_updated_carries_what_changed_and_nothing_else() {
        let before = TaskRow { description: Some("All".into()), due_date: Some("2026-01-31".into()), ..plain() };
        assert!(changes(&before, &TaskRow { version: 2, anchor_day: Some(1), ..before.clone() }).is_empty());
        let after = TaskRow { title: "Feed the cat".into(), description: None, tags: vec!["home".into()], ..before.clone() };
        let event = TaskUpdated::of(&after, changes(&before, &after));
        assert_eq!((TaskUpdated::TYPE, TaskUpdated::TOPIC), ("task.updated", "todo.task-updates"));
        assert_eq!((event.key(), event.time()), (Some("alice"), Some(after.updated_at)));
        assert_eq!(
            to_value(&event).unwrap(),
            json!({
                "task_id": ID, "user_id": "alice", "updated_at": "2026-02-10T09:30:00Z",
                "changes": {"title": "Feed the cat", "description": null, "tags": ["home"]},
            })
        );
    }

    #[test]
    fn a_reopened_task_is_told_as_an_update() {
        let before = TaskRow { completed_at: Some(plain().created_at), ..plain() };
        assert_eq!(Value::Object(changes(&before, &plain())), json!({"completed": false, "completed_at": null}));
    }

    #[test]
    fn task_created_is_told_as_the_task_is() {
        let task = TaskRow { due_date: Some("2026-01-31".into()), due_time: Some("10:00".into()), ..plain() };
        let event = created(&task);
        assert_eq!((event.key(), event.time(), event.id()), (Some("alice"), Some(task.created_at), None));
        assert_eq!(
            to_value(&event).unwrap(),
            json!({
                "task_id": ID, "user_id": "alice", "title": "Water the plants", "description": null, "priority": "medium", "tags": [],
                "due_date": "2026-01-31", "recurrence": null, "created_at": "2026-02-10T09:30:00Z",
                "due_time": "10:00", "series_id": null, "previous_task_id": null,
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
                "due_time": "10:00", "series_id": Uuid::nil(), "anchor_day": 31, "version": 1,
            })
        );
        assert_eq!(TaskCompleted::TYPE, "task.completed");
    }

    #[test]
    fn task_deleted_has_every_field() {
        let task = plain();
        let (user_id, title) = (&task.user_id, &task.title);
        let event = TaskDeleted { task_id: task.id, user_id, title, deleted_at: task.created_at, version: 2 };
        assert_eq!(
            to_value(&event).unwrap(),
            json!({"task_id": ID, "user_id": "alice", "title": "Water the plants", "deleted_at": "2026-02-10T09:30:00Z", "version": 2})
        );
        assert_eq!(TaskDeleted::TYPE, "task.deleted");
    }
}
