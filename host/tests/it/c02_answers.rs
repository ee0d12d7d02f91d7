//! Promise 2: what a caller was told failed, never happened; what it was told succeeded, did.

use serde_json::json;

use crate::support::postgres::{Cluster, Database};
use crate::support::{Answer, Broker, Cut, Fault, Kind, World, eventually, records};

#[tokio::test]
async fn c02_a_status_of_400_or_above_rolls_back() {
    let world = World::with_probe().await;
    for status in [400, 404, 409, 422, 500, 503, 599] {
        let body = json!({ "id": "told-failed", "status": status, "topic": world.topic("out") });
        let answer = world.steps("insert-then-publish-then-status", body).await;
        assert_eq!((answer.status, &answer.body), (status, &json!({ "asked": true })), "the handler's own answer is passed on");
        assert!(!world.has_row("told-failed").await, "{status} left a row");
        assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 0, "{status} left an event");
    }
    for status in [200, 201, 204, 303, 399] {
        let id = format!("told-{status}");
        let answer = world.steps("insert-then-status", json!({ "id": id, "status": status })).await;
        assert_eq!(answer.status, status);
        assert!(world.has_row(&id).await, "{status} lost its row");
    }
}

#[tokio::test]
async fn c02_a_status_that_is_none_is_a_failed_handler() {
    let world = World::with_probe().await;
    for status in [0, 100, 199, 600, 1000] {
        let answer = world.steps("insert-then-status", json!({ "id": "odd", "status": status })).await;
        assert_eq!((answer.status, answer.problem()), (500, "handler-failed"), "{status}");
        assert!(!world.has_row("odd").await, "{status}");
    }
}

#[tokio::test]
async fn c02_a_success_is_sent_only_after_the_commit() {
    let world = World::with_probe().await;
    let answer = world.steps("insert-then-deferred", json!({ "id": "deferred" })).await;
    assert_eq!((answer.status, answer.problem()), (503, "commit-failed"), "{answer:?}");
    assert!(!world.has_row("deferred").await);
    assert_eq!(world.count("SELECT count(*) FROM probe.pairs").await, 0);
}

#[tokio::test]
async fn c02_a_commit_that_was_cut_after_it_was_done_is_found_out() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    for steps in ["insert", "insert-then-publish"] {
        world.proxy().arm(Fault::Cut(Cut::AfterCommit), "into rows");
        let answer = world.steps(steps, json!({ "id": steps, "topic": world.topic("out") })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(world.has_row(steps).await);
    }
    assert_eq!(world.proxy().hits(), 2);
}

#[tokio::test]
async fn c02_a_unit_that_only_publishes_learns_its_outcome_too() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    let topic = world.topic("out");
    world.proxy().arm(Fault::Cut(Cut::AfterCommit), "insert into tidemill.outbox");
    let answer = world.steps("publish", json!({ "topic": topic, "event_id": "told" })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(world.proxy().hits(), 1);
    eventually("its event is in the topic", async || {
        records::all(&world.broker.address(), &topic).await.iter().any(|record| record.json()["id"] == "told").then_some(())
    })
    .await;
}

#[tokio::test]
async fn c02_a_commit_that_never_arrived_is_503_and_nothing_is_there() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    for steps in ["insert", "insert-then-publish"] {
        world.proxy().arm(Fault::Cut(Cut::BeforeCommit), "into rows");
        let answer = world.steps(steps, json!({ "id": "gone", "topic": world.topic("out") })).await;
        assert!(answer.status == 503 && ["commit-failed", "database-unavailable"].contains(&answer.problem()), "{answer:?}");
        assert!(!world.has_row("gone").await);
        assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 0);
    }
    assert_eq!(world.proxy().hits(), 2);
}

#[tokio::test]
async fn c02_where_even_asking_is_impossible_the_outcome_is_unknown() {
    let world = World::probe(Kind::Embedded).await.env("TIDEMILL_OUTCOME_DEADLINE", "1s").proxied().await.started().await;
    for (cut, happened) in [(Cut::AfterCommit, true), (Cut::BeforeCommit, false)] {
        let id = format!("unknown-{happened}");
        world.proxy().arm(Fault::CutAndRefuse(cut), "into rows");
        let answer = world.steps("insert", json!({ "id": id })).await;
        assert_eq!((answer.status, answer.problem()), (503, "outcome-unknown"), "{answer:?}");
        assert_eq!(world.has_row(&id).await, happened);
        world.proxy().refuse(false);
        eventually("the host works again", async || (world.steps("query", json!({})).await.status == 200).then_some(())).await;
    }
}

