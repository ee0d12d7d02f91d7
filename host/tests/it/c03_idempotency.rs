//! Promise 3: a request that is sent again with its `Idempotency-Key` takes effect once, whatever happens in between.

use serde_json::{Value as Json, json};

use crate::support::host::Run;
use crate::support::{Answer, Cut, Fault, Kind, World, eventually, on_both_brokers, records};
use crate::todo;

on_both_brokers!(c03_the_same_request_takes_effect_once_and_gets_the_same_answer);

/// Leaves one row and one event each time that it runs; its answer is another each time.
const STEPS: &str = "sql-then-publish";

/// A body whose rows and events are called `id`.
pub fn work(world: &World, id: &str) -> Json {
    let sql = "INSERT INTO seen (event_id, source, type, topic, part, off) VALUES ($1, 'http', 'request', '', 0, 0)";
    json!({ "id": id, "sql": sql, "params": [id], "topic": world.topic("out"), "key": id, "type": id, "ms": 60_000 })
}

/// Sends a request with a key; `None` when the connection broke.
pub async fn try_keyed(world: &World, key: &str, steps: &str, body: &Json) -> Option<Answer> {
    let request = world.request("alice", "POST", &format!("/probe/{steps}")).header("idempotency-key", key).json(body);
    Some(Answer::read(request.send().await.ok()?).await)
}

/// Sends a request with a key.
pub async fn keyed(world: &World, key: &str, steps: &str, body: &Json) -> Answer {
    try_keyed(world, key, steps, body).await.expect("the host answers")
}

/// Whether an answer is one of before.
pub fn replayed(answer: &Answer) -> bool {
    answer.header("idempotency-replayed") == Some("true")
}

/// How many answers are kept.
pub async fn kept(world: &World) -> i64 {
    world.count("SELECT count(*) FROM tidemill.idempotency").await
}

/// A success with its one effect: a row and, once the outbox is empty, an event.
async fn took_effect_once(world: &World, id: &str) {
    assert_eq!(world.seen(id).await, 1, "rows of {id}");
    world.until_outbox_is_empty().await;
    let records = records::all(&world.broker.address(), &world.topic("out")).await;
    assert_eq!(records.iter().filter(|record| record.json()["type"] == id).count(), 1, "events of {id}");
}

async fn c03_the_same_request_takes_effect_once_and_gets_the_same_answer(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let body = work(&world, "once");
    let first = keyed(&world, "8e03978e-40d5", STEPS, &body).await;
    assert_eq!((first.status, replayed(&first)), (200, false), "{first:?}");
    for key in ["8e03978e-40d5", "\"8e03978e-40d5\""] {
        let again = keyed(&world, key, STEPS, &body).await;
        assert_eq!((again.status, &again.text, replayed(&again)), (200, &first.text, true));
        assert_eq!(again.header("content-type"), Some("application/json"));
        assert_ne!(again.header("x-request-id"), first.header("x-request-id"), "it is a request of its own");
    }
    took_effect_once(&world, "once").await;
    let without = world.steps(STEPS, body).await;
    assert!(!replayed(&without) && without.text != first.text, "without a key nothing is remembered");
}

#[tokio::test]
async fn c03_status_headers_and_body_come_again_as_they_were() {
    let world = World::with_probe().await;
    let headers =
        json!({ "location": "/somewhere", "etag": "\"7\"", "x-note": "grüße", "x-broken": "a\0b", "idempotency-replayed": "no" });
    for (status, bytes) in [(201, 0), (204, 0), (303, 10), (200, 300), (202, 5 << 20)] {
        let body = json!({ "id": status.to_string(), "status": status, "headers": headers, "bytes": bytes });
        let key = format!("key-{status}");
        let first = keyed(&world, &key, "insert-then-status", &body).await;
        let again = keyed(&world, &key, "insert-then-status", &body).await;
        for answer in [&first, &again] {
            assert_eq!(answer.status, status, "{:?}", answer.headers);
            assert_eq!((answer.header("location"), answer.header("etag")), (Some("/somewhere"), Some("\"7\"")));
            assert_eq!(answer.headers["x-note"].as_bytes(), "grüße".as_bytes());
            assert!(!answer.headers.contains_key("x-broken"));
        }
        assert!(first.text == again.text, "the body of {bytes} bytes is another");
        assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), (None, Some("true")));
    }
}

#[tokio::test]
async fn c03_a_handler_that_asks_the_database_nothing_runs_once_too() {
    let world = World::with_probe().await;
    for steps in ["ok", "publish"] {
        let body = work(&world, steps);
        let (first, again) = (keyed(&world, steps, steps, &body).await, keyed(&world, steps, steps, &body).await);
        assert_eq!((first.status, again.status, replayed(&again)), (200, 200, true));
        assert_eq!(first.text, again.text, "it names its own request id or event id");
    }
}

