//! The handler in the real engine, on a real PostgreSQL.

use serde_json::{Value, json};
use tidemill_test::{Event, Host, Outcome, Result};

const TASK: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";

/// A task of alice's, completed.
fn completed(recurrence: Option<&str>) -> Event {
    let data = json!({"task_id": TASK, "user_id": "alice", "title": "Pay the rent", "recurrence": recurrence, "due_date": "2027-01-31",
        "completed_at": "2027-01-30T08:00:00Z", "description": null, "priority": "high", "tags": ["home"], "due_time": null,
        "series_id": TASK, "anchor_day": 31});
    Event::new("task.completed").source("todo-backend").time("2027-01-30T08:00:00Z").data(data).key("alice")
}

#[test]
fn c04_a_completed_task_that_recurs_has_one_next_task_and_tells_of_it_once() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    // The same completion twice, under two ids: the inbox lets both through, the table keeps one.
    let outcomes = host.deliver("todo.task-events", [completed(Some("monthly")), completed(Some("monthly"))])?;
    assert_eq!(outcomes, [Outcome::Handled, Outcome::Handled]);
    let rows = host.rows("SELECT id, user_id, title, due_date, anchor_day, previous_task_id FROM tasks")?;
    assert_eq!(rows.len(), 1, "{rows:?}");
    for (column, value) in [("due_date", json!("2027-02-28")), ("anchor_day", json!(31)), ("previous_task_id", json!(TASK))] {
        assert_eq!(rows[0][column], value, "{column}");
    }
    let published = host.published()?;
    assert_eq!(published.len(), 1, "{published:?}");
    assert_eq!((published[0].topic.as_str(), published[0].key.as_deref()), ("todo.task-events", Some("alice")));
    let event = &published[0].event;
    assert_eq!((&event["type"], &event["data"]["task_id"]), (&json!("task.created"), &rows[0]["id"]));
    assert_eq!(host.published()?, [], "taken once");
    Ok(())
}

#[test]
fn a_task_that_does_not_recur_leaves_nothing() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    assert_eq!(host.deliver("todo.task-events", [completed(None)])?, [Outcome::Handled]);
    assert_eq!(host.rows("SELECT * FROM tasks")?, Vec::<Value>::new());
    assert_eq!(host.published()?, []);
    Ok(())
}