/// After a crash PostgreSQL gives numbers out again whose records had not reached the disk: what it says of them is not about the unit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c02_a_transaction_number_that_was_given_out_again_is_not_taken_for_the_units_own() {
    let cluster = Cluster::dedicated();
    let world = World::with_database(Database::create_on(&cluster).await, Broker::shared(Kind::Embedded).await);
    let world = world.env("TIDEMILL_OUTCOME_DEADLINE", "60s").proxied().await.started().await;
    for whole in [true, false] {
        let mut again = 0;
        for turn in 0..20 {
            let admin = world.sql().await;
            // Only a commit writes the log to the disk now.
            admin.batch_execute("ALTER SYSTEM SET wal_writer_delay = '10s'").await.unwrap();
            admin.batch_execute("SELECT pg_reload_conf(), pg_sleep(0.05)").await.unwrap();
            let id = format!("crash-{whole}-{turn}");
            let hits = world.proxy().hits();
            world.proxy().arm(Fault::HoldCommit, "into rows");
            let request = tokio::spawn(world.request("alice", "POST", "/probe/insert").json(&json!({ "id": id })).send());
            eventually("the COMMIT is held", async || (world.proxy().hits() > hits).then_some(())).await;
            let number = "SELECT l.transactionid::text::bigint FROM pg_locks l JOIN pg_locks r USING (pid) \
                          WHERE l.locktype = 'transactionid' AND l.granted AND r.relation = 'probe.rows'::regclass AND r.mode = 'RowExclusiveLock'";
            let number = eventually("the unit has a number", async || {
                admin.query(number, &[]).await.unwrap().first().map(|row| row.get::<_, i64>(0))
            })
            .await;
            if whole {
                cluster.stop();
                cluster.start();
            } else {
                let pid: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
                assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
                eventually("the server has noticed", async || admin.is_closed().then_some(())).await;
            }
            let others = world.sql().await;
            let mut taken = 0;
            while taken < number {
                let row = others.query_one("SELECT pg_current_xact_id()::text::bigint", &[]).await.unwrap();
                taken = row.get(0);
                again += usize::from(taken == number);
            }
            let answer = Answer::read(request.await.unwrap().unwrap()).await;
            assert!(!world.has_row(&id).await, "it was not committed");
            assert_eq!(answer.status, 503, "what never happened was told to have happened: {answer:?}");
            eventually("the host works again", async || (world.steps("query", json!({})).await.status == 200).then_some(()))
                .await;
            if again > 0 {
                break;
            }
        }
        assert!(again > 0, "no number was given out again in twenty turns, so nothing is shown");
    }
}

#[tokio::test]
async fn c02_without_a_database_the_answer_is_503_and_readiness_fails_until_it_is_back() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    assert_eq!(world.readyz().await.status, 200);
    world.proxy().refuse(true);
    world.proxy().break_all();
    // A guest that goes on as if nothing were; one that answers for itself may choose any status.
    let answer = world.steps("ignore-insert", json!({ "id": "early" })).await;
    assert_eq!((answer.status, answer.problem()), (503, "database-unavailable"), "{answer:?}");
    let unready = eventually("readiness fails", async || Some(world.readyz().await).filter(|answer| answer.status == 503)).await;
    assert_eq!(unready.body["status"], "unready");
    let reasons = unready.body["reasons"].to_string();
    let place = format!("127.0.0.1:{}", world.proxy().port);
    for named in ["PostgreSQL", place.as_str(), "TIDEMILL_DATABASE_URL"] {
        assert!(reasons.contains(named), "`{named}` is missing in {reasons}");
    }
    assert_eq!(world.admin("/livez").await.status, 200, "a restart would not help");
    world.proxy().refuse(false);
    eventually("readiness comes back", async || (world.readyz().await.status == 200).then_some(())).await;
    assert_eq!(world.steps("insert", json!({ "id": "late" })).await.status, 200);
    assert!(!world.has_row("early").await && world.has_row("late").await);
}
