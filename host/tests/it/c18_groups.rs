//! Promise 18 for consumer groups: a switch leaves them as they are, unless their topics change; then only the one group reads anew.

use crate::support::records;
use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(c18_a_switch_leaves_consumer_groups_alone_unless_their_topics_change);

async fn c18_a_switch_leaves_consumer_groups_alone_unless_their_topics_change(kind: Kind) {
    let mut world = World::probe(kind).await.env("TIDEMILL_LOG", "info,tidemill=debug").bare().await;
    world.deploy().await;
    let (address, group) = (world.broker.address(), world.group());
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("first-{partition}"), "probe.ok").await;
        world.until_seen(&format!("first-{partition}")).await;
    }
    let members = records::members(&address, &group).await;
    assert_eq!(members.len(), 1);
    let assignments = |world: &World| world.log().matches("reading").count();
    let before = assignments(&world);
    for turn in 0..4 {
        // Other code, other limits, other types: none of that concerns the group.
        world.mark_probe(turn % 2 == 0);
        world.handlers.limit("probe", "batch", 100 + turn);
        let types = format!("types = [\"probe.ok\", \"probe.{turn}\"]\nstart = \"earliest\"");
        world.handlers.rewrite("probe", |text| {
            let without: String =
                text.lines().filter(|line| !line.starts_with("types")).map(|line| format!("{line}\n")).collect();
            without.replace("start = \"earliest\"", &types)
        });
        assert_eq!(world.deploy().await["changed"], true);
        // The revision that runs decides which types are handled.
        world.send_event(0, "k", &format!("unwanted-{turn}"), &format!("probe.{}", turn + 10)).await;
        world.send_event(0, "k", &format!("wanted-{turn}"), &format!("probe.{turn}")).await;
        world.until_seen(&format!("wanted-{turn}")).await;
        assert_eq!(world.seen(&format!("unwanted-{turn}")).await, 0);
    }
    assert_eq!(records::members(&address, &group).await, members, "the member left its group");
    assert_eq!(assignments(&world), before, "partitions were assigned anew");
    assert!(!world.log().contains("left the group"));

    let out = world.topic("out");
    world.handlers.change("probe", |manifest| {
        let mut second: toml::Table = manifest["topic"].as_array().unwrap()[0].as_table().unwrap().clone();
        second.insert("name".into(), out.clone().into());
        second.remove("types");
        manifest["topic"].as_array_mut().unwrap().push(second.into());
    });
    assert_eq!(world.deploy().await["changed"], true);
    let event = records::event("of-out", "probe.ok", &serde_json::json!({}));
    records::produce_event(&address, &out, Some(0), "k", &event).await;
    world.until_seen("of-out").await;
    world.send_event(1, "k", "last", "probe.ok").await;
    world.until_seen("last").await;
    eventually("the group has begun anew", async || world.log().contains("left the group").then_some(())).await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 3 + 4 + 2, "nothing was handled twice");
    assert!(world.host().sigterm().await.success());
}
