//! The product that ships, along its main path: request, row, event, audit row, history.

use serde_json::{Value as Json, json};

use crate::support::http::has_all;
use crate::support::records::{self, Record};
use crate::support::{Answer, Kind, World, eventually, on_both_brokers};

on_both_brokers!(a_task_travels_through_request_row_event_and_audit);

/// Where tasks are told of.
pub const TOPIC: &str = "todo.task-events";
/// Where their changes are told of.
pub const UPDATES: &str = "todo.task-updates";

/// A request of a user.
pub async fn call(world: &World, user: &str, method: &str, path: &str, body: Option<Json>) -> Answer {
    let mut request = world.request(user, method, path);
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::read(request.send().await.unwrap()).await
}

/// Creates a task and returns it.
pub async fn create(world: &World, user: &str, body: Json) -> Json {
    let answer = call(world, user, "POST", "/api/tasks", Some(body)).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body
}

/// The path of a task.
pub fn path(task: &Json, rest: &str) -> String {
    format!("/api/tasks/{}{rest}", task["id"].as_str().unwrap())
}

/// The records of a task's events, once there are this many.
pub async fn events_of(world: &World, task: &Json, count: usize) -> Vec<Record> {
    events_in(world, TOPIC, task, count).await
}

/// The records of a task's events in a topic, once there are this many.
pub async fn events_in(world: &World, topic: &str, task: &Json, count: usize) -> Vec<Record> {
    eventually("the task's events are in the topic", async || {
        let mut records = records::all(&world.broker.address(), topic).await;
        records.retain(|record| record.json()["data"]["task_id"] == task["id"]);
        (records.len() >= count).then_some(records)
    })
    .await
}

/// The number of a task's audit rows, once there are at least this many.
pub async fn audited(world: &World, task: &Json, count: usize) -> i64 {
    let id = task["id"].as_str().unwrap();
    let query = format!("SELECT count(*) FROM todo.audit_log WHERE task_id = '{id}'");
    eventually("the task's events are audited", async || Some(world.count(&query).await).filter(|&rows| rows >= count as i64))
        .await
}

/// Waits until everything published so far has been handled: the audit row of one more event of the same user is there.
pub async fn settled(world: &World, user: &str) {
    let mark = create(world, user, json!({ "title": "mark" })).await;
    audited(world, &mark, 1).await;
}

async fn a_task_travels_through_request_row_event_and_audit(kind: Kind) {
    let world = World::with_todo(kind).await;
    let body = json!({
        "title": "  Water the plants ", "description": "All of them", "priority": "high", "tags": ["home", "green"],
        "due_date": "2030-02-28", "recurrence": "weekly",
    });
    let request = world.request("alice", "POST", "/api/tasks").header("x-correlation-id", "trace-1").json(&body);
    let answer = Answer::read(request.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.header("x-correlation-id")), (201, Some("trace-1")), "{answer:?}");
    let task = answer.body;
    assert_eq!((&task["title"], &task["completed"]), (&json!("Water the plants"), &json!(false)), "{task}");
    assert_eq!(call(&world, "alice", "GET", &path(&task, ""), None).await.body, task);

    let records = events_of(&world, &task, 1).await;
    assert_eq!((records.len(), records[0].key.as_deref()), (1, Some("alice")), "keyed by the user id");
    assert_eq!(records[0].header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
    let event = records[0].json();
    let envelope = ["specversion", "source", "type", "correlationid"].map(|name| event[name].as_str().unwrap_or_default());
    assert_eq!(envelope, ["1.0", "todo-backend", "task.created", "trace-1"]);
    let id: uuid::Uuid = event["id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert!(event["time"].as_str().is_some_and(|time| time.ends_with('Z') && time.contains('T')), "{event}");
    let expected = json!({
        "task_id": task["id"], "user_id": "alice", "title": "Water the plants", "description": "All of them", "priority": "high",
        "tags": ["home", "green"], "due_date": "2030-02-28", "recurrence": "weekly", "created_at": task["created_at"],
    });
    has_all(&event["data"], &expected);

    assert_eq!(audited(&world, &task, 1).await, 1);
    let history = eventually("the history tells of it", async || {
        let answer = call(&world, "alice", "GET", &path(&task, "/history"), None).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body["items"].as_array().filter(|items| !items.is_empty()).cloned()
    })
    .await;
    assert_eq!(history.len(), 1);
    assert!(history[0].to_string().contains("task.created"), "{history:?}");
    settled(&world, "alice").await;
    assert_eq!(audited(&world, &task, 1).await, 1, "exactly one audit row");
    world.until_outbox_is_empty().await;
}

#[tokio::test]
async fn absent_optional_fields_are_null_in_the_event_and_never_missing() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "bare" })).await;
    let data = events_of(&world, &task, 1).await[0].json()["data"].clone();
    has_all(&data, &json!({ "description": null, "due_date": null, "recurrence": null, "tags": [], "priority": "medium" }));
}

