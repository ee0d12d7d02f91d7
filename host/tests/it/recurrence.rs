//! Tasks that recur: the completion of one makes the next, once.

use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::support::http::has_all;
use crate::support::{Answer, Kind, World, eventually, on_both_brokers, records};
use crate::todo::{TOPIC, audited, call, create, events_of, path};

on_both_brokers!(
    a_completed_task_that_recurs_has_one_next_task_with_all_it_needs,
    redelivery_replay_and_a_second_completion_make_no_second_next_task,
    a_race_of_completions_makes_one_next_task,
);

const GROUP: &str = "recurrence-consumer";

/// The tasks that follow a task, as rows.
async fn followers(world: &World, task: &Json) -> Vec<Json> {
    let query = "SELECT to_jsonb(t)::text FROM todo.tasks t WHERE previous_task_id = $1::text::uuid";
    let rows = world.sql().await.query(query, &[&task["id"].as_str().unwrap()]).await.unwrap();
    rows.iter().map(|row| serde_json::from_str(row.get(0)).unwrap()).collect()
}

/// The one task that follows a task, once it is there.
async fn next_of(world: &World, task: &Json) -> Json {
    let mut rows =
        eventually("there is a next task", async || Some(followers(world, task).await).filter(|rows| !rows.is_empty())).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

async fn complete(world: &World, user: &str, task: &Json) -> Json {
    let answer = call(world, user, "POST", &path(task, "/complete"), None).await;
    assert_eq!((answer.status, &answer.body["completed"]), (200, &json!(true)), "{answer:?}");
    answer.body
}

/// Waits until every earlier completion of the user is handled: events of one user keep their order.
async fn caught_up(world: &World, user: &str) {
    let mark = create(world, user, json!({ "title": "mark", "recurrence": "daily" })).await;
    complete(world, user, &mark).await;
    next_of(world, &mark).await;
    world.until_outbox_is_empty().await;
}

/// Puts the completion of a daily task into the topic, in the place of another publisher.
async fn send_completion(world: &World, partition: Option<i32>, event_id: &str, task: &str, completed_at: &str) {
    let data = json!({
        "task_id": task, "user_id": "alice", "title": "sent", "recurrence": "daily", "due_date": "2030-02-10",
        "completed_at": completed_at,
    });
    let event = records::event(event_id, "task.completed", &data);
    records::produce_event(&world.broker.address(), TOPIC, partition, "alice", &event).await;
}

async fn a_completed_task_that_recurs_has_one_next_task_with_all_it_needs(kind: Kind) {
    let world = World::with_todo(kind).await;
    let body = json!({
        "title": "Pay the rent", "description": "By bank", "priority": "high", "tags": ["home", "money"],
        "due_date": "2030-01-31", "due_time": "10:05", "recurrence": "monthly",
    });
    let first = create(&world, "alice", body.clone()).await;
    let request = world.request("alice", "POST", &path(&first, "/complete")).header("x-correlation-id", "trace-7");
    assert_eq!(Answer::read(request.send().await.unwrap()).await.status, 200);

    let row = next_of(&world, &first).await;
    let links =
        json!({ "previous_task_id": first["id"], "series_id": first["id"], "anchor_day": 31, "user_id": "alice", "version": 1 });
    has_all(&row, &links);
    let second = call(&world, "alice", "GET", &path(&row, ""), None).await;
    assert_eq!(second.status, 200, "{second:?}");
    let second = second.body;
    let mut expected = body;
    expected["due_date"] = json!("2030-02-28");
    has_all(&second, &expected);
    has_all(&second, &json!({ "completed": false, "completed_at": null, "updated_at": second["created_at"] }));

    let records = events_of(&world, &second, 1).await;
    assert_eq!(records[0].key.as_deref(), Some("alice"), "keyed by the user id");
    let event = records[0].json();
    let envelope = ["source", "type", "correlationid"].map(|name| event[name].as_str().unwrap());
    assert_eq!(envelope, ["todo-backend", "task.created", "trace-7"]);
    let time = |value: &Json| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!(time(&event["time"]), time(&second["created_at"]));
    assert_eq!(event["id"].as_str().unwrap().parse::<Uuid>().unwrap().get_version_num(), 8, "derived from its cause");
    has_all(
        &event["data"],
        &json!({
            "task_id": second["id"], "user_id": "alice", "title": "Pay the rent", "description": "By bank", "priority": "high",
            "tags": ["home", "money"], "due_date": "2030-02-28", "recurrence": "monthly", "created_at": second["created_at"],
            "due_time": "10:05", "series_id": first["id"], "previous_task_id": first["id"],
        }),
    );

    // The short month leaves no trace, and the series stays that of the first.
    complete(&world, "alice", &second).await;
    let third = next_of(&world, &second).await;
    has_all(
        &third,
        &json!({ "due_date": "2030-03-31", "series_id": first["id"], "anchor_day": 31, "previous_task_id": second["id"] }),
    );
    caught_up(&world, "alice").await;
    for (task, rows) in [(&first, 2), (&second, 2), (&third, 1)] {
        assert_eq!(audited(&world, task, rows).await, rows as i64);
    }
    assert_eq!(events_of(&world, &second, 2).await.len(), 2, "one task.created, one task.completed");
    assert_eq!((followers(&world, &first).await.len(), followers(&world, &second).await.len()), (1, 1));
}

async fn redelivery_replay_and_a_second_completion_make_no_second_next_task(kind: Kind) {
    let mut world = World::with_todo(kind).await;
    let task = create(&world, "alice", json!({ "title": "Water the plants", "recurrence": "weekly" })).await;
    let completed = complete(&world, "alice", &task).await;
    let next = next_of(&world, &task).await;

    // Completed again: after a reopen, and as told by an event of another identity.
    assert_eq!(call(&world, "alice", "POST", &path(&task, "/reopen"), None).await.status, 200);
    assert_ne!(complete(&world, "alice", &task).await["completed_at"], completed["completed_at"]);
    send_completion(&world, None, "copy", task["id"].as_str().unwrap(), "2030-01-01T00:00:00Z").await;
    caught_up(&world, "alice").await;

    // Read again from the beginning: once as what it is, once as if the host had forgotten that it was handled.
    for forget in ["SELECT 1", "DELETE FROM tidemill.inbox"] {
        assert!(world.host().sigterm().await.success());
        world.sql().await.batch_execute(forget).await.unwrap();
        records::rewind(&world.broker.address(), GROUP, TOPIC).await;
        world.start().await;
        caught_up(&world, "alice").await;
    }
    assert_eq!(followers(&world, &task).await, std::slice::from_ref(&next));
    assert_eq!(events_of(&world, &next, 1).await.len(), 1, "its task.created is in the topic once");
    let twice = "SELECT count(*) FROM (SELECT previous_task_id FROM todo.tasks GROUP BY 1 HAVING count(*) > 1) AS twice \
        WHERE previous_task_id IS NOT NULL";
    assert_eq!(world.count(twice).await, 0);
}

async fn a_race_of_completions_makes_one_next_task(kind: Kind) {
    let world = World::with_todo(kind).await;
    let task = create(&world, "alice", json!({ "title": "raced", "recurrence": "weekdays" })).await;
    let finish = path(&task, "/complete");
    let (one, other) = tokio::join!(call(&world, "alice", "POST", &finish, None), call(&world, "alice", "POST", &finish, None));
    assert_eq!((one.status, other.status, &one.body), (200, 200, &other.body));
    next_of(&world, &task).await;

    // Two events of each task, in two partitions, so with two workers; half of the pairs are of the very same time, and so of one id.
    let tasks: Vec<Json> = (0..40).map(|_| json!({ "id": Uuid::new_v4() })).collect();
    for (number, task) in tasks.iter().enumerate() {
        let id = task["id"].as_str().unwrap();
        let second = if number % 2 == 0 { "2030-02-10T09:30:00Z" } else { "2030-02-10T09:30:01Z" };
        let (ones, others) = (format!("{id}-0"), format!("{id}-1"));
        tokio::join!(
            send_completion(&world, Some(0), &ones, id, "2030-02-10T09:30:00Z"),
            send_completion(&world, Some(1), &others, id, second),
        );
    }
    for partition in [0, 1] {
        let mark = json!({ "id": Uuid::new_v4() });
        send_completion(
            &world,
            Some(partition),
            &format!("mark-{partition}"),
            mark["id"].as_str().unwrap(),
            "2030-02-10T09:30:00Z",
        )
        .await;
        next_of(&world, &mark).await;
    }
    world.until_outbox_is_empty().await;
    let records = records::all(&world.broker.address(), TOPIC).await;
    for task in tasks.iter().chain([&task]) {
        let next = next_of(&world, task).await;
        let told = |record: &&records::Record| record.json()["data"]["task_id"] == next["id"];
        assert_eq!(records.iter().filter(told).count(), 1, "one task.created of {next}");
    }
}

#[tokio::test]
async fn a_task_that_does_not_recur_has_no_next_task() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "once", "due_date": "2030-02-10" })).await;
    complete(&world, "alice", &task).await;
    caught_up(&world, "alice").await;
    assert_eq!(followers(&world, &task).await, Vec::<Json>::new());
}

