//! Promise 1: one invocation, one transaction.

use serde_json::{Value as Json, json};

use crate::support::{Answer, Cut, Fault, Kind, PATIENCE, World, on_both_brokers, records};

on_both_brokers!(c01_row_and_event_commit_together, c01_a_failed_event_leaves_nothing_of_its_batch);

/// A body whose row and event are called `id`.
fn work(world: &World, id: &str) -> Json {
    json!({ "id": id, "topic": world.topic("out"), "key": "k", "event_id": id })
}

/// Neither row nor event of this id exists. What was never in the outbox cannot have left.
async fn nothing_of(world: &World, id: &str) -> bool {
    let published =
        records::all(&world.broker.address(), &world.topic("out")).await.iter().any(|record| record.json()["id"] == id);
    let waiting = world.count("SELECT count(*) FROM tidemill.outbox").await;
    !world.has_row(id).await && waiting == 0 && !published
}

async fn c01_row_and_event_commit_together(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let answer = world.steps("insert-then-publish", work(&world, "both")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(world.has_row("both").await);
    world.until_outbox_is_empty().await;
    let records = records::all(&world.broker.address(), &world.topic("out")).await;
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].key.as_deref(), &records[0].json()["id"]), (Some("k"), &json!("both")));
}

/// Runs steps that must fail with this status and leave nothing, and that the host survives.
async fn fails_without_a_trace(world: &World, steps: &str, mut extra: Json) -> Answer {
    let mut body = work(world, "lost");
    body.as_object_mut().unwrap().append(extra.as_object_mut().unwrap());
    let answer = world.steps(steps, body).await;
    assert!(answer.status >= 500, "{steps}: {answer:?}");
    assert!(nothing_of(world, "lost").await, "{steps} left something behind");
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    answer
}

#[tokio::test]
async fn c01_a_trap_leaves_nothing() {
    let world = World::with_probe().await;
    let answer = fails_without_a_trace(&world, "insert-then-publish-then-trap", json!({})).await;
    assert_eq!((answer.status, answer.problem()), (500, "handler-failed"));
    assert!(!answer.text.contains("trapped as asked"), "what the guest says is for the log, not for callers");
    world.until_logged("trapped as asked").await;
}

#[tokio::test]
async fn c01_a_timeout_leaves_nothing() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "1s");
    let world = world.started().await;
    let answer = fails_without_a_trace(&world, "insert-then-publish-then-sleep", json!({ "ms": 60_000 })).await;
    assert_eq!((answer.status, answer.problem()), (504, "handler-timeout"));
}

#[tokio::test]
async fn c01_an_exceeded_limit_leaves_nothing() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "cpu", "300ms");
    world.handlers.limit("probe", "memory", "16MiB");
    let world = world.started().await;
    for (steps, limit) in [("insert-then-publish-then-spin", "cpu"), ("insert-then-publish-then-alloc", "memory")] {
        let answer = fails_without_a_trace(&world, steps, json!({})).await;
        assert_eq!(answer.problem(), "limit-exceeded", "{steps}: {answer:?}");
        world.until_logged(&format!("limit `{limit}`")).await;
    }
}

#[tokio::test]
async fn c01_a_swallowed_sql_error_is_no_success_and_names_the_statement() {
    let world = World::with_probe().await;
    for steps in ["insert-then-swallow", "insert-then-publish-then-swallow", "insert-then-ignore-insert"] {
        let answer = fails_without_a_trace(&world, steps, json!({})).await;
        assert_eq!(answer.problem(), "handler-failed", "{steps}: {answer:?}");
    }
    // What a later request logs comes after it.
    world.steps("log", json!({ "text": "the end" })).await;
    world.until_logged("logged the end").await;
    assert!(world.log().to_lowercase().contains("insert into rows"), "the log names the failed statement");
}

#[tokio::test]
async fn c01_after_a_failed_statement_every_call_fails() {
    let world = World::with_probe().await;
    for steps in ["swallow-then-query", "swallow-then-publish"] {
        let answer = world.steps(steps, work(&world, "later")).await;
        assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("TransactionFailed")), "{steps}: {answer:?}");
    }
    assert!(nothing_of(&world, "later").await);
}

#[tokio::test]
async fn c01_a_refused_event_or_statement_dooms_the_unit_too() {
    let world = World::with_probe().await;
    let not_granted = json!({ "topic": "somebody-elses" });
    fails_without_a_trace(&world, "insert-then-ignore-publish", not_granted).await;
    fails_without_a_trace(&world, "insert-then-ignore-sql", json!({ "sql": "COMMIT" })).await;
    fails_without_a_trace(&world, "insert-then-ignore-sql", json!({ "sql": "SELECT $1::uuid", "params": ["no uuid"] })).await;
}

