//! Reminders: the row, the job and the answer are one transaction; what fires is decided upon once.

mod moves;
mod races;
mod stories;

use jiff::{Timestamp, ToSpan};
use serde_json::{Value as Json, json};
use tokio_postgres::Client;

use crate::support::http::has_all;
use crate::support::records::{self, Record};
use crate::support::{Answer, Kind, World, eventually, on_both_brokers};
use crate::todo::{call, create, path};

on_both_brokers!(a_reminder_fires_at_its_time_and_is_triggered_once);

/// Where reminders are told of.
const TOPIC: &str = "todo.reminders";

/// A date so many days from today, in UTC: the day on which the tests began, also after midnight.
fn day(days: i64) -> String {
    static TODAY: std::sync::OnceLock<jiff::civil::Date> = std::sync::OnceLock::new();
    let today = TODAY.get_or_init(|| jiff::tz::Offset::UTC.to_datetime(Timestamp::now()).date());
    today.checked_add(days.days()).unwrap().to_string()
}

/// When a task with this date and no time is due.
fn due(date: &str) -> Timestamp {
    format!("{date}T10:00:00Z").parse().unwrap()
}

/// The lead time that lets the reminder of a task that is due on this date come in so many seconds.
fn lead(date: &str, seconds: i64) -> String {
    format!("PT{}S", due(date).as_second() - Timestamp::now().as_second() - seconds)
}

/// A task that is due in two days.
async fn dated(world: &World, user: &str, title: &str) -> Json {
    create(world, user, json!({ "title": title, "due_date": day(2) })).await
}

async fn ask(world: &World, user: &str, task: &Json, lead: &str) -> Answer {
    call(world, user, "POST", &path(task, "/reminders"), Some(json!({ "lead_time": lead }))).await
}

/// Sets a reminder that was not there.
async fn set(world: &World, user: &str, task: &Json, lead: &str) -> Json {
    let answer = ask(world, user, task, lead).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.body
}

/// Sets a reminder that comes in so many seconds, of a task made by [`dated`].
async fn set_soon(world: &World, user: &str, task: &Json, seconds: i64) -> Json {
    set(world, user, task, &lead(&day(2), seconds)).await
}

fn id(object: &Json) -> &str {
    object["id"].as_str().unwrap()
}

fn time(value: &Json) -> Timestamp {
    value.as_str().unwrap().parse().unwrap()
}

async fn cancel(world: &World, user: &str, reminder: &Json) -> Answer {
    call(world, user, "DELETE", &format!("/api/reminders/{}", id(reminder)), None).await
}

async fn state(world: &World, reminder: &Json) -> String {
    let query = "SELECT state FROM todo.reminders WHERE id = $1::text::uuid";
    world.sql().await.query_one(query, &[&id(reminder)]).await.unwrap().get(0)
}

async fn until_state(world: &World, reminder: &Json, expected: &str) {
    eventually(&format!("the reminder is {expected}"), async || (state(world, reminder).await == expected).then_some(())).await;
}

/// When the reminder's job is due, if there is one.
async fn job(world: &World, reminder: &Json) -> Option<Timestamp> {
    let query = "SELECT (extract(epoch FROM due) * 1000000)::int8 FROM tidemill.jobs WHERE app = 'todo' AND name = $1 AND handler = 'task-api'";
    let row = world.sql().await.query_opt(query, &[&format!("reminder/{}", id(reminder))]).await.unwrap();
    row.map(|row| Timestamp::from_microsecond(row.get(0)).unwrap())
}

/// What the topic tells about a reminder.
async fn told(world: &World, reminder: &Json) -> Vec<Record> {
    world.until_outbox_is_empty().await;
    let mut records = records::all(&world.broker.address(), TOPIC).await;
    records.retain(|record| record.json()["data"]["reminder_id"] == reminder["id"]);
    records
}