#[tokio::test]
async fn c03_while_the_first_runs_the_answer_is_409_at_once() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "60s");
    let world = world.proxied().await.started().await;
    world.proxy().arm(Fault::HoldCommit, "into rows");
    let body = json!({ "id": "slow" });
    let first = tokio::spawn({
        let request = world.request("alice", "POST", "/probe/insert").header("idempotency-key", "k").json(&body);
        async { Answer::read(request.send().await.unwrap()).await }
    });
    eventually("the commit is held", async || (world.proxy().hits() == 1).then_some(())).await;
    for body in [&body, &json!({ "id": "other" })] {
        let second = keyed(&world, "k", "insert", body).await;
        assert_eq!((second.status, second.problem(), second.header("retry-after")), (409, "request-outstanding", Some("1")));
    }
    assert!(!first.is_finished());
    world.proxy().release();
    let first = first.await.unwrap();
    let again = keyed(&world, "k", "insert", &body).await;
    assert_eq!((first.status, again.status, &first.text, replayed(&again)), (200, 200, &again.text, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c03_of_many_at_once_one_takes_effect() {
    let world = World::with_probe().await;
    for round in 0..5 {
        let id = format!("crowd-{round}");
        let body = work(&world, &id);
        let answers = futures_util::future::join_all((0..20).map(|_| keyed(&world, &id, STEPS, &body))).await;
        let last = keyed(&world, &id, STEPS, &body).await;
        assert!(replayed(&last), "{last:?}");
        for answer in answers {
            assert!(answer.status == 409 || answer.text == last.text, "{answer:?}");
        }
        took_effect_once(&world, &id).await;
    }
}

#[tokio::test]
async fn c03_a_failed_attempt_leaves_no_trace_and_may_be_repeated() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "cpu", "300ms");
    world.handlers.limit("probe", "wall", "2s");
    let world = world.started().await;
    let ends = ["status", "swallow", "trap", "spin", "sleep", "deferred", "ignore-swallow", "unknown"];
    for (number, end) in ends.iter().enumerate() {
        let id = format!("failed-{number}");
        let mut body = work(&world, &id);
        body["status"] = json!(422);
        for _ in 0..2 {
            let failed = keyed(&world, &id, &format!("{STEPS}-then-{end}"), &body).await;
            assert!(failed.status >= 400 && failed.status != 409, "{end}: {failed:?}");
            assert_eq!(kept(&world).await, number as i64, "{end} left its answer behind");
        }
        // What never happened may even be another request.
        let good = keyed(&world, &id, STEPS, &body).await;
        assert_eq!((good.status, replayed(&good)), (200, false), "after {end}: {good:?}");
        took_effect_once(&world, &id).await;
    }
}

#[tokio::test]
async fn c03_who_is_told_of_a_failure_finds_the_key_free_at_once() {
    let world = World::with_probe().await;
    for round in 0..100 {
        let answer = keyed(&world, "k", "insert-then-status", &json!({ "id": "never", "status": 400 })).await;
        assert_eq!(answer.status, 400, "round {round}: {answer:?}");
    }
}

#[tokio::test]
async fn c03_a_statement_that_was_cut_off_holds_no_key() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "1s");
    let world = world.started().await;
    let blocker = world.sql().await;
    blocker.batch_execute("BEGIN; LOCK TABLE probe.rows IN ACCESS EXCLUSIVE MODE").await.unwrap();
    for _ in 0..3 {
        let cut = keyed(&world, "k", "insert", &work(&world, "cut")).await;
        assert_eq!((cut.status, cut.problem()), (504, "handler-timeout"), "{cut:?}");
    }
    let good = keyed(&world, "k", STEPS, &work(&world, "cut")).await;
    assert_eq!((good.status, replayed(&good)), (200, false), "{good:?}");
}

#[tokio::test]
async fn c03_another_replica_gives_the_answer_of_the_first() {
    let mut world = World::with_probe().await;
    let run: Run = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
    let second = run.serve().await;
    let body = work(&world, "replicas");
    let first = keyed(&world, "k", STEPS, &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    // The same requests, to the other one.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let there = async |path: &str| {
        let request = client.post(format!("{}{path}", second.http)).bearer_auth(crate::support::http::token("alice", false));
        Answer::read(request.header("idempotency-key", "k").json(&body).send().await.unwrap()).await
    };
    let again = there(&format!("/probe/{STEPS}")).await;
    assert_eq!((again.status, &again.text, replayed(&again)), (200, &first.text, true));
    assert_eq!(there("/probe/ok").await.problem(), "idempotency-key-reused");
    world.host().kill_9();
    let again = there(&format!("/probe/{STEPS}")).await;
    assert_eq!((again.status, again.text), (200, first.text));
    assert_eq!(world.seen("replicas").await, 1);
}

