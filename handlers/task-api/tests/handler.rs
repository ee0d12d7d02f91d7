//! The handler in the real engine, on a real PostgreSQL.

use serde_json::{Value, json};
use tidemill_test::{Host, Result};

#[test]
fn c01_creating_a_task_is_one_row_and_one_event_or_neither() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let body = json!({"title": " Water the plants ", "tags": ["home"]});
    let task =
        host.post("/api/tasks").user("alice").header("x-correlation-id", "c-1").json(&body).send()?.expect(201)?.value()?;
    assert_eq!(task["title"], "Water the plants");
    assert_eq!(
        host.rows("SELECT id, user_id, title FROM tasks")?,
        [json!({"id": task["id"], "user_id": "alice", "title": task["title"]})]
    );
    let published = host.published()?;
    assert_eq!(published.len(), 1, "{published:?}");
    assert_eq!((published[0].topic.as_str(), published[0].key.as_deref()), ("todo.task-events", Some("alice")));
    let event = &published[0].event;
    assert_eq!(
        (&event["type"], &event["correlationid"], &event["data"]["task_id"]),
        (&json!("task.created"), &json!("c-1"), &task["id"])
    );

    let problem = host.post("/api/tasks").user("alice").json(&json!({"title": " "})).send()?.expect(422)?.value()?;
    assert_eq!(problem["errors"][0]["field"], "title");
    assert_eq!(host.rows("SELECT count(*) AS tasks FROM tasks")?, [json!({"tasks": 1})]);
    assert_eq!(host.published()?, []);
    Ok(())
}

#[test]
fn c21_another_users_task_is_not_there() -> Result<()> {
    let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
    let task = host.post("/api/tasks").user("alice").json(&json!({"title": "mine"})).send()?.expect(201)?.value()?;
    let path = format!("/api/tasks/{}", task["id"].as_str().unwrap_or_default());
    host.get(&path).user("alice").send()?.expect(200)?;
    host.get(&path).user("bob").send()?.expect(404)?;
    host.get(&path).send()?.expect(401)?;
    let list: Value = host.get("/api/tasks").user("bob").send()?.expect(200)?.json()?;
    assert_eq!(list["items"], json!([]));
    Ok(())
}

#[test]
fn the_history_shows_what_the_audit_has_written() -> Result<()> {
    let audit = concat!(env!("CARGO_MANIFEST_DIR"), "/../audit");
    let host = Host::start_all([env!("CARGO_MANIFEST_DIR"), audit])?;
    let task = host.post("/api/tasks").user("alice").json(&json!({"title": "mine"})).send()?.expect(201)?.value()?;
    for published in host.published()? {
        host.deliver(&published.topic, [tidemill_test::Event::published(&published)])?;
    }
    let path = format!("/api/tasks/{}/history", task["id"].as_str().unwrap_or_default());
    let history = host.get(&path).user("alice").send()?.expect(200)?.value()?;
    assert_eq!(history["items"][0]["type"], "task.created", "{history}");
    Ok(())
}
