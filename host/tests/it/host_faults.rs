//! Faults of the parts around the host while events flow, and handlers that misbehave: nothing is lost, nothing doubled, no key inverted.

use std::sync::Arc;
use std::time::Duration;

use crate::support::events::outgoing;
use crate::support::ledger::Ledger;
use crate::support::postgres::{Cluster, Database};
use crate::support::{Broker, Kind, World, eventually, on_both_brokers};

on_both_brokers!(
    a_restart_of_the_broker_loses_doubles_and_inverts_nothing,
    both_parts_gone_for_a_minute_lose_double_and_invert_nothing,
    a_rebalance_in_the_middle_of_a_batch_loses_doubles_and_inverts_nothing,
    a_restart_of_postgresql_loses_doubles_and_inverts_nothing,
    misbehaving_events_fail_alone_and_hold_up_nothing,
);

/// How long a part is away: longer than the clients' first tries, shorter than a session.
const AWAY: Duration = Duration::from_secs(3);
/// Longer than a session, so that the group has forgotten its member, and longer than any wait between tries.
const LONG_AWAY: Duration = Duration::from_secs(60);
const FLOW: Duration = Duration::from_millis(1_500);

/// A world whose failing events wait until the ledger lets them pass.
async fn world_on(broker: Arc<Broker>, cluster: Option<&Cluster>) -> World {
    let database = match cluster {
        Some(cluster) => Database::create_on(cluster).await,
        None => Database::create().await,
    };
    let world = World::with_database(database, broker);
    for (name, value) in [("retries", 100), ("factor", 1)] {
        world.handlers.retry("probe", name, value);
    }
    world.handlers.retry("probe", "delay", "1s");
    world.started().await
}

async fn a_restart_of_the_broker_loses_doubles_and_inverts_nothing(kind: Kind) {
    let world = world_on(Broker::dedicated(kind).await, None).await;
    let ledger = Ledger::default();
    let restart = async {
        tokio::time::sleep(FLOW).await;
        world.broker.stop().await;
        tokio::time::sleep(AWAY).await;
        world.broker.start().await;
        tokio::time::sleep(FLOW).await;
    };
    ledger.flow_while(&world, restart).await;
    ledger.settle(&world).await;
}

async fn a_restart_of_postgresql_loses_doubles_and_inverts_nothing(kind: Kind) {
    let cluster = Cluster::dedicated();
    let world = world_on(Broker::shared(kind).await, Some(&cluster)).await;
    let ledger = Ledger::default();
    let restarts = async {
        for away in [Duration::ZERO, AWAY] {
            tokio::time::sleep(FLOW).await;
            cluster.stop();
            tokio::time::sleep(away).await;
            cluster.start();
        }
        tokio::time::sleep(FLOW).await;
    };
    ledger.flow_while(&world, restarts).await;
    ledger.settle(&world).await;
}

async fn both_parts_gone_for_a_minute_lose_double_and_invert_nothing(kind: Kind) {
    let cluster = Cluster::dedicated();
    let world = world_on(Broker::dedicated(kind).await, Some(&cluster)).await;
    let ledger = Ledger::default();
    let gone = async {
        tokio::time::sleep(FLOW).await;
        cluster.stop();
        world.broker.stop().await;
        tokio::time::sleep(LONG_AWAY).await;
        cluster.start();
        world.broker.start().await;
        tokio::time::sleep(FLOW).await;
    };
    ledger.flow_while(&world, gone).await;
    ledger.settle(&world).await;
}

async fn a_rebalance_in_the_middle_of_a_batch_loses_doubles_and_inverts_nothing(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "wall", "2m");
    world.prepared().await;
    let mut events = Vec::new();
    for partition in 0..3 {
        for number in 0..60 {
            // A batch of these takes several seconds.
            let kind = if number % 4 == 0 { "probe.slow" } else { "probe.ok" };
            events.push(outgoing(Some(partition), Some(&format!("key-{partition}")), &format!("{partition}-{number:02}"), kind));
        }
    }
    world.produce(&events).await;
    let mut world = world;
    world.start().await;
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    eventually("batches are under way", async || (world.count(busy).await >= 3).then_some(())).await;
    let mut second = world.replica().await;
    eventually("a partition moves", async || second.log().contains("partitions assigned").then_some(())).await;
    // And back again, at once.
    assert!(second.sigterm().await.success());
    world.until_handled(180).await;
    for partition in 0..3 {
        let wanted: Vec<_> = (0..60).map(|number| format!("{partition}-{number:02}")).collect();
        assert_eq!(world.order(&format!("key-{partition}")).await, wanted.join(" "));
    }
    assert_eq!((world.dead().await, world.waiting().await), (vec![], vec![]));
}

/// Handlers that hang, compute or allocate without end, or trap, fail their event alone, with an error that names the limit.
async fn misbehaving_events_fail_alone_and_hold_up_nothing(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "wall", "4s");
    world.handlers.limit("probe", "cpu", "500ms");
    world.handlers.limit("probe", "memory", "32MiB");
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "50ms");
    world.prepared().await;
    let bad = [("hang", "timeout", "`wall`"), ("spin", "limit", "`cpu`"), ("hog", "limit", "`memory`"), ("trap", "trap", "trap")];
    let mut events = Vec::new();
    for number in 0..100 {
        let partition = Some(number % 3);
        events.push(outgoing(partition, Some(&format!("key-{number}")), &format!("e{number}"), "probe.ok"));
        if number % 25 == 10 {
            let name = bad[usize::try_from(number / 25).unwrap()].0;
            events.push(outgoing(partition, Some(name), name, &format!("probe.{name}")));
            events.push(outgoing(partition, Some(name), &format!("after-{name}"), "probe.ok"));
        }
    }
    world.produce(&events).await;
    let mut world = world;
    world.start().await;
    world.until_dead(4).await;
    world.until_handled(104).await;
    world.until_waiting(0).await;
    let query = "SELECT attempts, error_class, error FROM tidemill.dead_letters WHERE event_id = $1";
    for (name, class, says) in bad {
        let row = world.sql().await.query_one(query, &[&name]).await.unwrap();
        assert_eq!((row.get::<_, i32>(0), row.get::<_, String>(1)), (2, class.to_owned()), "{name}");
        let reason: String = row.get(2);
        assert!(reason.contains(says), "{name}: {reason}");
    }
    assert_eq!(world.steps("ok", serde_json::json!({})).await.status, 200);
}
