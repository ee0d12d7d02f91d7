//! Promises 6 and 8 when a deploy changes what a handler reads: events that wait run only on a revision that asks for them.

use serde_json::json;

use crate::support::host::succeeded;
use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c08_events_of_a_topic_that_is_not_read_any_more_wait_for_a_revision_that_reads_it,
    c08_waiting_events_of_a_type_that_is_not_wanted_any_more_are_skipped_and_hold_nothing_up,
);

impl World {
    /// Another revision reads other topics: these of the probe's, and of them these types.
    fn subscribe(&self, topics: &[&str], types: Option<&[&str]>) {
        let names: Vec<String> = topics.iter().map(|end| self.topic(end)).collect();
        self.handlers.change("probe", |manifest| {
            let mut first = manifest["topic"].as_array().unwrap()[0].as_table().unwrap().clone();
            first.remove("types");
            if let Some(types) = types {
                first.insert("types".into(), types.to_vec().into());
            }
            let topics = names.iter().map(|name| {
                let mut topic = first.clone();
                topic.insert("name".into(), name.clone().into());
                toml::Value::from(topic)
            });
            manifest.insert("topic".into(), topics.collect::<Vec<_>>().into());
        });
    }

    /// What the board says of events that no revision asks for.
    async fn unread(&self) -> Option<String> {
        self.readyz().await.body["notes"]["waiting events"].as_str().map(str::to_owned)
    }
}

/// A world in which failed events wait for longer than any test, until they are made due.
async fn patient(kind: Kind) -> World {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    world
}

async fn c08_events_of_a_topic_that_is_not_read_any_more_wait_for_a_revision_that_reads_it(kind: Kind) {
    let world = patient(kind).await;
    world.subscribe(&["in", "out"], None);
    let world = world.bare().await;
    world.deploy().await;
    let event = records::event("of-out", "probe.fail", &json!({}));
    records::produce_event(&world.broker.address(), &world.topic("out"), Some(0), "k", &event).await;
    world.send_event(0, "k", "of-in", "probe.fail").await;
    world.until_waiting(2).await;
    world.let_pass().await;
    world.subscribe(&["in"], None);
    world.deploy().await;
    world.make_due().await;
    world.until_seen("of-in").await;
    let note = eventually("the board names what waits", async || world.unread().await).await;
    assert!(
        note.contains("1 events")
            && note.contains(&world.topic("out"))
            && note.contains(&format!("`tidemill waiting list --group {}`", world.group())),
        "{note}"
    );
    assert_eq!(world.waiting().await, [("of-out".to_owned(), 1, true)]);
    assert_eq!(world.seen("of-out").await, 0, "a revision that never asked for it has handled it");
    let said = world.log().matches("where no active handler reads it").count();
    assert_eq!(said, 1, "{}", world.log());
    world.fleet(&["rollback", "probe"]).await;
    world.until_seen("of-out").await;
    world.until_waiting(0).await;
    eventually("the note is gone", async || world.unread().await.is_none().then_some(())).await;
    world.until_handled(2).await;
}

async fn c08_waiting_events_of_a_type_that_is_not_wanted_any_more_are_skipped_and_hold_nothing_up(kind: Kind) {
    let world = patient(kind).await.bare().await;
    world.deploy().await;
    for (key, id, kind) in [("a", "unwanted", "probe.fail"), ("a", "behind", "probe.ok"), ("b", "dead", "probe.reject")] {
        world.send_event(0, key, id, kind).await;
    }
    world.until_waiting(2).await;
    world.until_dead(1).await;
    world.let_pass().await;
    world.subscribe(&["in"], Some(&["probe.ok"]));
    world.deploy().await;
    world.make_due().await;
    world.until_seen("behind").await;
    world.until_waiting(0).await;
    assert_eq!(world.counted("tidemill_events_skipped_total", &[]).await, 1);
    // The replay of a dead letter is no replay if nobody handles it.
    let replay = world.tool(&["dlq", "replay", "--all", "--yes", "--wait", "0s"]);
    succeeded(replay.finish().await);
    let dead = "SELECT count(*) FROM tidemill.dead_letters WHERE state = 'dead' AND replays = 1 AND error_class = 'skipped'";
    world.until_count("the dead letter stays", dead, 1).await;
    world.until_waiting(0).await;
    world.until_handled(1).await;
}
