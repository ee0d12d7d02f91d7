//! What cannot be handled pauses its partition, says so, and holds up nothing else.

use serde_json::json;

use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(a_record_that_is_no_event_pauses_its_partition_and_no_other, c07_a_failing_event_is_tried_again_after_a_restart,);

async fn a_record_that_is_no_event_pauses_its_partition_and_no_other(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    world.send_event(0, "k", "before", "probe.ok").await;
    let (_, offset) = records::produce(&address, &topic, Some(0), Some("k"), b"no event at all", &[]).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    let shown = world.until_paused(0).await;
    assert_eq!((&shown["group"], &shown["offset"]), (&json!(world.group()), &json!(offset)), "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{shown}");
    assert!(!shown["since"].is_null() && !shown["retry_in_ms"].is_null(), "{shown}");
    for partition in [1, 2] {
        let id = format!("beside-{partition}");
        world.send_event(partition, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
    assert_eq!((world.seen("before").await, world.seen("behind").await), (1, 0));
    assert_eq!(world.steps("insert", json!({ "id": "meanwhile" })).await.status, 200);
    world.until_logged(&topic).await;
    let metrics = world.admin("/metrics").await.text;
    assert!(metrics.lines().any(|line| line.contains("paused") && !line.starts_with('#')), "{metrics}");
}

#[tokio::test]
async fn every_kind_of_record_that_is_no_event_is_named_without_a_crash() {
    let world = World::with_probe().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let structured = [("content-type", "application/cloudevents+json")];
    let cases: [(&[u8], &[(&str, &str)]); 3] = [
        (b"{\"specversion\":\"1.0\",\"id\":\"x\"}", &structured),
        (b"\xff\xfe{", &structured),
        (b"{}", &[("ce_specversion", "1.0"), ("ce_id", "x")]),
    ];
    for (partition, (value, headers)) in (0..).zip(cases) {
        let (_, offset) = records::produce(&address, &topic, Some(partition), None, value, headers).await;
        assert_eq!(world.until_paused(partition).await["offset"], offset);
    }
}

async fn c07_a_failing_event_is_tried_again_after_a_restart(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    world.send_event(1, "k", "stubborn", "probe.fail").await;
    let shown = world.until_paused(1).await;
    assert!(shown["reason"].as_str().unwrap().contains("stubborn"), "the reason is the handler's: {shown}");
    assert!(world.host().sigterm().await.success());
    world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    world.start().await;
    world.until_seen("stubborn").await;
    world.send_event(1, "k", "next", "probe.ok").await;
    world.until_seen("next").await;
    assert_eq!(world.seen("stubborn").await, 1);
    eventually("nothing is paused", async || (world.readyz().await.body["paused"] == json!([])).then_some(())).await;
}

#[tokio::test]
async fn the_delay_between_tries_grows() {
    let world = World::with_probe().await;
    world.send_event(0, "k", "stubborn", "probe.fail").await;
    world.until_paused(0).await;
    let delay = async || world.until_paused(0).await["retry_in_ms"].as_i64();
    eventually("a delay is above a second", async || delay().await.filter(|&delay| delay > 1000)).await;
}

#[tokio::test]
async fn c22_sigterm_lets_the_work_under_way_finish() {
    let mut world = World::with_probe().await;
    let body = json!({ "id": "under-way", "ms": 1000 });
    let request = world.request("alice", "POST", "/probe/insert-then-sleep").json(&body).send();
    let request = tokio::spawn(request);
    world.until_pending().await;
    assert!(world.host().sigterm().await.success(), "exit code 0");
    assert_eq!(request.await.unwrap().unwrap().status(), 200);
    assert!(world.has_row("under-way").await);
}

#[tokio::test]
async fn c23_a_partition_that_was_full_when_it_moved_is_read_again_when_it_comes_back() {
    let world = World::with_probe().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let large = json!("x".repeat(700_000));
    for partition in 0..3 {
        world.send_event(partition, "k", &format!("first-{partition}"), "probe.fail").await;
        // More than a partition's queue holds behind an event that fails: the consumer pauses it.
        for number in 0..14 {
            let event = records::event(&format!("large-{partition}-{number}"), "probe.ok", &large);
            records::produce_event(&address, &topic, Some(partition), "k", &event).await;
        }
        world.until_paused(partition).await;
    }
    let second = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
    let mut second = second.serve().await;
    eventually("a partition moves", async || second.log().contains("partitions assigned").then_some(())).await;
    second.sigterm().await;
    world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    for partition in 0..3 {
        world.until_seen(&format!("large-{partition}-13")).await;
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 45);
}