#[tokio::test]
async fn c03_an_unknown_outcome_is_learned_by_repeating() {
    let world = World::probe(Kind::Embedded).await.env("TIDEMILL_OUTCOME_DEADLINE", "1s").proxied().await.started().await;
    for (cut, happened) in [(Cut::AfterCommit, true), (Cut::BeforeCommit, false)] {
        for steps in [STEPS, "publish"] {
            let id = format!("unknown-{happened}-{steps}");
            let body = work(&world, &id);
            world.proxy().arm(Fault::CutAndRefuse(cut), "into tidemill.idempotency");
            let lost = keyed(&world, &id, steps, &body).await;
            assert_eq!((lost.status, lost.problem()), (503, "outcome-unknown"), "{lost:?}");
            assert!(lost.text.contains("same Idempotency-Key"), "{lost:?}");
            world.proxy().refuse(false);
            // The server may still be at the transaction whose connection was cut, and the host without a connection.
            let again = eventually("the repeated request succeeds", async || {
                let answer = keyed(&world, &id, steps, &body).await;
                assert!(matches!(answer.status, 200 | 409 | 503), "{answer:?}");
                (answer.status == 200).then_some(answer)
            })
            .await;
            assert_eq!(replayed(&again), happened, "{again:?}");
            if steps == STEPS {
                took_effect_once(&world, &id).await;
            }
        }
    }
    assert_eq!(world.proxy().hits(), 4);
}

#[tokio::test]
async fn c03_a_commit_that_was_cut_is_found_out_and_kept() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    for steps in [STEPS, "ok"] {
        let body = work(&world, steps);
        world.proxy().arm(Fault::Cut(Cut::AfterCommit), "into tidemill.idempotency");
        let first = keyed(&world, steps, steps, &body).await;
        let again = keyed(&world, steps, steps, &body).await;
        assert_eq!((first.status, again.status, replayed(&again)), (200, 200, true), "{first:?}");
        assert_eq!(first.text, again.text);
    }
    took_effect_once(&world, STEPS).await;
    assert_eq!(world.proxy().hits(), 2);
}

#[tokio::test]
async fn c03_a_host_killed_between_commit_and_answer_has_one_effect() {
    let mut world = World::probe(Kind::Embedded).await.env("TIDEMILL_OUTCOME_DEADLINE", "60s").proxied().await.started().await;
    let body = work(&world, "killed");
    world.proxy().arm(Fault::CutAndRefuse(Cut::AfterCommit), "into tidemill.idempotency");
    let request = world.request("alice", "POST", &format!("/probe/{STEPS}")).header("idempotency-key", "k").json(&body);
    let first = tokio::spawn(request.send());
    eventually("it is committed", async || (world.seen("killed").await == 1).then_some(())).await;
    assert!(!first.is_finished(), "nobody has heard of it");
    world.host().kill_9();
    assert!(first.await.unwrap().is_err());
    world.proxy().refuse(false);
    world.start().await;
    let again = keyed(&world, "k", STEPS, &body).await;
    assert_eq!((again.status, replayed(&again)), (200, true), "{again:?}");
    took_effect_once(&world, "killed").await;
}

#[tokio::test]
async fn c03_a_host_killed_before_the_commit_leaves_the_key_free() {
    let mut world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    let body = work(&world, "early");
    world.proxy().arm(Fault::HoldCommit, "into tidemill.idempotency");
    let request = world.request("alice", "POST", &format!("/probe/{STEPS}")).header("idempotency-key", "k").json(&body);
    let first = tokio::spawn(request.send());
    eventually("the commit is held", async || (world.proxy().hits() == 1).then_some(())).await;
    world.host().kill_9();
    assert!(first.await.unwrap().is_err());
    world.proxy().break_all();
    world.start().await;
    let again =
        eventually("the key is free", async || Some(keyed(&world, "k", STEPS, &body).await).filter(|a| a.status != 409)).await;
    assert_eq!((again.status, replayed(&again)), (200, false), "{again:?}");
    took_effect_once(&world, "early").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c03_a_task_that_is_created_twice_is_one() {
    let world = World::with_todo(Kind::Embedded).await;
    let create = async |title: &str| {
        let request = world.request("ann", "POST", "/api/tasks").header("idempotency-key", "\"c0ffee\"");
        Answer::read(request.json(&json!({ "title": title })).send().await.unwrap()).await
    };
    let invalid = create(" ").await;
    assert_eq!(invalid.status, 422, "{invalid:?}");
    let (first, again, other) = (create("Water").await, create("Water").await, create("Feed").await);
    assert_eq!((first.status, again.status), (201, 201), "{first:?}");
    assert_eq!(first.text, again.text);
    assert_eq!((other.status, other.problem()), (422, "idempotency-key-reused"));
    let complete = async || {
        let request = world.request("ann", "POST", &todo::path(&first.body, "/complete")).header("idempotency-key", "c0ffee");
        Answer::read(request.send().await.unwrap()).await
    };
    let (first, again) = (complete().await, complete().await);
    assert_eq!((first.status, &first.text, replayed(&again)), (200, &again.text, true), "another route has its own keys");
    todo::settled(&world, "ann").await;
    assert_eq!(world.count("SELECT count(*) FROM todo.tasks").await, 2, "the task, and the mark of `settled`");
    assert_eq!(world.count("SELECT count(*) FROM todo.audit_log").await, 3);
}
