//! Promise 9 and what may come out of a topic: each kind of bad or odd record by name, with what becomes of it, and none of them blocks its
//! partition.

use serde_json::{Value as Json, json};

use crate::support::events::outgoing;
use crate::support::records::Outgoing;
use crate::support::{Kind, World, on_both_brokers, records};

on_both_brokers!(
    c09_every_kind_of_record_that_is_no_event_is_a_dead_letter_and_blocks_nothing,
    c09_odd_records_that_are_events_are_handled_once,
    c09_sizes_around_the_brokers_limit,
    c09_a_header_whose_name_is_no_text_ends_no_consumer,
    c09_events_of_types_that_nobody_asks_for_are_skipped_and_counted,
);

const STRUCTURED: &[(&str, &str)] = &[("content-type", "application/cloudevents+json; charset=UTF-8")];

fn record(value: Option<&[u8]>, headers: &[(&str, &str)]) -> Outgoing {
    Outgoing {
        partition: Some(0),
        key: Some(b"k".to_vec()),
        value: value.map(<[u8]>::to_vec),
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect(),
        timestamp: None,
    }
}

/// A sound event with one attribute replaced; null takes it away.
fn with(attribute: &str, value: Json) -> Outgoing {
    let mut event: Json = serde_json::from_slice(&records::event("odd", "probe.ok", &json!({}))).unwrap();
    match value {
        Json::Null => drop(event.as_object_mut().unwrap().remove(attribute)),
        value => event[attribute] = value,
    }
    record(Some(event.to_string().as_bytes()), STRUCTURED)
}

/// Text that does not get shorter when it is compressed.
fn noise(length: usize) -> String {
    let mut state = 1u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
    };
    std::iter::repeat_with(next).filter(|c| !['"', '\\'].contains(c)).take(length).collect()
}

/// What is no event, by name, with a word of the reason.
fn no_events() -> Vec<(&'static str, Outgoing, &'static str)> {
    let binary = |headers: &[(&str, &str)]| record(Some(b"{}"), headers);
    vec![
        ("an empty value", record(Some(b""), STRUCTURED), "JSON"),
        ("an empty value without headers", record(Some(b""), &[]), "JSON"),
        ("a tombstone", record(None, &[]), "tombstone"),
        ("a tombstone that says it is an event", record(None, STRUCTURED), "tombstone"),
        ("bad UTF-8", record(Some(b"{\"specversion\":\"1.0\",\"id\":\"\xff\"}"), STRUCTURED), "JSON"),
        ("bytes", record(Some(b"\xff\xfe\x00{"), &[("a", "b"), ("a", "c")]), "JSON"),
        ("text", record(Some(b"hello"), &[]), "JSON"),
        ("half of an event", record(Some(b"{\"specversion\":\"1.0\",\"id\":\"1\","), STRUCTURED), "JSON"),
        ("JSON that is no object", record(Some(b"[1]"), STRUCTURED), "JSON"),
        ("JSON that is no event", record(Some(b"{\"a\":1}"), STRUCTURED), "specversion"),
        ("an event without id", with("id", Json::Null), "`id`"),
        ("an event with an empty id", with("id", json!("")), "`id`"),
        ("an event without source", with("source", Json::Null), "`source`"),
        ("an event without type", with("type", Json::Null), "`type`"),
        ("an id that is a list", with("id", json!(["a"])), "`id`"),
        ("an id with a zero character", with("id", json!("a\0b")), "`id`"),
        ("a source with a zero character", with("source", json!("a\0b")), "`source`"),
        ("a type with a zero character", with("type", json!("probe.ok\0")), "`type`"),
        ("an id of 100,000 characters", with("id", json!(noise(100_000))), "`id`"),
        ("a source of 5,000 characters", with("source", json!(noise(5_000))), "`source`"),
        ("a time that is none", with("time", json!("soon")), "time"),
        ("a future specversion", with("specversion", json!("2.0")), "2.0"),
        ("a batch of events", record(Some(b"[]"), &[("content-type", "application/cloudevents-batch+json")]), "batch"),
        ("another format", record(Some(b"x"), &[("content-type", "application/cloudevents+avro")]), "avro"),
        ("a binary event without id", binary(&[("ce_specversion", "1.0"), ("ce_source", "s"), ("ce_type", "t")]), "`id`"),
        ("a binary event of a future version", binary(&[("ce_specversion", "1.1")]), "1.1"),
    ]
}

