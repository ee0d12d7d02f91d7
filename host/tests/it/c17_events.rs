//! Promises 17 and 18 for events: a batch knows nothing of the one before, and ends on the revision that it began with.

use serde_json::json;

use crate::support::{Kind, World, records};

impl World {
    /// What an event has left in the probe's row of its id.
    async fn left_by(&self, id: &str) -> String {
        self.until_seen(id).await;
        self.sql().await.query_one("SELECT note FROM probe.rows WHERE id = $1", &[&id]).await.unwrap().get(0)
    }

    async fn query_after(&self, id: &str, ms: u64) {
        let event = records::event(id, "probe.query", &json!({ "ms": ms }));
        records::produce_event(&self.broker.address(), &self.topic("in"), Some(0), "k", &event).await;
    }
}

#[tokio::test]
async fn c17_no_state_passes_from_one_batch_of_events_to_another_or_between_revisions() {
    let world = World::probe(Kind::Embedded).await.bare().await;
    for turn in 0..3 {
        world.mark_probe(turn % 2 == 0);
        world.deploy().await;
        for n in 0..3 {
            // Seen before the next one is sent: each is a batch.
            let id = format!("e{turn}-{n}");
            world.send_event(0, "k", &id, "probe.count").await;
            assert_eq!(world.left_by(&id).await, "1", "{id}");
        }
    }
}

#[tokio::test]
async fn c18_a_batch_under_way_ends_on_the_revision_that_it_began_with() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "60s");
    let mut world = world.bare().await;
    // Both are compiled before, so that the switch is over long before the batch.
    for marked in [true, false] {
        world.deploy().await;
        world.mark_probe(marked);
    }
    world.deploy().await;
    world.query_after("slow", 8_000).await;
    world.until_pending().await;
    world.mark_probe(true);
    world.deploy().await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    assert!(!world.has_row("slow").await, "the batch is still under way");
    let found = world.left_by("slow").await;
    assert!(!found.is_empty() && !found.contains("424242"), "it ended on another revision than it began with: {found}");
    world.query_after("next", 0).await;
    assert!(world.left_by("next").await.contains("424242"));
    assert_eq!(world.failed_attempts().await, 0);
}
