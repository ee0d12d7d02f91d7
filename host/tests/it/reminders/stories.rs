//! The product's whole scenario, told as its four stories, one after the other in one running product.

use std::collections::BTreeMap;

use super::*;
use crate::support::host::succeeded;
use crate::todo::{self, events_of};

on_both_brokers!(the_whole_scenario_in_four_stories);

async fn the_whole_scenario_in_four_stories(kind: Kind) {
    let world = World::todo(kind).await.env("TIDEMILL_ACTOR", "ann").started().await;
    let task = created_and_audited(&world).await;
    completed_and_followed(&world, &task).await;
    reminded_in_time(&world).await;
    failed_and_replayed(&world).await;
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0);
}

/// The types of the events that the trail has of a task.
async fn trail(world: &World, task: &Json, count: usize) -> Vec<String> {
    todo::audited(world, task, count).await;
    let history = call(world, "alice", "GET", &path(task, "/history"), None).await.body;
    history["items"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap().to_owned()).collect()
}

/// 1. A task is created, told of, and audited.
async fn created_and_audited(world: &World) -> Json {
    let body = json!({ "title": "Pay the rent", "due_date": day(2), "recurrence": "weekly", "tags": ["home"] });
    let task = create(world, "alice", body).await;
    let records = events_of(world, &task, 1).await;
    assert_eq!((records.len(), &records[0].json()["type"]), (1, &json!("task.created")));
    assert_eq!(trail(world, &task, 1).await, ["task.created"]);
    task
}

/// 2. It is completed: that is audited, the next task is there, and its reminder is cancelled with its job.
async fn completed_and_followed(world: &World, task: &Json) {
    let reminder = set(world, "alice", task, "1h").await;
    assert_eq!(call(world, "alice", "POST", &path(task, "/complete"), None).await.status, 200);
    assert_eq!(trail(world, task, 2).await, ["task.created", "task.completed"]);
    let next = eventually("the next task is listed", async || {
        let open = call(world, "alice", "GET", "/api/tasks?status=open", None).await.body;
        open["items"].as_array().filter(|items| !items.is_empty()).cloned()
    })
    .await;
    assert_eq!((next.len(), &next[0]["title"], &next[0]["due_date"]), (1, &json!("Pay the rent"), &json!(day(9))));
    assert_eq!(trail(world, &next[0], 1).await, ["task.created"]);
    until_state(world, &reminder, "CANCELLED").await;
    assert_eq!((job(world, &reminder).await, told(world, &reminder).await.len()), (None, 0));
}

/// 3. A reminder is set, fires at its time, and is TRIGGERED.
async fn reminded_in_time(world: &World) {
    let task = dated(world, "alice", "Call Bob").await;
    let reminder = set_soon(world, "alice", &task, 3).await;
    assert_eq!(reminder["state"], json!("PENDING"));
    until_state(world, &reminder, "TRIGGERED").await;
    let records = told(world, &reminder).await;
    assert_eq!(records.len(), 1);
    assert!(records[0].timestamp.unwrap() >= time(&reminder["remind_at"]).as_millisecond(), "never early");
    assert_eq!(trail(world, &task, 2).await, ["task.created", "reminder.triggered"]);
}

/// 4. A consumer fails: again after 1 s, 2 s and 4 s, then a dead letter; replayed, it has its effect.
async fn failed_and_replayed(world: &World) {
    let sql = world.sql().await;
    let broken = "ALTER TABLE todo.audit_log ADD CONSTRAINT broken CHECK (user_id <> 'carol') NOT VALID";
    sql.batch_execute(broken).await.unwrap();
    let task = create(world, "carol", json!({ "title": "unlucky" })).await;
    let mut waits = BTreeMap::new();
    eventually("the event is given up", async || {
        let waiting = "SELECT attempts, extract(epoch FROM due - failed_at)::float8 FROM tidemill.waiting WHERE claim IS NULL AND due IS NOT NULL";
        for row in sql.query(waiting, &[]).await.unwrap() {
            waits.insert(row.get::<_, i32>(0), row.get::<_, f64>(1));
        }
        (world.count("SELECT count(*) FROM tidemill.dead_letters").await == 1).then_some(())
    })
    .await;
    assert_eq!(waits.len(), 3, "{waits:?}");
    for (attempt, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0)] {
        // Both times are rounded to microseconds.
        assert!((seconds - 0.001..=seconds * 1.1 + 0.001).contains(&waits[&attempt]), "{waits:?}");
    }
    let letter = "SELECT consumer_group || ' ' || attempts || ' ' || type FROM tidemill.dead_letters WHERE state = 'dead'";
    let letter: String = sql.query_one(letter, &[]).await.unwrap().get(0);
    assert_eq!(letter, "audit-consumer 4 task.created");
    world.until_outbox_is_empty().await;
    assert_eq!(records::all(&world.broker.address(), "todo.task-events.dlq").await.len(), 1);

    sql.batch_execute("ALTER TABLE todo.audit_log DROP CONSTRAINT broken").await.unwrap();
    succeeded(world.tool(&["dlq", "replay", "--key", "carol", "--yes"]).finish().await);
    assert_eq!(todo::audited(world, &task, 1).await, 1);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters WHERE state = 'replayed'").await, 1);
}