/// Rows of the audit trail that tell of a reminder.
async fn audited(world: &World, reminder: &Json) -> i64 {
    let query = "SELECT count(*) FROM todo.audit_log WHERE type = 'reminder.triggered' AND source = 'todo-reminder-scheduler' \
        AND data->>'reminder_id' = $1";
    world.sql().await.query_one(query, &[&id(reminder)]).await.unwrap().get(0)
}

/// Waits until all that has fired for the user so far is handled.
async fn fired(world: &World, user: &str) {
    let mark = dated(world, user, "mark").await;
    let mark = set_soon(world, user, &mark, 5).await;
    until_state(world, &mark, "TRIGGERED").await;
}

/// Waits until the end of every task of the user so far is handled.
async fn suppressed(world: &World, user: &str) {
    let mark = dated(world, user, "mark").await;
    let reminder = set(world, user, &mark, "1h").await;
    assert_eq!(call(world, user, "POST", &path(&mark, "/complete"), None).await.status, 200);
    until_state(world, &reminder, "CANCELLED").await;
}

/// Waits until so many connections wait for a lock.
async fn until_blocked(world: &World, connections: i64) {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    world.until_count(&format!("{connections} connections wait for locks"), query, connections).await;
}

/// A transaction that holds the locks which a statement takes, until it is committed or dropped.
async fn hold(world: &World, statement: &str) -> Client {
    let client = world.sql().await;
    client.batch_execute(&format!("BEGIN; {statement}")).await.unwrap();
    client
}

fn wrong_fields(answer: &Answer) -> String {
    let errors = answer.body["errors"].as_array().cloned().unwrap_or_default();
    let texts: Vec<String> =
        errors.iter().map(|e| format!("{} {}", e["field"].as_str().unwrap(), e["message"].as_str().unwrap())).collect();
    texts.join("; ")
}

async fn a_reminder_fires_at_its_time_and_is_triggered_once(kind: Kind) {
    let world = World::with_todo(kind).await;
    let task = create(&world, "alice", json!({ "title": "Call Bob", "due_date": day(2) })).await;
    let body = json!({ "lead_time": lead(&day(2), 3) });
    let request = world.request("alice", "POST", &path(&task, "/reminders")).header("x-correlation-id", "trace-9").json(&body);
    let answer = Answer::read(request.send().await.unwrap()).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let reminder = answer.body;
    has_all(
        &reminder,
        &json!({ "task_id": task["id"], "lead_time": body["lead_time"], "state": "PENDING", "triggered_at": null, "cancelled_at": null }),
    );
    assert_eq!(job(&world, &reminder).await, Some(time(&reminder["remind_at"])));

    until_state(&world, &reminder, "TRIGGERED").await;
    let records = told(&world, &reminder).await;
    assert_eq!((records.len(), records[0].key.as_deref()), (1, Some("alice")), "keyed by the user id");
    let event = records[0].json();
    let envelope = ["specversion", "source", "type", "correlationid"].map(|name| event[name].as_str().unwrap_or_default());
    assert_eq!(envelope, ["1.0", "todo-reminder-scheduler", "reminder.triggered", "trace-9"]);
    assert_eq!(time(&event["time"]), time(&reminder["remind_at"]));
    assert_eq!(id(&event).parse::<uuid::Uuid>().unwrap().get_version_num(), 8, "derived from the job");
    assert_eq!(
        event["data"],
        json!({
            "reminder_id": reminder["id"], "task_id": task["id"], "user_id": "alice", "task_title": "Call Bob", "due_date": day(2),
        })
    );
    assert!(records[0].timestamp.unwrap() >= time(&reminder["remind_at"]).as_millisecond(), "never early");

    fired(&world, "alice").await;
    assert_eq!((audited(&world, &reminder).await, told(&world, &reminder).await.len()), (1, 1));
    let history = call(&world, "alice", "GET", &path(&task, "/history"), None).await.body;
    let entry = history["items"].as_array().unwrap().iter().find(|item| item["type"] == "reminder.triggered").unwrap().clone();
    has_all(&entry, &json!({ "event_id": event["id"], "correlation_id": "trace-9", "data": event["data"] }));
    let listed = call(&world, "alice", "GET", "/api/reminders?state=triggered&task_id=", None).await;
    assert_eq!((listed.status, wrong_fields(&listed).as_str()), (400, "task_id must be a task's id"));
    let listed = call(&world, "alice", "GET", &format!("/api/reminders?state=TRIGGERED&task_id={}", id(&task)), None).await;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(1), "{listed:?}");
    assert!(time(&listed.body["items"][0]["triggered_at"]) >= time(&reminder["remind_at"]));
    let late = cancel(&world, "alice", &reminder).await;
    assert_eq!((late.status, late.text.contains("was triggered at")), (409, true), "{late:?}");
    assert_eq!(state(&world, &reminder).await, "TRIGGERED");
}