async fn c09_every_kind_of_record_that_is_no_event_is_a_dead_letter_and_blocks_nothing(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let cases = no_events();
    let mut sent: Vec<Outgoing> = cases.iter().map(|(_, record, _)| record.clone()).collect();
    // A header whose bytes are no text is kept as it is, too.
    sent[5].headers.push(("bytes".to_owned(), b"\xff\x00".to_vec()));
    let places = world.produce(&sent).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    let sql = world.sql().await;
    let query = "SELECT value, key, header_names, header_values, error_class, error, source, event_id, state, type
        FROM tidemill.dead_letters WHERE partition = $1 AND record_offset = $2";
    for (((name, _, says), sent), (partition, offset)) in cases.iter().zip(&sent).zip(&places) {
        let rows = sql.query(query, &[partition, offset]).await.unwrap();
        assert_eq!(rows.len(), 1, "{name}: {offset}");
        let row = &rows[0];
        assert_eq!(
            (row.get::<_, Option<Vec<u8>>>(0), row.get::<_, Option<Vec<u8>>>(1)),
            (sent.value.clone(), sent.key.clone()),
            "{name}"
        );
        let headers: Vec<(String, Vec<u8>)> =
            row.get::<_, Vec<String>>(2).into_iter().zip(row.get::<_, Vec<Vec<u8>>>(3)).collect();
        assert_eq!(headers, sent.headers, "{name}");
        assert_eq!(row.get::<_, String>(4), "not-an-event", "{name}");
        let reason: String = row.get(5);
        assert!(reason.contains(says), "{name}: {reason}");
        assert_eq!(row.get::<_, String>(6), format!("//kafka/{}/0", world.topic("in")), "{name}");
        assert_eq!(
            (row.get::<_, String>(7), row.get::<_, String>(8), row.get::<_, String>(9)),
            (offset.to_string(), "dead".into(), "".into())
        );
    }
    let count = i64::try_from(cases.len()).unwrap();
    world.until_dead(count).await;
    world.until_handled(1).await;
    assert_eq!(world.count("SELECT count(*) FROM tidemill.single_attempts").await, 0, "no bad record costs its key a retry");
    assert_eq!(world.counted("tidemill_dead_lettered_total", &["class=\"not-an-event\""]).await, cases.len() as u64);
    world.until_outbox_is_empty().await;
    let copies = records::all(&world.broker.address(), &format!("{}.dlq", world.topic("in"))).await;
    assert_eq!(copies.len(), cases.len());
    for ((copy, sent), (name, ..)) in copies.iter().zip(&sent).zip(&cases) {
        assert_eq!((copy.tombstone, &copy.value), (sent.value.is_none(), &sent.value.clone().unwrap_or_default()), "{name}");
        assert_eq!((copy.key.as_deref(), copy.header("tidemill-error-class")), (Some("k"), Some("not-an-event")), "{name}");
    }
}

async fn c09_odd_records_that_are_events_are_handled_once(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let event = |id: &str| outgoing(Some(0), Some("k"), id, "probe.ok");
    let doubled = record(
        Some(b"{}"),
        &[
            ("ce_specversion", "1.0"),
            ("ce_id", "not-this-one"),
            ("ce_id", "double-header"),
            ("ce_source", "test"),
            ("ce_type", "probe.ok"),
            ("content-type", "text/plain"),
            ("content-type", "application/json"),
        ],
    );
    let mut records = vec![
        doubled,
        Outgoing { key: None, ..event("no-key") },
        Outgoing { key: Some(vec![]), ..event("empty-key") },
        Outgoing { key: Some(vec![0xff, 0xfe]), ..event("key-of-bytes") },
        Outgoing { headers: vec![], ..event("no-headers") },
        with("id", json!(7)),
        with("surprising", json!("extension")),
        with("type", json!("a type that nobody knows")),
        Outgoing { headers: vec![("".into(), vec![]), ("content-type".into(), b"\xff".to_vec())], ..event("odd-headers") },
        Outgoing { timestamp: Some(jiff::Timestamp::now().as_millisecond() + 3_000_000), ..event("an-hour-ahead") },
    ];
    // The embedded broker takes any time; Apache Kafka refuses what is more than an hour ahead.
    if kind == Kind::Embedded {
        records.push(Outgoing { timestamp: Some(i64::MAX), ..event("end-of-time") });
        records.push(Outgoing { timestamp: Some(253_402_300_799_999), ..event("year-9999") });
    }
    // Twice: no oddity lets a copy in.
    for _ in 0..2 {
        world.produce(&records).await;
    }
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    // `with` has made two events with the id `odd`: they differ in their other attributes only, so they are one.
    world.until_handled(i64::try_from(records.len()).unwrap()).await;
    for id in ["double-header", "no-key", "empty-key", "key-of-bytes", "no-headers", "7", "odd", "odd-headers", "an-hour-ahead"] {
        assert_eq!(world.seen(id).await, 1, "{id}");
    }
    assert_eq!(world.dead().await, []);
    let unknown = records.len() as u64 + 1;
    assert_eq!(world.counted("tidemill_events_duplicate_total", &[]).await, unknown);
}

/// A record of 1970 is older than the inbox reaches back: it must block nothing, and is handled at most once.
#[tokio::test]
async fn c09_a_record_of_1970_blocks_nothing() {
    let world = World::with_probe().await;
    let old = Outgoing { timestamp: Some(1), ..outgoing(Some(0), Some("k"), "old", "probe.ok") };
    world.produce(&[old.clone(), old]).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    assert_eq!(world.seen("old").await, 1);
    assert_eq!(world.dead().await, []);
}