#[tokio::test]
async fn c01_a_lost_connection_leaves_nothing_and_the_next_request_works() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    let slow = tokio::spawn({
        let body = json!({ "id": "lost", "ms": 3000, "topic": world.topic("out"), "event_id": "lost" });
        let request = world.request("alice", "POST", "/probe/insert-then-publish-then-sleep-then-query").json(&body);
        async { Answer::read(request.send().await.unwrap()).await }
    });
    world.until_pending().await;
    world.proxy().break_all();
    let answer = slow.await.unwrap();
    assert!(answer.status >= 400, "{answer:?}");
    assert!(nothing_of(&world, "lost").await);
    crate::support::eventually("the host works again", async || {
        (world.steps("query", json!({})).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn c01_a_commit_that_was_a_rollback_is_noticed() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    for steps in ["insert", "insert-then-publish"] {
        world.proxy().arm(Fault::AbortUnseen, "into rows");
        fails_without_a_trace(&world, steps, json!({})).await;
    }
    assert_eq!(world.proxy().hits(), 2);
}

async fn c01_a_failed_event_leaves_nothing_of_its_batch(kind: Kind) {
    let world = World::probe(kind).await;
    world.prepared().await;
    // All three are in the topic before the host reads it, so that they can be one batch.
    for (id, what) in [("before", "probe.ok"), ("bad", "probe.fail"), ("after", "probe.ok")] {
        world.send_event(0, "k", id, what).await;
    }
    let mut world = world;
    world.start().await;
    world.until_waiting(2).await;
    assert_eq!((world.seen("bad").await, world.seen("after").await), (0, 0), "nothing of its key passes the event that fails");
    assert_eq!(world.seen("before").await, 1);
    world.let_pass().await;
    world.until_seen("after").await;
    let query = "SELECT event_id FROM probe.seen ORDER BY seq";
    let order: Vec<String> = world.sql().await.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(order, ["before", "bad", "after"]);
}

#[tokio::test]
async fn c01_a_trapping_event_leaves_nothing() {
    let world = World::with_probe().await;
    world.send_event(1, "k", "trap", "probe.trap").await;
    world.until_waiting(1).await;
    // Nothing of the handler's; the host has noted that the event waits.
    assert_eq!((world.seen("trap").await, world.count("SELECT count(*) FROM tidemill.inbox").await), (0, 1));
    let class = "SELECT count(*) FROM tidemill.waiting WHERE error_class = 'trap' AND error LIKE '%trap%'";
    assert_eq!(world.count(class).await, 1);
    world.let_pass().await;
    world.until_seen("trap").await;
    assert_eq!(world.seen("trap").await, 1);
}

#[tokio::test]
async fn c01_a_cut_commit_of_a_batch_has_its_effect_once() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    for cut in [Cut::BeforeCommit, Cut::AfterCommit] {
        let id = format!("cut-{}", u8::from(cut == Cut::AfterCommit));
        world.proxy().arm(Fault::Cut(cut), "into seen");
        world.send_event(2, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
        let after = format!("{id}-after");
        world.send_event(2, "k", &after, "probe.ok").await;
        tokio::time::timeout(PATIENCE, world.until_seen(&after)).await.unwrap();
        assert_eq!(world.seen(&id).await, 1);
    }
    assert_eq!(world.proxy().hits(), 2);
}

/// Of some the host knows it, of others the server.
#[tokio::test]
async fn c01_a_parameter_that_does_not_fit_is_named_and_nothing_is_kept() {
    let world = World::with_probe().await;
    let insert = |note: &str| format!("INSERT INTO rows (id, note) VALUES ($1, {note}) RETURNING id");
    for (statement, params, why) in [
        (insert("$2::uuid::text"), json!(["a", "no uuid"]), "parameter $2 is of type uuid"),
        (insert("$2::jsonb::text"), json!(["a", "{no"]), "parameter $2 does not fit: invalid input syntax for type json"),
        (
            insert("$2::jsonb[]::text"),
            json!(["a", ["{}", "{no $3"]]),
            "parameter $2 does not fit: invalid input syntax for type json",
        ),
        (insert("$2::jsonb::text"), json!(["a", "\"\\u0000\""]), "parameter $2 does not fit: unsupported Unicode escape"),
    ] {
        let answer = world.steps("sql", json!({ "sql": statement, "params": params })).await;
        assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("Parameter")), "{statement}: {answer:?}");
        assert!(answer.body["message"].as_str().unwrap().starts_with(why), "{statement}: {answer:?}");
    }
    // What fails later is the statement's.
    let answer = world.steps("sql", json!({ "sql": insert("(1 / $2::int)::text"), "params": ["a", 0] })).await;
    assert_eq!(answer.body["kind"], "Statement", "{answer:?}");
    assert_eq!(world.count("SELECT count(*) FROM probe.rows").await, 0);
}