#[tokio::test]
async fn c01_a_reminder_its_job_and_the_answer_are_one_transaction() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "once").await;
    let first = set(&world, "alice", &task, "30min").await;
    assert_eq!(time(&first["remind_at"]), due(&day(2)) - 30.minutes(), "a task with a date alone is due at 10:00");
    for lead in ["30min", "PT30M", "PT1800S"] {
        let again = ask(&world, "alice", &task, lead).await;
        assert_eq!((again.status, &again.body), (200, &first), "the first one is the answer");
    }
    let counts = async || {
        let reminders = world.count("SELECT count(*) FROM todo.reminders WHERE state = 'PENDING'").await;
        (reminders, world.count("SELECT count(*) FROM tidemill.jobs").await)
    };
    assert_eq!(counts().await, (1, 1));
    // A cancelled one is over: set again, it is another.
    let cancelled = cancel(&world, "alice", &first).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (200, &json!("CANCELLED")), "{cancelled:?}");
    assert_eq!(counts().await, (0, 0));
    let again = cancel(&world, "alice", &first).await;
    assert_eq!((again.status, &again.body), (200, &cancelled.body), "cancelling twice is cancelling once");
    assert_ne!(set(&world, "alice", &task, "30min").await["id"], first["id"]);
    // Refused after the row was written: neither the row nor a job is there.
    for minutes in 31..80 {
        set(&world, "alice", &task, &format!("{minutes}min")).await;
    }
    let refused = ask(&world, "alice", &task, "80min").await;
    assert_eq!((refused.status, wrong_fields(&refused).contains("has 50 waiting reminders")), (422, true), "{refused:?}");
    assert_eq!(counts().await, (50, 50));
    assert_eq!(ask(&world, "alice", &task, "31min").await.status, 200, "one that is there is no new one");
    // A job that cannot be kept takes the row and the answer with it.
    let sql = world.sql().await;
    sql.batch_execute("ALTER TABLE tidemill.jobs ADD CONSTRAINT none CHECK (false) NOT VALID").await.unwrap();
    let other = dated(&world, "alice", "other").await;
    assert!(ask(&world, "alice", &other, "30min").await.status >= 500);
    assert_eq!(world.count(&format!("SELECT count(*) FROM todo.reminders WHERE task_id = '{}'", id(&other))).await, 0);
}

#[tokio::test]
async fn when_a_task_without_a_time_is_due_is_a_setting() {
    let world = World::with_todo(Kind::Embedded).await;
    world.sql().await.batch_execute("UPDATE todo.settings SET default_due_time = '18:30'").await.unwrap();
    let task = dated(&world, "alice", "evening").await;
    assert_eq!(time(&set(&world, "alice", &task, "30min").await["remind_at"]), due(&day(2)) + 8.hours());
    let timed = create(&world, "alice", json!({ "title": "noon", "due_date": day(2), "due_time": "12:00" })).await;
    assert_eq!(time(&set(&world, "alice", &timed, "2h").await["remind_at"]), due(&day(2)));
}

