//! Promises 6 and 7: the events of a key are handled in the order of their first appearance, whatever happens while one of them waits, and
//! what waits holds up no other key and no offset.

use std::collections::BTreeMap;

use crate::support::events::outgoing;
use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c06_the_order_of_a_key_survives_retries_and_kill_9,
    c06_the_order_of_a_key_survives_a_rebalance,
    c06_one_poisoned_key_among_a_thousand_holds_up_nothing,
);

/// A world whose failing events wait for as long as the test needs, and try again soon.
async fn stubborn(kind: Kind) -> World {
    let world = World::probe(kind).await;
    for (name, value) in [("retries", 100), ("factor", 1)] {
        world.handlers.retry("probe", name, value);
    }
    world.handlers.retry("probe", "delay", "500ms");
    world
}

async fn c06_the_order_of_a_key_survives_retries_and_kill_9(kind: Kind) {
    let mut world = stubborn(kind).await.started().await;
    world.send(0, &[("a", "a1", "probe.ok"), ("a", "a2", "probe.fail"), ("a", "a3", "probe.ok"), ("b", "b1", "probe.ok")]).await;
    world.until_seen("b1").await;
    world.until_waiting(2).await;
    eventually("it is tried again", async || (world.waiting().await[0].1 > 2).then_some(())).await;
    world.host().kill_9();
    world.send(0, &[("a", "a4", "probe.vague"), ("b", "b2", "probe.ok"), ("a", "a5", "probe.ok")]).await;
    world.start().await;
    world.until_seen("b2").await;
    world.until_waiting(4).await;
    assert_eq!(world.order("a").await, "a1", "everything behind the failing one waits");
    world.host().kill_9();
    world.let_pass().await;
    world.start().await;
    world.until_handled(7).await;
    assert_eq!((world.order("a").await.as_str(), world.order("b").await.as_str()), ("a1 a2 a3 a4 a5", "b1 b2"));
    world.until_waiting(0).await;
    assert_eq!(world.dead().await, []);
}

async fn c06_the_order_of_a_key_survives_a_rebalance(kind: Kind) {
    let world = stubborn(kind).await.started().await;
    let send = async |from: usize, to: usize| {
        for number in from..to {
            for partition in 0..3 {
                let kind = if number == 2 { "probe.fail" } else { "probe.ok" };
                world.send_event(partition, &format!("key-{partition}"), &format!("{partition}-{number:02}"), kind).await;
            }
        }
    };
    send(0, 6).await;
    world.until_waiting(12).await;
    let second = world.replica().await;
    // Events come while partitions move.
    send(6, 10).await;
    eventually("a partition moves", async || second.log().contains("partitions assigned").then_some(())).await;
    send(10, 12).await;
    world.until_waiting(30).await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 6);
    world.let_pass().await;
    send(12, 16).await;
    world.until_handled(48).await;
    let wanted: BTreeMap<_, Vec<_>> = (0..3)
        .map(|partition| (Some(format!("key-{partition}")), (0..16).map(|number| format!("{partition}-{number:02}")).collect()))
        .collect();
    assert_eq!(world.seen_by_key().await, wanted);
    world.until_waiting(0).await;
    assert_eq!(world.dead().await, []);
}

async fn c06_one_poisoned_key_among_a_thousand_holds_up_nothing(kind: Kind) {
    let world = stubborn(kind).await;
    world.prepared().await;
    let mut events: Vec<_> =
        (0..1_000).map(|number| outgoing(None, Some(&format!("key-{number}")), &format!("e{number}"), "probe.ok")).collect();
    for (place, id, kind) in [(300, "p1", "probe.vague"), (500, "p2", "probe.ok"), (700, "p3", "probe.ok")] {
        events.insert(place, outgoing(None, Some("poison"), id, kind));
    }
    let places = world.produce(&events).await;
    let mut world = world;
    world.start().await;
    world.until_handled(1_000).await;
    world.until_waiting(3).await;
    assert_eq!((world.order("poison").await.as_str(), world.dead().await), ("", vec![]));
    // What waits holds up no offset: each partition is committed to its end.
    let mut ends = BTreeMap::new();
    for (partition, offset) in places {
        ends.insert(partition, offset + 1);
    }
    let (address, group, topic) = (world.broker.address(), world.group(), world.topic("in"));
    eventually("the offsets are committed to the end", async || {
        (records::committed(&address, &group, &topic).await == ends).then_some(())
    })
    .await;
    world.let_pass().await;
    world.until_handled(1_003).await;
    assert_eq!(world.order("poison").await, "p1 p2 p3");
    world.until_waiting(0).await;
}