#[tokio::test]
async fn completing_twice_publishes_once() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "once", "due_date": "2030-01-31", "recurrence": "monthly" })).await;
    let first = call(&world, "alice", "POST", &path(&task, "/complete"), None).await;
    assert_eq!((first.status, &first.body["completed"]), (200, &json!(true)), "{first:?}");
    let second = call(&world, "alice", "POST", &path(&task, "/complete"), None).await;
    assert_eq!((second.status, &second.body), (200, &first.body), "the second changes nothing");
    settled(&world, "alice").await;
    let records = events_of(&world, &task, 2).await;
    let types: Vec<_> = records.iter().map(|record| record.json()["type"].clone()).collect();
    assert_eq!(types, ["task.created", "task.completed"]);
    let expected = json!({
        "task_id": task["id"], "user_id": "alice", "title": "once", "recurrence": "monthly", "due_date": "2030-01-31",
        "completed_at": first.body["completed_at"],
    });
    has_all(&records[1].json()["data"], &expected);
    assert_eq!(audited(&world, &task, 2).await, 2);
}

#[tokio::test]
async fn a_deleted_task_is_gone_but_its_history_stays() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "short-lived" })).await;
    let deleted = call(&world, "alice", "DELETE", &path(&task, ""), None).await;
    assert!((200..300).contains(&deleted.status), "{deleted:?}");
    for (method, rest) in [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/complete"), ("POST", "/reopen")] {
        assert_eq!(call(&world, "alice", method, &path(&task, rest), Some(json!({}))).await.status, 404, "{method} {rest}");
    }
    let list = call(&world, "alice", "GET", "/api/tasks", None).await;
    assert_eq!(list.body["items"], json!([]));
    let records = events_of(&world, &task, 2).await;
    let event = records[1].json();
    assert_eq!(event["type"], "task.deleted");
    has_all(&event["data"], &json!({ "task_id": task["id"], "user_id": "alice", "title": "short-lived" }));
    assert!(event["data"]["deleted_at"].is_string());
    audited(&world, &task, 2).await;
    let history = call(&world, "alice", "GET", &path(&task, "/history"), None).await;
    assert_eq!((history.status, history.body["items"].as_array().map(Vec::len)), (200, Some(2)), "{history:?}");
}

#[tokio::test]
async fn c21_a_user_sees_only_its_own() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "private" })).await;
    let other = create(&world, "bob", json!({ "title": "public" })).await;
    audited(&world, &task, 1).await;
    let routes = [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/complete"), ("POST", "/reopen"), ("GET", "/history")];
    for (method, rest) in routes {
        let answer = call(&world, "bob", method, &path(&task, rest), Some(json!({ "title": "stolen" }))).await;
        assert_eq!((answer.status, answer.text.contains("private")), (404, false), "{method} {rest}: {answer:?}");
    }
    let list = call(&world, "bob", "GET", "/api/tasks", None).await;
    assert_eq!((list.status, &list.body["items"]), (200, &json!([other])), "{list:?}");
    let found = call(&world, "bob", "GET", "/api/tasks?text=private", None).await;
    assert_eq!((found.status, &found.body["items"]), (200, &json!([])), "{found:?}");
    assert!(list.body.as_object().unwrap().contains_key("next_cursor"), "{list:?}");
    let task = call(&world, "alice", "GET", &path(&task, ""), None).await;
    assert_eq!((task.status, &task.body["completed"]), (200, &json!(false)));
    // Not even the handler's own role sees rows without a subject.
    let sql = world.sql().await;
    sql.batch_execute(&format!("SET ROLE \"{}_h_task_api\"", world.database.name)).await.unwrap();
    assert_eq!(sql.query_one("SELECT count(*) FROM todo.tasks", &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn what_a_caller_got_wrong_is_a_problem_that_names_every_wrong_field() {
    let world = World::with_todo(Kind::Embedded).await;
    let raw = world.request("alice", "POST", "/api/tasks").header("content-type", "application/json").body("{\"title\": ");
    let answer = Answer::read(raw.send().await.unwrap()).await;
    assert!((400..500).contains(&answer.status) && !answer.problem().is_empty(), "{answer:?}");
    let wrong =
        json!({ "title": "   ", "priority": "urgent", "tags": ["a", "a"], "due_date": "2030-02-30", "recurrence": "hourly" });
    let answer = call(&world, "alice", "POST", "/api/tasks", Some(wrong)).await;
    assert!([400, 422].contains(&answer.status) && !answer.problem().is_empty(), "{answer:?}");
    for field in ["title", "priority", "tags", "due_date", "recurrence"] {
        assert!(answer.text.contains(field), "`{field}` is not named: {}", answer.text);
    }
    for body in [json!([]), json!("text"), json!({}), json!({ "title": 7 }), json!({ "title": "x".repeat(201) })] {
        let answer = call(&world, "alice", "POST", "/api/tasks", Some(body)).await;
        assert!(
            (400..500).contains(&answer.status) && answer.text.contains("title") | !answer.problem().is_empty(),
            "{answer:?}"
        );
    }
    assert_eq!(call(&world, "alice", "GET", "/api/tasks/not-a-uuid", None).await.status, 404);
    assert_eq!(world.count("SELECT count(*) FROM todo.tasks").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 0);
}

#[tokio::test]
async fn every_acknowledged_task_reaches_the_audit_table_once_through_a_kill() {
    let mut world = World::with_todo(Kind::Embedded).await;
    let mut tasks = Vec::new();
    for round in 0..3 {
        for number in 0..10 {
            tasks.push(create(&world, &format!("user-{}", number % 3), json!({ "title": format!("{round}-{number}") })).await);
        }
        world.host().kill_9();
        world.start().await;
    }
    for task in &tasks {
        assert!(audited(&world, task, 1).await >= 1);
    }
    for user in 0..3 {
        settled(&world, &format!("user-{user}")).await;
    }
    for task in &tasks {
        assert_eq!(audited(&world, task, 1).await, 1);
    }
}
