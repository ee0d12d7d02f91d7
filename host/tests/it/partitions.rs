//! A partition pauses only for faults of the host's own parts, says so, and holds up nothing else.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(a_fault_of_the_hosts_own_pauses_its_partition_and_no_other, c07_a_failing_event_is_tried_again_after_a_restart,);

/// A transaction that holds the row `held` of the probe's table, which `probe.lock` events want.
async fn holding(world: &World) -> Client {
    let sql = world.sql().await;
    // In two texts: BEGIN would take what stands before it in one text into its transaction.
    for text in ["INSERT INTO probe.rows VALUES ('held', '')", "BEGIN; UPDATE probe.rows SET note = 'x' WHERE id = 'held'"] {
        sql.batch_execute(text).await.unwrap();
    }
    sql
}

/// An event that wants the row `held`.
async fn send_locking(world: &World, partition: i32, id: &str) -> (i32, i64) {
    let event = records::event(id, "probe.lock", &json!({ "rows": ["held"] }));
    records::produce_event(&world.broker.address(), &world.topic("in"), Some(partition), "k", &event).await
}

async fn a_fault_of_the_hosts_own_pauses_its_partition_and_no_other(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "sql_time", "1s");
    let world = world.started().await;
    let holder = holding(&world).await;
    world.send_event(0, "k", "before", "probe.ok").await;
    let (_, offset) = send_locking(&world, 0, "locked").await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    let shown = world.until_paused(0).await;
    assert_eq!(shown["group"], json!(world.group()), "{shown}");
    assert!(shown["offset"].as_i64().is_some_and(|shown| shown <= offset), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("lock")), "{shown}");
    assert!(!shown["since"].is_null() && !shown["retry_in_ms"].is_null(), "{shown}");
    for partition in [1, 2] {
        let id = format!("beside-{partition}");
        world.send_event(partition, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
    assert_eq!(world.seen("behind").await, 0);
    assert_eq!(world.steps("insert", json!({ "id": "meanwhile" })).await.status, 200);
    world.until_logged(&world.topic("in")).await;
    let metrics = world.admin("/metrics").await.text;
    assert!(metrics.lines().any(|line| line.contains("paused") && line.ends_with(" 1")), "{metrics}");
    holder.batch_execute("ROLLBACK").await.unwrap();
    world.until_seen("behind").await;
    world.until_handled(5).await;
    world.until_all_goes_on().await;
    assert_eq!((world.failed_attempts().await, world.dead().await.len()), (0, 0), "it was nobody's attempt");
}

async fn c07_a_failing_event_is_tried_again_after_a_restart(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    world.send_event(1, "k", "stubborn", "probe.fail").await;
    world.until_waiting(1).await;
    let error: String = world.sql().await.query_one("SELECT error FROM tidemill.waiting", &[]).await.unwrap().get(0);
    assert!(error.contains("stubborn"), "the reason is the handler's: {error}");
    assert!(world.host().sigterm().await.success());
    world.let_pass().await;
    world.start().await;
    world.until_seen("stubborn").await;
    world.send_event(1, "k", "next", "probe.ok").await;
    world.until_handled(2).await;
    world.until_waiting(0).await;
    world.until_all_goes_on().await;
}

#[tokio::test]
async fn the_delay_between_tries_grows() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "sql_time", "500ms");
    let world = world.started().await;
    let _holder = holding(&world).await;
    send_locking(&world, 0, "locked").await;
    let delay = async || world.until_paused(0).await["retry_in_ms"].as_i64();
    eventually("a delay is above a second", async || delay().await.filter(|&delay| delay > 1000)).await;
}

#[tokio::test]
async fn c22_sigterm_lets_the_work_under_way_finish() {
    let mut world = World::with_probe().await;
    let body = json!({ "id": "under-way", "ms": 1000 });
    let request = world.request("alice", "POST", "/probe/insert-then-sleep").json(&body).send();
    let request = tokio::spawn(request);
    world.until_pending().await;
    assert!(world.host().sigterm().await.success(), "exit code 0");
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert!(world.has_row("under-way").await);
}

#[tokio::test]
async fn c23_a_partition_that_was_full_when_it_moved_is_read_again_when_it_comes_back() {
    let world = World::with_probe().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    // No event can be handled before this transaction ends.
    let holder = world.sql().await;
    holder.batch_execute("BEGIN; LOCK TABLE probe.seen IN SHARE MODE").await.unwrap();
    let large = json!("x".repeat(700_000));
    for partition in 0..3 {
        // More than a partition's queue holds behind an event that cannot be handled: the consumer pauses it.
        for number in 0..15 {
            let event = records::event(&format!("large-{partition}-{number}"), "probe.ok", &large);
            records::produce_event(&address, &topic, Some(partition), "k", &event).await;
        }
        world.until_paused(partition).await;
    }
    let mut second = world.replica().await;
    eventually("a partition moves", async || second.log().contains("partitions assigned").then_some(())).await;
    second.sigterm().await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    for partition in 0..3 {
        world.until_seen(&format!("large-{partition}-14")).await;
    }
    world.until_handled(45).await;
}
