//! Promise 7: where a consumer group reads. Nothing is skipped silently.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::support::host::{fails_naming, succeeded};
use crate::support::records::{self, New};
use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(
    c07_records_deleted_before_they_were_read_pause_their_partition_alone,
    c07_a_log_cut_off_behind_a_running_consumer_pauses_with_the_number_missed,
    c07_a_log_cut_off_behind_a_partition_that_stands_still_pauses_it_meanwhile,
    c07_an_offset_beyond_the_end_pauses_and_says_so,
    c07_a_group_that_starts_latest_skips_nothing_from_its_start_on,
    c07_a_partition_that_a_topic_gets_begins_with_its_first_record,
    c07_a_partition_stays_where_it_is_when_another_topic_joins_its_group,
    c07_a_start_survives_the_loss_of_the_brokers_offsets,
    c07_a_consumer_whose_partitions_are_all_paused_stays_in_its_group,
);

impl World {
    /// `tidemill offsets reset` of a partition of the probe's topic.
    async fn reset(&self, partition: i32, to: &str) {
        let (group, topic, partition) = (self.group(), self.topic("in"), partition.to_string());
        let args =
            ["offsets", "reset", &group, "--topic", &topic, "--partition", &partition, "--to", to, "--yes", "--as", "tester"];
        succeeded(self.tool(&args).finish().await);
    }

    async fn committed(&self) -> BTreeMap<i32, i64> {
        records::committed(&self.broker.address(), &self.group(), &self.topic("in")).await
    }

    /// Waits until a partition is paused for a reason that has these words.
    async fn until_paused_for(&self, partition: i32, words: &str) -> Json {
        eventually(&format!("partition {partition} is paused for `{words}`"), async || {
            let shown = self.readyz().await.body["paused"].as_array().cloned().unwrap_or_default();
            let ours = |one: &Json| one["partition"] == partition && one["reason"].as_str().is_some_and(|r| r.contains(words));
            shown.into_iter().find(ours)
        })
        .await
    }

    async fn until_nothing_is_paused(&self) {
        eventually("nothing is paused", async || (self.readyz().await.body["paused"] == json!([])).then_some(())).await;
    }
}

async fn c07_a_partition_stays_where_it_is_when_another_topic_joins_its_group(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("first-{partition}"), "probe.ok").await;
        world.until_seen(&format!("first-{partition}")).await;
    }
    assert!(world.host().sigterm().await.success());
    assert_eq!(world.committed().await.values().sum::<i64>(), 3);
    let out = world.topic("out");
    world.handlers.change("probe", |manifest| {
        let mut second: toml::Table = manifest["topic"].as_array().unwrap()[0].as_table().unwrap().clone();
        second.insert("name".into(), out.clone().into());
        manifest["topic"].as_array_mut().unwrap().push(second.into());
    });
    let event = records::event("of-out", "probe.ok", &json!({}));
    records::produce_event(&world.broker.address(), &out, Some(0), "k", &event).await;
    world.start().await;
    world.until_seen("of-out").await;
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("last-{partition}"), "probe.ok").await;
        world.until_seen(&format!("last-{partition}")).await;
    }
    assert_eq!(world.metric("events_duplicate_total").await, 0.0, "what was committed is not read again");
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 7);
}

