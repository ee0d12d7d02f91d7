//! Promise 22: a host that is told to stop ends in order.

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::records::{self, New};
use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(
    c22_sigterm_under_load_commits_exactly_what_was_handled,
    c22_a_batch_that_outlasts_the_grace_period_is_rolled_back_and_run_again,
);

fn terminate(world: &World) {
    assert!(std::process::Command::new("kill").args(["-TERM", &world.pid().to_string()]).status().unwrap().success());
}

async fn c22_sigterm_under_load_commits_exactly_what_was_handled(kind: Kind) {
    let mut world = World::probe(kind).await;
    world.handlers.limit("probe", "batch", 10);
    world.prepared().await;
    world.start().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let load: Vec<New> = (0..6_000).map(|n| New::event(n % 3, &format!("e{n}"))).collect();
    records::produce_all(&address, &topic, &load).await;
    let mut stops = 0;
    loop {
        let before = world.count("SELECT count(*) FROM probe.seen").await;
        eventually("work goes on", async || {
            (world.count("SELECT count(*) FROM probe.seen").await >= (before + 300).min(6_000)).then_some(())
        })
        .await;
        if world.count("SELECT count(*) FROM probe.seen").await == 6_000 {
            break;
        }
        assert!(world.host().sigterm().await.success(), "SIGTERM ends with exit code 0");
        stops += 1;
        let rows =
            world.sql().await.query("SELECT part, max(off) + 1, count(*) FROM probe.seen GROUP BY part", &[]).await.unwrap();
        let handled: BTreeMap<i32, i64> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        assert!(rows.iter().all(|row| row.get::<_, i64>(1) == row.get::<_, i64>(2)), "handled without gaps");
        let committed = records::committed(&address, &world.group(), &topic).await;
        let committed: BTreeMap<i32, i64> = committed.into_iter().filter(|(_, offset)| *offset > 0).collect();
        assert_eq!(committed, handled, "what is committed is what was handled");
        world.start().await;
    }
    assert!(stops > 0, "the load was over before the first SIGTERM");
    assert_eq!(world.metric("events_duplicate_total").await, 0.0, "an event was read twice");
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, 6_000);
}

#[tokio::test]
async fn c22_readiness_fails_before_the_work_under_way_has_ended() {
    let mut world = World::with_probe().await;
    let body = json!({ "id": "under-way", "ms": 3000 });
    let request = tokio::spawn(world.request("alice", "POST", "/probe/insert-then-sleep").json(&body).send());
    world.until_pending().await;
    terminate(&world);
    let unready = eventually("readiness fails", async || Some(world.readyz().await).filter(|answer| answer.status == 503)).await;
    assert!(unready.body["reasons"].to_string().contains("stopping"), "{unready:?}");
    assert!(!request.is_finished(), "the request is still under way");
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert!(world.host().sigterm().await.success());
}

async fn c22_a_batch_that_outlasts_the_grace_period_is_rolled_back_and_run_again(kind: Kind) {
    let mut world = World::probe(kind).await.env("TIDEMILL_SHUTDOWN_GRACE", "500ms");
    world.prepared().await;
    world.start().await;
    // The batch waits for a lock until long after the grace period.
    let lock = world.sql().await;
    lock.batch_execute("BEGIN; LOCK TABLE probe.seen").await.unwrap();
    for n in 0..3 {
        world.send_event(0, "k", &format!("e{n}"), "probe.ok").await;
    }
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'probe.seen'::regclass AND NOT granted";
    eventually("the batch is under way", async || (world.count(waits).await > 0).then_some(())).await;
    assert!(world.host().sigterm().await.success(), "exit code 0");
    lock.batch_execute("COMMIT").await.unwrap();
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 0);
    world.start().await;
    for n in 0..3 {
        world.until_seen(&format!("e{n}")).await;
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 3);
}

/// Whoever needs what it has locked goes on while it is still frozen: the server ends what idles in a transaction.
#[tokio::test]
async fn c22_a_frozen_host_loses_its_locks_within_seconds() {
    let world = World::with_probe().await;
    let event = records::event("locked", "probe.query", &json!({ "ms": 5_000 }));
    records::produce_event(&world.broker.address(), &world.topic("in"), Some(0), "k", &event).await;
    world.until_pending().await;
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill").args([name, &world.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    let frozen = std::time::Instant::now();
    let wanted = "INSERT INTO probe.rows VALUES ('locked', 'mine')";
    let got = tokio::time::timeout(std::time::Duration::from_secs(30), world.sql().await.batch_execute(wanted)).await;
    signal("-CONT");
    got.expect("its locks are given up").unwrap();
    assert!(frozen.elapsed() < std::time::Duration::from_secs(20), "{:?}", frozen.elapsed());
    world.until_handled(1).await;
}
