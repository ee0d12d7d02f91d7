//! Promises 6, 8 and 9: an event that fails waits in the database, with the later ones of its key behind it, and is a dead letter in the end.

use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c08_an_event_that_keeps_failing_is_retried_three_times_and_then_a_dead_letter,
    c06_the_later_events_of_a_key_wait_behind_one_that_fails_and_no_others_do,
    c09_bytes_that_are_no_event_are_a_dead_letter_at_first_sight,
);

async fn c08_an_event_that_keeps_failing_is_retried_three_times_and_then_a_dead_letter(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (partition, offset) = world.send_event(0, "k", "bad", "probe.fail").await;
    let dead = "SELECT count(*) FROM tidemill.dead_letters WHERE event_id = 'bad' AND attempts = 4";
    eventually("the event is a dead letter", async || (world.count(dead).await == 1).then_some(())).await;
    assert_eq!(world.seen("bad").await, 0);
    world.until_outbox_is_empty().await;
    let copies = records::all(&world.broker.address(), &format!("{}.dlq", world.topic("in"))).await;
    assert_eq!(copies.len(), 1);
    let header = |name: &str| copies[0].header(name).unwrap_or_default().to_owned();
    assert_eq!(header("tidemill-original-topic"), world.topic("in"));
    assert_eq!(header("tidemill-original-partition"), partition.to_string());
    assert_eq!(header("tidemill-original-offset"), offset.to_string());
    assert_eq!((header("tidemill-attempts").as_str(), header("tidemill-error-class").as_str()), ("4", "failed"));
    assert!(header("tidemill-error-message").contains("bad"));
}

async fn c06_the_later_events_of_a_key_wait_behind_one_that_fails_and_no_others_do(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    world.send_event(0, "bad-key", "a1", "probe.ok").await;
    world.send_event(0, "bad-key", "a2", "probe.fail").await;
    for id in ["a3", "a4"] {
        world.send_event(0, "bad-key", id, "probe.ok").await;
    }
    world.send_event(0, "good-key", "b1", "probe.ok").await;
    world.until_seen("b1").await;
    assert_eq!((world.seen("a1").await, world.seen("a3").await), (1, 0), "what comes behind a failing event of its key waits");
    world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    world.until_seen("a4").await;
    let order = "SELECT string_agg(event_id, ' ' ORDER BY seq) FROM probe.seen WHERE subject_key = 'bad-key'";
    let order: String = world.sql().await.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, "a1 a2 a3 a4");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters").await, 0);
}

async fn c09_bytes_that_are_no_event_are_a_dead_letter_at_first_sight(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let (_, offset) = records::produce(&address, &topic, Some(0), Some("k"), b"\xff no event at all", &[("a", "b")]).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    world.until_outbox_is_empty().await;
    let copies = records::all(&address, &format!("{topic}.dlq")).await;
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].value, b"\xff no event at all");
    assert_eq!(copies[0].header("a"), Some("b"));
    assert_eq!(copies[0].header("tidemill-error-class"), Some("not-an-event"));
    assert_eq!(copies[0].header("tidemill-original-offset"), Some(offset.to_string().as_str()));
}