async fn c09_events_of_types_that_nobody_asks_for_are_skipped_and_counted(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.change("probe", |manifest| {
        let topic = &mut manifest["topic"].as_array_mut().unwrap()[0];
        topic.as_table_mut().unwrap().insert("types".into(), vec!["probe.ok", "probe.fail"].into());
    });
    let world = world.started().await;
    world.send(0, &[("k", "a", "probe.ok"), ("k", "b", "probe.trap"), ("k", "c", "unknown"), ("k", "d", "probe.ok")]).await;
    world.until_handled(2).await;
    assert_eq!(world.order("k").await, "a d");
    assert_eq!(world.counted("tidemill_events_skipped_total", &["partition=\"0\""]).await, 2);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.inbox").await, 2, "what is skipped leaves no trace");
    assert_eq!((world.dead().await, world.waiting().await), (vec![], vec![]));
}

async fn c09_sizes_around_the_brokers_limit(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    // The broker's limit counts the whole batch, 1,048,588 bytes.
    let sized = |id: &str, size: usize| {
        let empty = records::event(id, "probe.ok", &json!("")).len();
        let value = records::event(id, "probe.ok", &json!("x".repeat(size - empty)));
        assert_eq!(value.len(), size);
        Outgoing { value: Some(value), ..outgoing(Some(0), Some("k"), id, "probe.ok") }
    };
    let under = records::produce_each(&address, &topic, &[sized("just-under", 1_048_300)]).await;
    assert!(under[0].is_ok(), "{under:?}");
    let over = records::produce_each(&address, &topic, &[sized("over", 1_048_588)]).await;
    let refused = over[0].as_ref().unwrap_err().to_string();
    assert!(refused.contains("MessageSizeTooLarge"), "{refused}");
    world.until_seen("just-under").await;
    // Published by a handler: what fits the limit leaves, what does not is refused at once, by name, and nothing of its unit is kept.
    let publish = async |id: &str, data: usize| {
        let body = json!({ "id": id, "topic": topic, "key": "k", "event_id": id, "type": "probe.ok", "data": "x".repeat(data) });
        world.steps("insert-then-publish", body).await
    };
    let limit = 900 << 10;
    let answer = publish("fits", limit - 1_000).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = publish("too-large", limit).await;
    assert_eq!((answer.status, &answer.body["kind"]), (409, &json!("Limit")), "{answer:?}");
    assert!(answer.body["message"].as_str().is_some_and(|message| message.contains("event_size")), "{answer:?}");
    world.until_seen("fits").await;
    // The copy of a dead letter is larger than its record, and fits all the same.
    let rejected =
        Outgoing { value: Some(records::event("rejected", "probe.reject", &json!("x".repeat(1_048_000)))), ..sized("", 500) };
    world.produce(&[rejected]).await;
    world.until_dead(1).await;
    world.until_outbox_is_empty().await;
    let copies = records::all(&address, &format!("{topic}.dlq")).await;
    assert_eq!((copies.len(), copies[0].json()["id"].as_str()), (1, Some("rejected")));
    assert!(world.has_row("fits").await && !world.has_row("too-large").await);
    world.until_outbox_is_empty().await;
    world.until_handled(2).await;
}

async fn c09_a_header_whose_name_is_no_text_ends_no_consumer(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    // SAFETY: the name goes to the client library as bytes and is looked at by nobody as text.
    let name = unsafe { String::from_utf8_unchecked(b"\xff\xfe".to_vec()) };
    let event = |id, kind| {
        let mut event = outgoing(Some(0), Some(id), id, kind);
        event.headers.insert(0, (name.clone(), b"odd".to_vec()));
        event
    };
    world.produce(&[event("odd-name", "probe.ok"), event("odd-and-bad", "probe.reject")]).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    world.until_handled(2).await;
    world.until_dead(1).await;
    assert_eq!(world.dead().await, [("odd-and-bad".to_owned(), 1, "rejected".to_owned())]);
}

/// A key may be as long as a record: such events wait and die like all others.
#[tokio::test]
async fn c09_events_with_a_very_long_key_wait_in_order_and_die() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    let key = noise(100_000);
    let other = format!("{}~", &key[..99_999]);
    world.send(0, &[(&key, "a1", "probe.fail"), (&key, "a2", "probe.ok"), (&other, "b1", "probe.ok")]).await;
    world.until_seen("b1").await;
    world.until_waiting(2).await;
    world.make_due().await;
    world.until_dead(1).await;
    world.until_handled(2).await;
    assert_eq!(world.count("SELECT count(*) FROM tidemill.single_attempts").await, 0, "a2 has restored the trust in its key");
    world.send(0, &[(&key, "a3", "probe.reject"), (&key, "a4", "probe.vague")]).await;
    world.until_dead(3).await;
    let attempts: Vec<_> = world.dead().await.into_iter().map(|(id, attempts, _)| (id, attempts)).collect();
    assert_eq!(attempts, [("a1", 2), ("a3", 1), ("a4", 1)].map(|(id, attempts)| (id.to_owned(), attempts)));
    assert_eq!(world.waiting().await, []);
}
