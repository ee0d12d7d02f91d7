//! The handler in the real engine, on a real PostgreSQL.

use serde_json::json;
use tidemill_test::{Event, Host, Outcome, Result};

const TASK: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";

fn created() -> Event {
    let data = json!({"task_id": TASK, "user_id": "alice", "title": "Water the plants"});
    Event::new("task.created").source("todo-backend").data(data).attribute("correlationid", "c-1").key("alice")
}

#[test]
fn c04_every_event_becomes_one_row_however_often_it_comes() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let (first, second) = (created().id("e-1"), created().id("e-2"));
    let outcomes = host.deliver("todo.task-events", [first.clone(), second, first.clone()])?;
    assert_eq!(outcomes, [Outcome::Handled, Outcome::Handled, Outcome::Duplicate]);
    assert_eq!(host.deliver("todo.task-events", [first])?, [Outcome::Duplicate]);
    let rows = host.rows("SELECT event_id, task_id, user_id, correlation_id, occurred_at FROM audit_log ORDER BY id")?;
    let row = |id: &str| json!({"event_id": id, "task_id": TASK, "user_id": "alice", "correlation_id": "c-1", "occurred_at": "2026-02-10T09:30:00+00:00"});
    assert_eq!(rows, [row("e-1"), row("e-2")]);
    assert_eq!(host.published()?, [], "the audit tells nobody");
    Ok(())
}

#[test]
fn c05_an_event_that_can_never_be_written_is_rejected_and_the_others_are_written() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let nobody = created().data(json!({"task_id": TASK, "user_id": ""}));
    let outcomes = host.deliver("todo.task-events", [created(), nobody, created()])?;
    assert_eq!((&outcomes[0], &outcomes[2]), (&Outcome::Handled, &Outcome::Handled));
    assert!(matches!(&outcomes[1], Outcome::Rejected { reason } if reason.contains("user_id is empty")), "{outcomes:?}");
    assert_eq!(host.rows("SELECT count(*) AS rows FROM audit_log")?, [json!({"rows": 2})]);
    let bytes = host.deliver_bytes("todo.task-events", &[b"hello"])?;
    assert!(matches!(&bytes[0], Outcome::Rejected { reason } if reason.contains("no JSON object")), "{bytes:?}");
    Ok(())
}

#[test]
fn an_event_of_another_type_is_not_asked_for() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    assert_eq!(host.deliver("todo.task-events", [Event::new("task.moved")])?, [Outcome::Skipped]);
    let error = host.deliver("todo.reminders", [created()]).unwrap_err().to_string();
    assert!(error.contains("todo.reminders") && error.contains("`audit` reads `todo.task-events`"), "{error}");
    Ok(())
}