#[tokio::test]
async fn a_reminder_that_can_not_be_set_is_told_why_by_field() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "due").await;
    let bare = create(&world, "alice", json!({ "title": "bare" })).await;
    for (task, lead, word) in [
        (&bare, "30min", "needs a task with a due_date"),
        (&task, "0min", "longer than zero"),
        (&task, "-5min", "longer than zero"),
        (&task, "1e9d", "unknown unit"),
        (&task, "5m", "unknown unit `m`"),
        (&task, "1w", "is past"),
        (&task, "9999999d", "at most 3660 days"),
        (&task, "soon", "min, h, d, w"),
    ] {
        let answer = ask(&world, "alice", task, lead).await;
        assert_eq!((answer.status, answer.problem()), (422, "invalid-fields"), "{lead}: {answer:?}");
        let errors = wrong_fields(&answer);
        assert!(errors.starts_with("lead_time ") && errors.contains(word), "{lead}: {errors}");
    }
    let answer = call(&world, "alice", "POST", &path(&task, "/reminders"), Some(json!({ "leadTime": "1h" }))).await;
    assert_eq!(wrong_fields(&answer), "lead_time is required; leadTime is not known; did you mean `lead_time`?");
    let filters = call(&world, "alice", "GET", "/api/reminders?state=open&task_id=7&limit=0", None).await;
    assert_eq!(filters.status, 400);
    for field in ["state", "task_id", "limit"] {
        assert!(wrong_fields(&filters).contains(field), "{filters:?}");
    }

    assert_eq!(call(&world, "alice", "POST", &path(&task, "/complete"), None).await.status, 200);
    let completed = ask(&world, "alice", &task, "1h").await;
    assert_eq!((completed.status, completed.text.contains("reopen it")), (409, true), "{completed:?}");
    assert_eq!(call(&world, "alice", "DELETE", &path(&task, ""), None).await.status, 204);
    assert_eq!(ask(&world, "alice", &task, "1h").await.status, 404);
    assert_eq!(ask(&world, "alice", &json!({ "id": uuid::Uuid::nil() }), "1h").await.status, 404);
    assert_eq!(world.count("SELECT (SELECT count(*) FROM todo.reminders) + (SELECT count(*) FROM tidemill.jobs)").await, 0);
}

#[tokio::test]
async fn c21_a_user_reaches_only_its_own_reminders() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "private").await;
    let reminder = set(&world, "alice", &task, "1h").await;
    let own = set(&world, "bob", &dated(&world, "bob", "own").await, "1h").await;
    assert_eq!(ask(&world, "bob", &task, "1h").await.status, 404);
    assert_eq!(cancel(&world, "bob", &reminder).await.status, 404);
    assert_eq!(call(&world, "bob", "GET", "/api/reminders", None).await.body["items"], json!([own]));
    let filtered = call(&world, "bob", "GET", &format!("/api/reminders?task_id={}", id(&task)), None).await;
    assert_eq!((filtered.status, &filtered.body["items"]), (200, &json!([])), "{filtered:?}");
    assert_eq!((state(&world, &reminder).await.as_str(), job(&world, &reminder).await.is_some()), ("PENDING", true));
}

