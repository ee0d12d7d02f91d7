//! Promise 4: a consumer group handles each event once.

use serde_json::json;

use crate::support::{Kind, World, on_both_brokers, records};

on_both_brokers!(
    c12_structured_and_binary_events_are_both_read_whole,
    c04_redelivery_of_a_record_in_the_topic_has_no_second_effect,
    c04_redelivery_after_an_offset_reset_has_no_second_effect,
    c04_an_event_published_by_a_consumer_is_published_once_per_cause,
    c04_the_same_id_from_another_source_is_another_event,
    c04_a_replica_that_joins_and_leaves_has_no_second_effect,
);

/// Waits until everything that was put into these partitions before is handled.
async fn caught_up(world: &World, mark: &str) {
    for partition in 0..3 {
        let id = format!("{mark}-{partition}");
        world.send_event(partition, "mark", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
}

async fn c04_redelivery_of_a_record_in_the_topic_has_no_second_effect(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    world.send_event(0, "k", "twice", "probe.ok").await;
    world.until_seen("twice").await;
    // The same again: at once, beside others of a batch, and in another partition.
    for (partition, id) in [(0, "twice"), (0, "other"), (0, "twice"), (0, "other"), (1, "twice")] {
        world.send_event(partition, "k", id, "probe.ok").await;
    }
    caught_up(&world, "end").await;
    assert_eq!((world.seen("twice").await, world.seen("other").await), (1, 1));
}

async fn c04_redelivery_after_an_offset_reset_has_no_second_effect(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    for number in 0..30 {
        world.send_event(number % 3, "k", &format!("e{number}"), "probe.ok").await;
    }
    caught_up(&world, "first").await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 33);
    assert!(world.host().sigterm().await.success(), "SIGTERM ends with exit code 0");
    records::rewind(&world.broker.address(), &world.group(), &world.topic("in")).await;
    world.start().await;
    caught_up(&world, "second").await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 36);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, 36);
}

async fn c04_an_event_published_by_a_consumer_is_published_once_per_cause(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    for number in 0..10 {
        world.send_event(0, "k", &format!("r{number}"), "probe.republish").await;
    }
    caught_up(&world, "first").await;
    world.host().sigterm().await;
    records::rewind(&world.broker.address(), &world.group(), &world.topic("in")).await;
    world.start().await;
    caught_up(&world, "second").await;
    world.until_outbox_is_empty().await;
    let copies = records::all(&world.broker.address(), &world.topic("out")).await;
    let ids: Vec<_> = copies.iter().map(|record| record.json()["id"].clone()).collect();
    let expected: Vec<_> = (0..10).map(|number| json!(format!("copy-of-r{number}"))).collect();
    assert_eq!(ids, expected);
}

async fn c04_the_same_id_from_another_source_is_another_event(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    for source in ["one", "two", "one"] {
        let mut event: serde_json::Value = serde_json::from_slice(&records::event("same", "probe.ok", &json!({}))).unwrap();
        event["source"] = json!(source);
        records::produce_event(&world.broker.address(), &world.topic("in"), Some(0), "k", event.to_string().as_bytes()).await;
    }
    caught_up(&world, "end").await;
    assert_eq!(world.seen("same").await, 2);
}

async fn c04_a_replica_that_joins_and_leaves_has_no_second_effect(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let second = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
    let mut second = second.serve().await;
    for number in 0..60 {
        world.send_event(number % 3, "k", &format!("e{number}"), "probe.ok").await;
        if number == 30 {
            second.sigterm().await;
        }
    }
    caught_up(&world, "end").await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 63);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, 63);
    assert!(world.host().sigterm().await.success());
}

async fn c12_structured_and_binary_events_are_both_read_whole(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "binary"),
        ("ce_source", "test"),
        ("ce_type", "probe.extensions"),
        ("ce_anything", "else"),
        ("content-type", "application/json"),
    ];
    let topic = world.topic("in");
    records::produce(&world.broker.address(), &topic, Some(1), Some("user"), br#"{"a":1}"#, &headers).await;
    world.until_seen("binary").await;
    let mut event: serde_json::Value =
        serde_json::from_slice(&records::event("extended", "probe.extensions", &json!({}))).unwrap();
    (event["anything"], event["number"]) = (json!("else"), json!(7));
    records::produce_event(&world.broker.address(), &topic, Some(1), "user", event.to_string().as_bytes()).await;
    world.until_seen("extended").await;
    for (id, extensions) in [("binary", r#"[("anything", "else")]"#), ("extended", r#"[("anything", "else"), ("number", "7")]"#)]
    {
        let note = "SELECT note FROM probe.rows WHERE id = $1";
        let got: String = world.sql().await.query_one(note, &[&id]).await.unwrap().get(0);
        assert_eq!(got, extensions, "what the guest got of {id}");
    }
    let (partition, offset) = world.send_event(2, "user", "structured", "probe.ok").await;
    world.until_seen("structured").await;
    let query = "SELECT source, type, topic, part, off, subject_key, data::text FROM probe.seen WHERE event_id = $1";
    let row = world.sql().await.query_one(query, &[&"binary"]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "test");
    assert_eq!((row.get::<_, String>(2), row.get::<_, i32>(3)), (topic, 1));
    assert_eq!(row.get::<_, Option<String>>(6).as_deref(), Some(r#"{"a": 1}"#));
    let row = world.sql().await.query_one(query, &[&"structured"]).await.unwrap();
    assert_eq!((row.get::<_, i32>(3), row.get::<_, i64>(4)), (partition, offset));
    assert_eq!(row.get::<_, Option<String>>(5).as_deref(), Some("user"));
    assert_eq!(row.get::<_, Option<String>>(6).as_deref(), Some(r#"{"id": "structured"}"#));
}