async fn c07_records_deleted_before_they_were_read_pause_their_partition_alone(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("first-{partition}"), "probe.ok").await;
        world.until_seen(&format!("first-{partition}")).await;
    }
    assert!(world.host().sigterm().await.success());
    let unread: Vec<New> = (0..15).map(|n| New::event(n % 3, &format!("unread-{n}"))).collect();
    records::produce_all(&address, &topic, &unread).await;
    records::delete_before(&address, &topic, 0, 4).await;
    world.start().await;
    let shown = world.until_paused_for(0, "3 records are missed").await;
    assert_eq!((&shown["offset"], &shown["group"]), (&json!(1), &json!(world.group())), "{shown}");
    assert!(
        shown["reason"]
            .as_str()
            .unwrap()
            .contains(&format!("tidemill offsets reset {} --topic {topic} --partition 0", world.group()))
    );
    assert_eq!(world.metric("records_missed").await, 3.0);
    world.until_logged("3 records are missed").await;
    for n in (0..15).filter(|n| n % 3 > 0) {
        world.until_seen(&format!("unread-{n}")).await;
    }
    assert_eq!(world.seen("unread-9").await + world.seen("unread-12").await, 0, "nobody has said where to go on");
    // Without --yes nothing happens.
    let group = world.group();
    let dry = world.tool(&["offsets", "reset", &group, "--topic", &topic, "--partition", "0", "--to", "earliest"]).finish().await;
    assert!(succeeded(dry).stdout.contains("--yes"));
    assert_eq!(world.count("SELECT count(*) FROM tidemill.offset_orders").await, 0);
    let wrong = world.tool(&["offsets", "reset", &group, "--topic", "nothing", "--partition", "0", "--to", "latest", "--yes"]);
    fails_naming(&wrong.finish().await, &["nothing[0]", &format!("{topic}[0]")]);
    world.reset(0, "earliest").await;
    for n in [9, 12] {
        world.until_seen(&format!("unread-{n}")).await;
    }
    world.until_nothing_is_paused().await;
    assert_eq!(world.metric("records_missed").await, 0.0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.offset_orders").await, 0);
    let recorded = "SELECT count(*) FROM tidemill.actions WHERE actor = 'tester' AND action = 'offsets.reset' AND via = 'cli'";
    assert_eq!(world.count(recorded).await, 1);
    let all = BTreeMap::from([(0, 6), (1, 6), (2, 6)]);
    eventually("all is committed", async || (world.committed().await == all).then_some(())).await;
    let shown = succeeded(world.tool(&["offsets", "show", &group, "--json"]).finish().await).stdout;
    let shown: Vec<Json> = serde_json::from_str(&shown).unwrap();
    assert_eq!(
        shown[0],
        json!({ "group": group, "topic": topic, "partition": 0, "committed": 6, "low": 4, "high": 6, "lag": 0 })
    );
    let doubled = "SELECT count(*) FROM (SELECT FROM probe.seen GROUP BY event_id HAVING count(*) > 1) d";
    assert_eq!(world.count(doubled).await, 0);
}

async fn c07_a_log_cut_off_behind_a_running_consumer_pauses_with_the_number_missed(kind: Kind) {
    cut_off(kind, false).await;
}

/// What librdkafka has in memory is thrown away after a while, and then it has nothing to say of the partition.
async fn c07_a_log_cut_off_behind_a_partition_that_stands_still_pauses_it_meanwhile(kind: Kind) {
    cut_off(kind, true).await;
}

/// `still`: nothing gets done until the partition is paused.
async fn cut_off(kind: Kind, still: bool) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    // Nothing gets done while the probe's table is locked, so the partition fills up.
    let lock = world.sql().await;
    lock.batch_execute("BEGIN; LOCK TABLE probe.seen").await.unwrap();
    let large = |n: i32| New {
        value: records::event(&format!("large-{n}"), "probe.ok", &json!("x".repeat(700_000))),
        ..New::event(0, "")
    };
    records::produce_all(&address, &topic, &(0..40).map(large).collect::<Vec<_>>()).await;
    let waits = "SELECT count(*) FROM pg_locks WHERE relation = 'probe.seen'::regclass AND NOT granted";
    eventually("the probe is at work", async || (world.count(waits).await > 0).then_some(())).await;
    records::delete_before(&address, &topic, 0, 38).await;
    if still {
        world.until_paused_for(0, "records are missed").await;
    }
    lock.batch_execute("COMMIT").await.unwrap();
    let shown = world.until_paused_for(0, "records are missed").await;
    let next = shown["offset"].as_i64().unwrap();
    assert!((1..38).contains(&next), "{shown}");
    eventually("what was in memory is handled", async || {
        (world.count("SELECT count(*) FROM probe.seen WHERE part = 0").await == next).then_some(())
    })
    .await;
    assert_eq!(world.count("SELECT max(off) FROM probe.seen WHERE part = 0").await, next - 1, "the number missed is exact");
    assert_eq!(world.metric("records_missed").await, (38 - next) as f64);
    for partition in [1, 2] {
        let id = format!("beside-{partition}");
        world.send_event(partition, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
    world.reset(0, "39").await;
    world.until_seen("large-39").await;
    assert_eq!(world.seen("large-38").await, 0);
    world.until_nothing_is_paused().await;
    // What the order left out can be had by another one.
    world.reset(0, "earliest").await;
    world.until_seen("large-38").await;
    assert_eq!(world.seen("large-39").await, 1);
}

async fn c07_an_offset_beyond_the_end_pauses_and_says_so(kind: Kind) {
    let mut world = World::probe(kind).await;
    world.prepared().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    world.send_event(1, "k", "lost", "probe.ok").await;
    records::commit(&address, &world.group(), &topic, 1, 100).await;
    world.start().await;
    let shown = world.until_paused_for(1, "beyond the end").await;
    assert_eq!(shown["offset"], 100);
    // An order that leads outside the log is answered in the same place.
    world.reset(1, "77").await;
    let shown = world.until_paused_for(1, "offset 77 is beyond the end").await;
    assert_eq!(shown["offset"], 77);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.offset_orders").await, 0);
    world.reset(1, "earliest").await;
    world.until_seen("lost").await;
    world.until_nothing_is_paused().await;
}

/// A world whose probe starts with what is new.
async fn latest(kind: Kind) -> World {
    let world = World::probe(kind).await;
    world.handlers.rewrite("probe", |text| text.replace("start = \"earliest\"", "start = \"latest\""));
    world.prepared().await;
    world
}

async fn c07_a_group_that_starts_latest_skips_nothing_from_its_start_on(kind: Kind) {
    let mut world = latest(kind).await;
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("old-{partition}"), "probe.ok").await;
    }
    world.start().await;
    let begun = BTreeMap::from([(0, 1), (1, 1), (2, 1)]);
    eventually("the group has begun", async || (world.committed().await == begun).then_some(())).await;
    // Dead before the first record; what comes meanwhile is after the start.
    world.host().kill_9();
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("between-{partition}"), "probe.ok").await;
    }
    world.start().await;
    for partition in 0..3 {
        world.until_seen(&format!("between-{partition}")).await;
        assert_eq!(world.seen(&format!("old-{partition}")).await, 0);
    }
}