#[tokio::test]
async fn c05_an_event_that_can_have_no_next_task_is_a_dead_letter_and_holds_up_no_other() {
    let world = World::with_todo(Kind::Embedded).await;
    // More than one in a batch, if they arrive together; whether or not they do, the outcome is the same.
    let tasks: Vec<Json> = (0..30).map(|_| json!({ "id": Uuid::new_v4() })).collect();
    for (number, task) in tasks.iter().enumerate() {
        let completed_at = if number % 10 == 5 { "yesterday" } else { "2030-02-10T09:30:00Z" };
        send_completion(&world, Some(1), &format!("e{number}"), task["id"].as_str().unwrap(), completed_at).await;
    }
    for (number, task) in tasks.iter().enumerate().filter(|(number, _)| number % 10 != 5) {
        assert_eq!(next_of(&world, task).await["due_date"], json!("2030-02-11"), "{number}");
    }
    let query = "SELECT string_agg(event_id || ' ' || attempts, ', ' ORDER BY event_id) FROM tidemill.dead_letters \
        WHERE consumer_group = 'recurrence-consumer' AND error_class = 'rejected' AND error LIKE '%data of task.completed%yesterday%'";
    let letters: Option<String> = world.sql().await.query_one(query, &[]).await.unwrap().get(0);
    assert_eq!(letters.as_deref(), Some("e15 1, e25 1, e5 1"), "rejected at once, by name");
}

