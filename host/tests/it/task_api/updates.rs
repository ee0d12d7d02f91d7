//! PATCH and reopen: what they change, what they tell, and what they refuse.

use serde_json::{Value as Json, json};

use super::{patch, wrong};
use crate::support::http::has_all;
use crate::support::{Answer, Kind, World, eventually, on_both_brokers};
use crate::todo::{UPDATES, audited, call, create, events_in, path};

on_both_brokers!(a_patch_changes_what_it_names_and_tells_just_that);

/// The updates of a task that were told, once there are this many.
async fn updates(world: &World, task: &Json, count: usize) -> Vec<Json> {
    events_in(world, UPDATES, task, count).await.iter().map(|record| record.json()).collect()
}

async fn a_patch_changes_what_it_names_and_tells_just_that(kind: Kind) {
    let world = World::with_todo(kind).await;
    let body = json!({
        "title": "Water the plants", "description": "All of them", "priority": "high", "tags": ["home"], "due_date": "2030-02-28",
        "due_time": "10:00", "recurrence": "weekly",
    });
    let task = create(&world, "alice", body).await;
    let change =
        json!({ "title": " Feed the cat ", "description": null, "priority": "high", "tags": ["home", "cat"], "due_time": null });
    let answer = patch(&world, &task, &change).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let mut expected = task.clone();
    (expected["title"], expected["description"], expected["due_time"]) = (json!("Feed the cat"), Json::Null, Json::Null);
    (expected["tags"], expected["version"]) = (json!(["home", "cat"]), json!(2));
    expected["updated_at"] = answer.body["updated_at"].clone();
    assert_eq!(answer.body, expected);
    assert!(answer.body["updated_at"].as_str() > task["updated_at"].as_str());
    assert_eq!(call(&world, "alice", "GET", &path(&task, ""), None).await.body, expected);

    let event = updates(&world, &task, 1).await.remove(0);
    assert_eq!((&event["type"], &event["time"]), (&json!("task.updated"), &answer.body["updated_at"]));
    let changes = json!({ "title": "Feed the cat", "description": null, "tags": ["home", "cat"], "due_time": null });
    let data = json!({ "task_id": task["id"], "user_id": "alice", "changes": changes, "updated_at": answer.body["updated_at"] });
    assert_eq!(event["data"], data, "the priority was sent, but is what it was");
    audited(&world, &task, 2).await;
    let history = call(&world, "alice", "GET", &path(&task, "/history"), None).await;
    assert_eq!(history.body["items"][1]["data"], data, "{history:?}");
}

#[tokio::test]
async fn a_patch_that_changes_nothing_does_nothing() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "same", "tags": ["a"], "due_date": "2030-02-28" })).await;
    for body in
        [json!({}), json!({ "title": " same ", "tags": ["a"], "due_date": "2030-02-28", "description": null, "priority": null })]
    {
        let answer = patch(&world, &task, &body).await;
        assert_eq!((answer.status, &answer.body), (200, &task), "{body}");
    }
    let answer = patch(&world, &task, &json!({ "tags": [] })).await;
    assert_eq!((answer.status, &answer.body["version"]), (200, &json!(2)), "{answer:?}");
    assert_eq!(updates(&world, &task, 1).await.len(), 1, "one update, one event");
}

#[tokio::test]
async fn what_is_wrong_with_a_patch_is_told_by_field_and_nothing_changes() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "stays", "due_date": "2030-02-28", "due_time": "10:00" })).await;
    let body = json!({
        "title": null, "description": 7, "priority": "urgent", "tags": ["a", "a"], "due_date": "2030-02-30", "due_time": "noon",
        "recurrence": "hourly", "completed": true, "dueDate": "2030-03-01",
    });
    let answer = patch(&world, &task, &body).await;
    assert_eq!((answer.status, answer.problem()), (422, "invalid-fields"), "{answer:?}");
    let fields = ["title", "description", "priority", "tags", "due_date", "due_time", "recurrence", "completed", "dueDate"];
    assert_eq!(wrong(&answer), fields);
    for (body, field) in
        [(json!({ "due_date": null }), "due_date"), (json!({ "due_date": null, "due_time": "11:00" }), "due_time")]
    {
        let answer = patch(&world, &task, &body).await;
        assert_eq!((answer.status, wrong(&answer)), (422, vec![field]), "{answer:?}");
    }
    for (media, body, status) in [
        ("application/json", "{\"title\": ", 400),
        ("application/json", "[]", 422),
        ("application/json-patch+json", "[]", 415),
        ("application/x-www-form-urlencoded", "{\"title\": \"new\"}", 415),
    ] {
        let request = world.request("alice", "PATCH", &path(&task, "")).header("content-type", media).body(body);
        let answer = Answer::read(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem().is_empty()), (status, false), "{media} {body}: {answer:?}");
    }
    assert_eq!(call(&world, "alice", "GET", &path(&task, ""), None).await.body, task);
    assert_eq!(world.count("SELECT count(*) FROM todo.audit_log WHERE type = 'task.updated'").await, 0);
}

#[tokio::test]
async fn a_reopened_task_is_open_again_and_told_once() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "again" })).await;
    let reopen = async || call(&world, "alice", "POST", &path(&task, "/reopen"), None).await;
    let untouched = reopen().await;
    assert_eq!((untouched.status, &untouched.body), (200, &task), "an open task stays as it is");
    assert_eq!(call(&world, "alice", "POST", &path(&task, "/complete"), None).await.status, 200);
    let first = reopen().await;
    has_all(&first.body, &json!({ "completed": false, "completed_at": null, "version": 3 }));
    assert_eq!(reopen().await.body, first.body);
    let updates = updates(&world, &task, 1).await;
    assert_eq!(updates.len(), 1);
    assert_eq!(updates[0]["data"]["changes"], json!({ "completed": false, "completed_at": null }));
    assert_eq!(audited(&world, &task, 3).await, 3, "created, completed, updated");
}

/// The due date of the one task that follows a task.
async fn next_due_date(world: &World, task: &Json) -> String {
    let query = "SELECT due_date::text FROM todo.tasks WHERE previous_task_id = $1::text::uuid";
    let id = task["id"].as_str().unwrap();
    eventually("there is a next task", async || world.sql().await.query_opt(query, &[&id]).await.unwrap().map(|row| row.get(0)))
        .await
}

#[tokio::test]
async fn a_new_due_date_is_where_the_series_goes_on() {
    let world = World::with_todo(Kind::Embedded).await;
    // 30 April is where the anchor of 31 January would put it, too; chosen anew it is a 30th of its own.
    for (change, next) in [
        (json!({ "title": "new" }), "2030-03-31"),
        (json!({ "due_date": "2030-02-15" }), "2030-03-15"),
        (json!({ "due_date": "2030-04-30" }), "2030-05-30"),
    ] {
        let first = create(&world, "alice", json!({ "title": "rent", "due_date": "2030-01-31", "recurrence": "monthly" })).await;
        call(&world, "alice", "POST", &path(&first, "/complete"), None).await;
        assert_eq!(next_due_date(&world, &first).await, "2030-02-28");
        let query = format!("SELECT id::text FROM todo.tasks WHERE previous_task_id = '{}'", first["id"].as_str().unwrap());
        let second = json!({ "id": world.sql().await.query_one(&query, &[]).await.unwrap().get::<_, String>(0) });
        assert_eq!(patch(&world, &second, &change).await.status, 200);
        call(&world, "alice", "POST", &path(&second, "/complete"), None).await;
        assert_eq!(next_due_date(&world, &second).await, next, "{change}");
    }
}
