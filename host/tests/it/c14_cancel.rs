//! Promise 14: cancelling is exact, in whatever order it meets the firing.

use serde_json::json;

use crate::support::jobs::SECOND;
use crate::support::{Kind, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_cancel_says_what_became_of_each_job() {
    let world = World::with_probe().await;
    let at = world.database_now().await + 3_600 * SECOND;
    for name in ["a", "b", "c"] {
        world.schedule(name, json!({ "at": at })).await;
    }
    world.schedule("past", json!({ "at": 0 })).await;
    world.until_fired("past", 1).await;
    assert_eq!(world.cancel(&["b", "past", "never", "a", "b"]).await, [true, false, false, true, false]);
    assert_eq!(world.cancel(&["a"]).await, [false]);
    assert_eq!(world.cancel(&[]).await, [] as [bool; 0]);
    assert_eq!(world.job("a").await, json!(null));
    // A unit cancels what it has scheduled itself, and goes on under its own role.
    let body = json!({ "name": "own", "names": ["own"], "topic": world.topic("out"), "at": at, "id": "row" });
    let answer = world.steps("insert-then-schedule-then-cancel-then-query", body.clone()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((world.jobs().await, world.has_row("row").await), (1, true));
    let answer = world.steps("cancel-then-insert", json!({ "names": ["c"], "id": "row" })).await;
    assert_eq!(answer.status, 409, "the row is there already");
    assert_eq!(world.jobs().await, 1, "what a caller was told failed, never happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_guest_is_behind_its_role_again_after_a_cancel() {
    let world = World::with_probe().await;
    let answer = world.steps("query-then-cancel-then-sql", json!({ "names": ["x"], "sql": "SELECT * FROM secrets" })).await;
    assert!(answer.text.contains("permission denied"), "{answer:?}");
    let answer = world.steps("cancel-then-sql", json!({ "names": ["x"], "sql": "SELECT name FROM tidemill.jobs" })).await;
    assert_eq!(answer.status, 409, "{answer:?}");
}

/// Both orders of a cancel and a firing that is under way: it waits for the firing's end and says what came of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_cancel_that_meets_a_firing_waits_and_says_not_pending() {
    let world = World::with_probe().await;
    let sql = world.sql().await;
    let bucket = format!("SELECT tidemill.key_bucket('{}', 'k')::int4", world.topic("out"));
    let bucket: i32 = sql.query_one(&bucket, &[]).await.unwrap().get(0);
    // The firing has taken the row away, and waits for the lock of its key.
    sql.execute("SELECT pg_advisory_lock(7001, $1)", &[&bucket]).await.unwrap();
    world.schedule("race", json!({ "at": 0 })).await;
    let stuck = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7001 AND NOT granted \
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    eventually("the firing is under way", async || (world.count(stuck).await == 1).then_some(())).await;
    let cancel = world.cancel(&["race"]);
    let release = async {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' \
                     AND query LIKE '%cancel_jobs%'";
        eventually("the cancel waits", async || (world.count(waits).await == 1).then_some(())).await;
        sql.execute("SELECT pg_advisory_unlock(7001, $1)", &[&bucket]).await.unwrap();
    };
    let (cancelled, ()) = tokio::join!(cancel, release);
    assert_eq!(cancelled, [false], "it fired");
    assert_eq!(world.until_fired("race", 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_firing_that_fails_leaves_the_job_to_the_cancel() {
    let world = World::with_probe().await;
    let sql = world.sql().await;
    let bucket = format!("SELECT tidemill.key_bucket('{}', 'k')::int4", world.topic("out"));
    let bucket: i32 = sql.query_one(&bucket, &[]).await.unwrap().get(0);
    sql.execute("SELECT pg_advisory_lock(7001, $1)", &[&bucket]).await.unwrap();
    world.schedule("race", json!({ "at": 0 })).await;
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7001 AND NOT granted \
               AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let cancel = async {
        // Whenever the firing has the row, it is ended, until the cancel has it.
        eventually("the job is cancelled", async || {
            let answer = world.try_probe("cancel", &json!({ "names": ["race"] })).await;
            (answer.is_some_and(|answer| answer.body["cancelled"] == json!([true]))).then_some(())
        })
        .await;
    };
    let ending = async {
        eventually("the firing ends", async || {
            world.count(end).await;
            (world.jobs().await == 0).then_some(())
        })
        .await;
    };
    tokio::join!(cancel, ending);
    sql.execute("SELECT pg_advisory_unlock(7001, $1)", &[&bucket]).await.unwrap();
    // Everything that fires later has passed the place where this one would have been.
    world.schedule("after", json!({ "at": 0 })).await;
    world.until_fired("after", 1).await;
    assert_eq!(world.fired_of("race").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_a_job_does_not_fire_while_it_is_being_cancelled_and_fires_if_that_fails() {
    let world = World::with_probe().await;
    for (steps, name, kept) in [("cancel-then-sleep", "cancelled", false), ("cancel-then-sleep-then-status", "kept", true)] {
        let at = world.database_now().await + SECOND;
        world.schedule(name, json!({ "at": at })).await;
        // The unit sleeps over the due time with the row in its hands.
        let answer = world.steps(steps, json!({ "names": [name], "ms": 2_500 })).await;
        assert_eq!(answer.status, if kept { 400 } else { 200 }, "{answer:?}");
        world.schedule("mark", json!({ "at": 0, "data": { "job": format!("mark-{name}") } })).await;
        world.until_fired(&format!("mark-{name}"), 1).await;
        if kept {
            world.until_fired(name, 1).await;
        }
        assert_eq!(world.fired_of(name).await.len(), usize::from(kept), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c14_jobs_of_another_handler_are_out_of_reach_but_where_the_manifest_says_so() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.add_twin("other", &[]);
    world.handlers.add_twin("friend", &["probe"]);
    let world = world.started().await;
    let at = world.database_now().await + 3_600 * SECOND;
    world.schedule("mine", json!({ "at": at })).await;
    let other = async |handler: &str, steps: &str| {
        let body = json!({ "name": "mine", "names": ["mine"], "topic": world.topic("out"), "at": at, "id": "x" });
        let request = world.request("alice", "POST", &format!("/{handler}/{steps}")).json(&body);
        crate::support::Answer::read(request.send().await.unwrap()).await
    };
    for steps in ["cancel", "job"] {
        let answer = other("other", steps).await;
        assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("NotGranted")), "{steps}: {answer:?}");
        assert!(
            answer.text.contains("`probe`") && answer.text.contains("`other`") && answer.text.contains("[jobs] cancel"),
            "{answer:?}"
        );
    }
    // Who owns a name is known at the end of the unit, or as soon as something is asked.
    for handler in ["other", "friend"] {
        let answer = other(handler, "schedule").await;
        assert!(answer.status >= 500, "{answer:?}");
        let answer = other(handler, "schedule-then-job").await;
        assert!(answer.text.contains("belongs to handler `probe`") && answer.text.contains(handler), "{answer:?}");
    }
    assert_eq!(world.job("mine").await["due"], at);
    assert_eq!(other("friend", "job").await.body["handler"], "probe");
    assert_eq!(other("friend", "cancel").await.body["cancelled"], json!([true]));
    assert_eq!(world.jobs().await, 0);
}
