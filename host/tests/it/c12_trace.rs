//! Promise 12: a request can be followed through every event that it caused.

use serde_json::{Value as Json, json};

use crate::support::{Answer, Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(c12_trace_and_correlation_follow_a_request_through_every_event_that_it_caused,);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

/// Publishes an event of this type by way of a request that carries a trace.
async fn publish(world: &World, id: &str, kind: &str) {
    let body = json!({ "topic": world.topic("in"), "key": "k", "event_id": id, "type": kind });
    let request = world.request("alice", "POST", "/probe/publish").json(&body);
    let request = request.header("traceparent", format!("00-{TRACE}-{SPAN}-01")).header("x-correlation-id", "order-77");
    let answer = Answer::read(request.send().await.unwrap()).await;
    assert_eq!((answer.status, answer.header("x-correlation-id")), (200, Some("order-77")), "{answer:?}");
}

/// The event has the request's trace with another span than the caller's, and its correlation id.
fn follows(event: &Json) {
    let trace: Vec<&str> = event["traceparent"].as_str().unwrap_or_else(|| panic!("no trace: {event}")).split('-').collect();
    assert_eq!((trace.len(), trace[0], trace[1], trace[3]), (4, "00", TRACE, "01"), "{event}");
    assert!(trace[2] != SPAN && trace[2].len() == 16, "the host's own span: {event}");
    assert_eq!(event["correlationid"], "order-77", "{event}");
}

async fn c12_trace_and_correlation_follow_a_request_through_every_event_that_it_caused(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "50ms");
    let world = world.started().await;
    publish(&world, "first", "probe.republish").await;
    publish(&world, "given-up", "probe.reject").await;
    publish(&world, "retried", "probe.fail").await;
    world.until_dead(2).await;
    world.until_seen("first").await;
    let address = world.broker.address();
    let all = async |topic: String, count: usize| {
        eventually("the records are there", async || {
            Some(records::all(&address, &topic).await).filter(|records| records.len() >= count)
        })
        .await
    };
    let published = all(world.topic("in"), 3).await;
    let copies = all(world.topic("out"), 1).await;
    let dead = all(format!("{}.dlq", world.topic("in")), 2).await;
    assert_eq!((published.len(), copies.len(), dead.len()), (3, 1, 2));
    for record in published.iter().chain(&copies).chain(&dead) {
        follows(&record.json());
    }
    // And an event of somebody else's brings its own.
    let mut event: Json = serde_json::from_slice(&records::event("foreign", "probe.republish", &json!({}))).unwrap();
    event["traceparent"] = json!(format!("00-{}-{SPAN}-00", "a".repeat(32)));
    event["correlationid"] = json!("theirs");
    records::produce_event(&address, &world.topic("in"), Some(0), "k2", event.to_string().as_bytes()).await;
    let copies = all(world.topic("out"), 2).await;
    let copy = copies.iter().map(records::Record::json).find(|copy| copy["id"] == "copy-of-foreign").unwrap();
    assert!(copy["traceparent"].as_str().unwrap().starts_with(&format!("00-{}-", "a".repeat(32))), "{copy}");
    assert_eq!(copy["correlationid"], "theirs");
}
