//! Promise 13: a job fires never early, is never lost, and fires once.

use serde_json::{Value as Json, json};

use crate::support::jobs::{SECOND, text};
use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(c13_a_job_fires_once_at_its_time_with_an_id_that_was_known_before);

async fn c13_a_job_fires_once_at_its_time_with_an_id_that_was_known_before(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let begin = world.database_now().await;
    let mut expected = Vec::new();
    // The later ones first: each is due before what the trigger waits for.
    for number in (0..20).rev() {
        let (name, at) = (format!("job-{number}"), begin + SECOND + number * 100_000);
        // Asked in the same unit: on a slow machine it may have fired a moment later.
        let body = json!({ "name": name, "at": at, "topic": world.topic("out"), "key": format!("k{}", number % 3) });
        let job = world.steps("schedule-then-job", body).await.body;
        assert_eq!((&job["due"], &job["repeats"], &job["handler"]), (&json!(at), &json!(false), &json!("probe")));
        expected.push((name, at, job["event_id"].clone()));
    }
    world.until_jobs_are_over().await;
    let fired = world.fired().await;
    assert_eq!(fired.len(), expected.len(), "each once");
    for (name, at, id) in expected {
        let record = fired.iter().find(|record| record.json()["data"]["job"] == name.as_str()).unwrap();
        let event = record.json();
        assert_eq!((&event["id"], &event["time"]), (&id, &json!(text(at))), "{event}");
        assert_eq!(id.as_str().unwrap()[14..15], *"8", "a UUID of version 8: {id}");
        assert_eq!(
            (&event["type"], &event["source"], &event["specversion"]),
            (&json!("probe.fired"), &json!("probe"), &json!("1.0"))
        );
        assert!(event["correlationid"].is_string(), "that of the request: {event}");
        assert_eq!(record.header("content-type"), Some("application/cloudevents+json; charset=UTF-8"));
        let early = at / 1_000 - record.timestamp.unwrap();
        assert!((-10_000..=0).contains(&early), "fired {early} ms before its time");
    }
    assert_eq!(world.metric_of("jobs_fired_total").await, 20.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_job_belongs_to_its_unit() {
    let world = World::with_probe().await;
    let body = json!({ "name": "gone", "topic": world.topic("out"), "at": 0, "id": "row" });
    for steps in
        ["schedule-then-status", "schedule-then-trap", "insert-then-schedule-then-status", "schedule-then-job-then-status"]
    {
        assert!(world.steps(steps, body.clone()).await.status >= 400);
    }
    assert_eq!(world.jobs().await, 0);
    let kept = world.steps("insert-then-schedule-then-job", body).await;
    assert_eq!((kept.status, &kept.body["name"]), (200, &json!("gone")), "a unit sees what it has scheduled: {kept:?}");
    assert!(world.has_row("row").await);
    // A time in the past fires at once, and nothing of the units that failed ever does.
    world.until_jobs_are_over().await;
    assert_eq!(world.fired().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_name_is_one_job_replaced_or_kept() {
    let world = World::with_probe().await;
    let at = world.database_now().await + 3_600 * SECOND;
    world.schedule("one", json!({ "at": at })).await;
    let first = world.job("one").await;
    world.schedule("one", json!({ "at": at + SECOND, "keep": true })).await;
    assert_eq!(world.job("one").await, first, "kept as it was");
    world.schedule("one", json!({ "at": at })).await;
    let second = world.job("one").await;
    assert_eq!(second["due"], first["due"]);
    assert_ne!(second["event_id"], first["event_id"], "another incarnation");
    // Within one unit the last word counts.
    let body = json!({ "names": ["one", "two", "one"], "topic": world.topic("out"), "at": at + 7 * SECOND });
    assert_eq!(world.steps("schedule", body).await.status, 200);
    assert_eq!((world.jobs().await, &world.job("one").await["due"]), (2, &json!(at + 7 * SECOND)));
    world.schedule("one", json!({ "at": 5 })).await;
    assert_eq!(world.until_fired("one", 1).await[0].json()["time"], text(5));
    world.schedule("one", json!({ "at": 5, "keep": true })).await;
    let both = world.until_fired("one", 2).await;
    assert_ne!(both[0].json()["id"], both[1].json()["id"], "what fired is gone, so the next one is new");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_jobs_of_a_key_that_are_due_together_keep_the_order_of_their_times() {
    let mut world = World::with_probe().await;
    let begin = world.database_now().await;
    for number in (0..50).rev() {
        world.schedule(&format!("job-{number}"), json!({ "at": begin + 3_600 * SECOND + number })).await;
    }
    world.host().kill_9();
    world.sql().await.batch_execute("UPDATE tidemill.jobs SET due = due - interval '1 hour'").await.unwrap();
    world.start().await;
    world.until_jobs_are_over().await;
    let fired: Vec<Json> = world.fired().await.iter().map(|record| record.json()["data"]["job"].clone()).collect();
    assert_eq!(fired, (0..50).map(|number| json!(format!("job-{number}"))).collect::<Vec<_>>());
}

#[tokio::test]
async fn c13_jobs_are_fired_by_their_bytes_as_well_as_by_their_number() {
    let world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    // No host runs that could fire them or send what they publish.
    let sql = world.sql().await;
    let large = "INSERT INTO tidemill.jobs (app, name, handler, due, bucket, topic, event)
        SELECT 'probe', 'job-' || n, 'probe', clock_timestamp() - interval '1 min' + n * interval '1 ms', 0, 'out', convert_to(repeat('x', 921600), 'UTF8')
          FROM generate_series(1, 50) n";
    sql.batch_execute(large).await.unwrap();
    let fire = "SELECT coalesce(cardinality(late), 0), next_single <= moment FROM tidemill.fire_jobs(1000, '-infinity')";
    let mut rounds = Vec::new();
    loop {
        let row = sql.query_one(fire, &[]).await.unwrap();
        rounds.push(row.get::<_, i32>(0));
        if row.get::<_, Option<bool>>(1) != Some(true) {
            break;
        }
    }
    assert_eq!(rounds, [19, 19, 12], "16 MiB at once, and the one with which they are reached");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 50);
    let huge = "INSERT INTO tidemill.jobs (app, name, handler, due, bucket, topic, event)
        VALUES ('probe', 'huge', 'probe', clock_timestamp(), 0, 'out', convert_to(repeat('x', 20 << 20), 'UTF8'))";
    sql.batch_execute(huge).await.unwrap();
    assert_eq!(sql.query_one(fire, &[]).await.unwrap().get::<_, i32>(0), 1, "one at least");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_an_event_of_a_batch_is_the_cause_of_its_job() {
    let mut world = World::with_probe().await;
    world.host().kill_9();
    let schedules: Vec<_> = (0..10)
        .map(|number| {
            let mut one = crate::support::events::outgoing(Some(0), Some("k"), &format!("event-{number}"), "probe.schedule");
            let data = json!({ "topic": world.topic("out"), "at": 253_402_000_000_000_000_i64 });
            let mut event: Json =
                serde_json::from_slice(&crate::support::records::event(&format!("event-{number}"), "probe.schedule", &data))
                    .unwrap();
            event["correlationid"] = json!(format!("c-{number}"));
            one.value = Some(event.to_string().into_bytes());
            one
        })
        .collect();
    world.produce(&schedules).await;
    world.start().await;
    eventually("all are scheduled", async || (world.jobs().await == 10).then_some(())).await;
    let wrong = "SELECT count(*) FROM tidemill.jobs WHERE correlation_id IS DISTINCT FROM replace(name, 'event-', 'c-')";
    assert_eq!(world.count(wrong).await, 0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_what_cannot_be_scheduled_is_refused_by_name() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "jobs", 5);
    world.handlers.limit("probe", "event_size", "2KiB");
    let world = world.started().await;
    let long = "n".repeat(201);
    for (name, what, kind, words) in [
        ("", json!({ "at": 0 }), "Invalid", "1 to 200 characters"),
        (long.as_str(), json!({ "at": 0 }), "Invalid", "this one has 201"),
        ("a\u{0}b", json!({ "at": 0 }), "Invalid", "control characters"),
        ("a", json!({ "at": i64::MAX }), "Invalid", "years 1 to 9999"),
        ("a", json!({ "at": i64::MIN }), "Invalid", "years 1 to 9999"),
        ("a", json!({ "period": 999_999 }), "Invalid", "between 1 second and 3,660 days"),
        ("a", json!({ "period": u64::MAX }), "Invalid", "between 1 second and 3,660 days"),
        ("a", json!({ "period": SECOND, "first": i64::MAX }), "Invalid", "years 1 to 9999"),
        ("a", json!({ "cron": "0 0 30 2 *" }), "Invalid", "never matches"),
        ("a", json!({ "cron": "every morning" }), "Invalid", "`every morning` is no cron expression of five fields"),
        ("a", json!({ "cron": "0 0 * * *", "zone": "Europe/Atlantis" }), "Invalid", "no time zone `Europe/Atlantis`"),
        ("a", json!({ "at": 0, "topic": "foreign.topic" }), "NotGranted", "add it to `[publish] topics`"),
        ("a", json!({ "at": 0, "event_id": "mine" }), "Invalid", "leave them out"),
        ("a", json!({ "at": 0, "event_time": 5 }), "Invalid", "leave them out"),
        ("a", json!({ "at": 0, "type": "" }), "Invalid", "`type` is empty"),
        ("a", json!({ "at": 0, "data": "x".repeat(3_000) }), "Limit", "`event_size`"),
        ("a", json!({ "names": ["1", "2", "3", "4", "5", "6"], "at": 0 }), "Limit", "limit `jobs`"),
    ] {
        let answer = world.try_schedule(name, what.clone()).await;
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.body["kind"] == kind && message.contains(words), "{name:?} {what}: {answer:?}");
        // A handler that goes on as if nothing were does not get away with it.
        let mut body = json!({ "name": name, "topic": world.topic("out"), "id": "row" });
        body.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        assert!(world.steps("insert-then-ignore-schedule", body).await.status >= 500, "{what}");
    }
    assert_eq!((world.jobs().await, world.has_row("row").await), (0, false));
    let names: Vec<String> = (0..6).map(|number| number.to_string()).collect();
    let answer = world.steps("cancel", json!({ "names": names })).await;
    assert!(answer.text.contains("limit `jobs`"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_jobs_that_the_manifest_does_not_grant_are_refused_at_the_start() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.change("probe", |manifest| drop(manifest.remove("jobs")));
    world.prepared().await;
    let ended = world.command(&["serve"]).finish().await;
    crate::support::host::fails_naming(&ended, &["`probe`", "tidemill:jobs/jobs", "add `[jobs]` to handler.toml"]);
}