#[tokio::test]
async fn a_task_deleted_in_between_loses_nothing() {
    let world = World::with_todo(Kind::Embedded).await;
    let body =
        json!({ "title": "short-lived", "description": "kept", "tags": ["a"], "due_date": "2030-02-10", "recurrence": "yearly" });
    let task = create(&world, "alice", body.clone()).await;
    world.until_outbox_is_empty().await;
    // What happens now is told when the broker is back.
    world.broker.stop().await;
    complete(&world, "alice", &task).await;
    assert_eq!(call(&world, "alice", "DELETE", &path(&task, ""), None).await.status, 204);
    world.broker.start().await;
    let next = next_of(&world, &task).await;
    let mut expected = body;
    expected["due_date"] = json!("2031-02-10");
    has_all(&next, &expected);
    assert_eq!(events_of(&world, &next, 1).await.len(), 1);
}

#[tokio::test]
async fn the_next_task_is_only_for_its_user() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "private", "recurrence": "daily" })).await;
    complete(&world, "alice", &task).await;
    let next = next_of(&world, &task).await;
    assert_eq!(call(&world, "bob", "GET", &path(&next, ""), None).await.status, 404);
    assert_eq!(call(&world, "alice", "GET", &path(&next, ""), None).await.status, 200);
}

#[tokio::test]
async fn c15_the_handlers_role_reads_and_inserts_tasks_and_nothing_else() {
    let world = World::with_todo(Kind::Embedded).await;
    create(&world, "alice", json!({ "title": "a" })).await;
    let sql = world.sql().await;
    sql.batch_execute(&format!("SET ROLE \"{}_h_recurrence\"", world.database.name)).await.unwrap();
    assert_eq!(sql.query_one("SELECT count(*) FROM todo.tasks", &[]).await.unwrap().get::<_, i64>(0), 1);
    let insert = |more: &str, values: &str| {
        format!(
            "INSERT INTO todo.tasks (id, user_id, title, created_at, updated_at{more}) \
             VALUES (gen_random_uuid(), 'bob', 'b', now(), now(){values})"
        )
    };
    let links = ", gen_random_uuid(), gen_random_uuid()";
    for refused in [
        "UPDATE todo.tasks SET title = 'b'".to_owned(),
        "DELETE FROM todo.tasks".to_owned(),
        "SELECT 1 FROM todo.audit_log".to_owned(),
        insert("", ""),
        insert(", series_id, previous_task_id, completed_at", &format!("{links}, now()")),
    ] {
        let error = sql.batch_execute(&refused).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{refused}: {error}");
    }
    sql.batch_execute(&insert(", series_id, previous_task_id", links)).await.unwrap();
}
