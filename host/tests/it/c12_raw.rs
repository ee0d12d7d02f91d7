//! Promise 12: a raw topic, whose records may be anything. Each is an event that is known by its place.

use crate::support::events::outgoing;
use crate::support::{Kind, World, on_both_brokers, records};

on_both_brokers!(c12_any_bytes_of_a_raw_topic_are_events_known_by_their_place);

async fn c12_any_bytes_of_a_raw_topic_are_events_known_by_their_place(kind: Kind) {
    let world = World::probe(kind).await;
    let topic = world.topic("in");
    world.handlers.change("probe", |manifest| {
        manifest["topics"][&topic].as_table_mut().unwrap().insert("payload".into(), "raw".into());
    });
    let mut world = world.started().await;
    let address = world.broker.address();
    let event = records::event("an-event", "probe.fail", &serde_json::json!({}));
    let values: [&[u8]; 5] = [b"hello", b"\xff\x00\xfe", b"{\"a\": 1}", b"", &event];
    for value in values {
        records::produce(&address, &topic, Some(0), Some("k"), value, &[("a", "b")]).await;
    }
    let tombstone = || {
        let mut record = outgoing(Some(0), Some("k"), "none", "none");
        record.value = None;
        record
    };
    world.produce(&[tombstone()]).await;
    let ids = "SELECT string_agg(event_id, ' ' ORDER BY seq) FROM probe.seen";
    let handled = async |world: &World, count| {
        world.until_handled(count).await;
        world.sql().await.query_one(ids, &[]).await.unwrap().get::<_, String>(0)
    };
    assert_eq!(handled(&world, 6).await, "0 1 2 3 4 5");
    // Read again from the beginning, with one more behind.
    assert!(world.host().sigterm().await.success());
    records::rewind(&address, &world.group(), &topic).await;
    world.produce(&[tombstone()]).await;
    world.start().await;
    assert_eq!(handled(&world, 7).await, "0 1 2 3 4 5 6");
    assert_eq!((world.dead().await, world.waiting().await), (vec![], vec![]));
}