async fn c07_a_partition_that_a_topic_gets_begins_with_its_first_record(kind: Kind) {
    let mut world = latest(kind).await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    world.start().await;
    eventually("the group has begun", async || (world.committed().await.len() == 3).then_some(())).await;
    records::grow_topic(&address, &topic, 4).await;
    // Before the group has heard of the partition.
    let early: Vec<New> = (0..3).map(|n| New::event(3, &format!("early-{n}"))).collect();
    eventually("the partition takes records", async || (records::partition_count(&address, &topic).await == 4).then_some(()))
        .await;
    records::produce_all(&address, &topic, &early).await;
    for n in 0..3 {
        world.until_seen(&format!("early-{n}")).await;
    }
    assert!(world.host().sigterm().await.success());
}

async fn c07_a_start_survives_the_loss_of_the_brokers_offsets(kind: Kind) {
    let mut world = latest(kind).await;
    world.start().await;
    eventually("the group has begun", async || (world.committed().await.len() == 3).then_some(())).await;
    world.host().kill_9();
    world.send_event(0, "k", "after", "probe.ok").await;
    // As if the commit had never reached the broker: a group of another name has none.
    let (old, new) = (world.group(), format!("{}-2", world.group()));
    world.handlers.rewrite("probe", |text| text.replace(&old, &new));
    world.sql().await.execute("UPDATE tidemill.scopes SET consumer_group = $1", &[&new]).await.unwrap();
    world.start().await;
    world.until_seen("after").await;
}

async fn c07_a_consumer_whose_partitions_are_all_paused_stays_in_its_group(kind: Kind) {
    let mut world = World::probe(kind).await;
    world.prepared().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("lost-{partition}"), "probe.ok").await;
        records::commit(&address, &world.group(), &topic, partition, 50).await;
    }
    world.start().await;
    let shown = world.until_paused_for(2, "beyond the end").await;
    let since: jiff::Timestamp = shown["since"].as_str().unwrap().parse().unwrap();
    // Longer than a session, which is 6 s.
    eventually("the pause lasts", async || (jiff::Timestamp::now().duration_since(since).as_secs() > 7).then_some(())).await;
    assert!(!world.log().contains("partitions revoked"), "the consumer was thrown out of its group");
    for partition in 0..3 {
        world.reset(partition, "earliest").await;
        world.until_seen(&format!("lost-{partition}")).await;
    }
    world.until_nothing_is_paused().await;
    assert!(world.host().sigterm().await.success());
}