#[tokio::test]
async fn a_list_of_reminders_comes_in_pages_and_without_deleted_tasks() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "a").await;
    let mut all = Vec::new();
    for hours in 1..=5 {
        all.insert(0, set(&world, "alice", &task, &format!("{hours}h")).await);
    }
    let deleted = dated(&world, "alice", "b").await;
    let gone = set(&world, "alice", &deleted, "1h").await;
    assert_eq!(call(&world, "alice", "DELETE", &path(&deleted, ""), None).await.status, 204);
    until_state(&world, &gone, "CANCELLED").await;
    let (mut pages, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = call(&world, "alice", "GET", &format!("/api/reminders?limit=2&state=PENDING{cursor}"), None).await;
        assert_eq!(page.status, 200, "{page:?}");
        pages.extend(page.body["items"].as_array().unwrap().clone());
        let Some(next) = page.body["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(pages, all);
    assert_eq!(call(&world, "alice", "GET", "/api/reminders?state=CANCELLED", None).await.body["items"], json!([]));
    assert_eq!(cancel(&world, "alice", &gone).await.status, 404);
    // Its cancelled reminders stay readable through the history.
    let history = call(&world, "alice", "GET", &path(&deleted, "/history"), None).await;
    assert_eq!((history.status, history.body["reminders"].as_array().map(Vec::len)), (200, Some(1)), "{history:?}");
    has_all(&history.body["reminders"][0], &json!({ "id": gone["id"], "state": "CANCELLED" }));
    assert_eq!(call(&world, "bob", "GET", &path(&deleted, "/history"), None).await.status, 404);
}

#[tokio::test]
async fn c15_the_handlers_roles_do_what_the_product_lets_them_and_nothing_else() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = dated(&world, "alice", "a").await;
    let [pending, over] = [set(&world, "alice", &task, "1h").await, set(&world, "alice", &task, "2h").await];
    assert_eq!(cancel(&world, "alice", &over).await.status, 200);
    let sql = world.sql().await;
    let become_role = async |role: &str| {
        sql.batch_execute(&format!("RESET ROLE; SET ROLE \"{}_h_{role}\"", world.database.name)).await.unwrap();
    };
    let refused = async |statement: &str| {
        let error = sql.batch_execute(statement).await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{statement}: {error}");
    };
    let changed = async |statement: &str| sql.execute(statement, &[]).await.unwrap();
    let trail = |kind: &str| {
        format!(
            "INSERT INTO todo.audit_log (source, event_id, type, task_id, user_id, data, occurred_at) \
             VALUES ('s', 'e', '{kind}', '{}', 'alice', '{{}}', now()) ON CONFLICT DO NOTHING",
            id(&task)
        )
    };
    become_role("reminder").await;
    for statement in [
        "UPDATE todo.tasks SET title = 'b'",
        "UPDATE todo.tasks SET version = version",
        "INSERT INTO todo.tasks DEFAULT VALUES",
        "DELETE FROM todo.reminders",
        "UPDATE todo.reminders SET remind_at = now()",
        "UPDATE todo.reminders SET state = 'PENDING'",
        "SELECT 1 FROM todo.audit_log",
        &trail("task.created"),
    ] {
        refused(statement).await;
    }
    assert_eq!(changed("SELECT 1 FROM todo.tasks FOR SHARE").await, 1, "it locks what it cannot change");
    assert_eq!(changed(&trail("reminder.triggered")).await, 1);
    let triggered = "UPDATE todo.reminders SET state = 'TRIGGERED', triggered_at = now(), cancelled_at = NULL";
    assert_eq!(changed(triggered).await, 1, "the one that waits: there is no way back from CANCELLED");
    assert_eq!(changed("UPDATE todo.reminders SET state = 'CANCELLED', triggered_at = NULL, cancelled_at = now()").await, 0);
    become_role("suppression").await;
    for statement in [
        "UPDATE todo.tasks SET title = 'b'",
        "SELECT 1 FROM todo.tasks FOR SHARE",
        "UPDATE todo.reminders SET triggered_at = now()",
        "SELECT 1 FROM todo.audit_log",
        &trail("reminder.triggered"),
    ] {
        refused(statement).await;
    }
    assert_eq!(changed("UPDATE todo.reminders SET state = 'CANCELLED', cancelled_at = now()").await, 0);
    become_role("task_api").await;
    assert_eq!(changed("SELECT 1 FROM todo.reminders").await, 0, "nothing without a subject");
    refused("UPDATE todo.reminders SET triggered_at = now()").await;
    for role in ["audit", "recurrence"] {
        become_role(role).await;
        refused("SELECT 1 FROM todo.reminders").await;
    }
    sql.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!((state(&world, &pending).await.as_str(), state(&world, &over).await.as_str()), ("TRIGGERED", "CANCELLED"));
}
