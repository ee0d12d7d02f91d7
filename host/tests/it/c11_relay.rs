//! Promise 11: published events leave, in order, and are forgotten only when the broker has them.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};

use crate::support::{Broker, Fault, Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c11_events_reach_the_topic_in_the_order_of_the_commits_per_key,
    c11_nothing_is_lost_while_the_broker_is_away,
    c11_nothing_is_lost_when_the_host_dies_before_the_broker_has_it,
    c11_an_event_for_an_unknown_topic_is_stuck_and_leaves_in_order_once_the_topic_exists,
    c11_a_topic_of_small_records_gets_batches_that_it_takes,
    c11_a_stuck_row_holds_its_key_until_it_is_discarded_or_mended_and_not_longer,
);

/// The ids in a topic by key, in the order of their first appearance.
async fn by_key(world: &World, topic: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records::all(&world.broker.address(), topic).await {
        let id = record.json()["id"].as_str().unwrap().to_owned();
        let ids = keys.entry(record.key.unwrap()).or_default();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    keys
}

/// Publishes one event by way of a request that also inserts a row of the same name.
async fn publish(world: &World, topic: &str, key: &str, id: &str) {
    let answer = world.steps("insert-then-publish", json!({ "id": id, "event_id": id, "topic": topic, "key": key })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// Waits until the topic has this many different events.
async fn until_there(world: &World, topic: &str, count: usize) -> BTreeMap<String, Vec<String>> {
    eventually("the events are in the topic", async || {
        Some(by_key(world, topic).await).filter(|keys| keys.values().map(Vec::len).sum::<usize>() >= count)
    })
    .await
}

/// As where a partition has no leader: the client tries again without end and says nothing.
#[tokio::test]
async fn c11_a_topic_that_acknowledges_nothing_is_named_after_a_while() {
    let world = World::probe_on(Broker::dedicated(Kind::Embedded).await).await.started().await;
    let topic = world.topic("out");
    publish(&world, &topic, "k", "first").await;
    world.until_outbox_is_empty().await;
    world.broker.stop().await;
    publish(&world, &topic, "k", "second").await;
    let note = async || world.readyz().await.body["notes"]["relay: no acknowledgement"].as_str().map(str::to_owned);
    let said = eventually("the topic is named", &note).await;
    assert!(said.contains(&topic) && said.contains("min.insync.replicas"), "{said}");
    world.broker.start().await;
    eventually("the note is gone", async || note().await.is_none().then_some(())).await;
    world.until_outbox_is_empty().await;
}

/// One partition of three has lost its only node: with the first rows of a producer's life, and with more of them than may be on their way at once.
#[tokio::test]
async fn c11_a_topic_that_acknowledges_nothing_holds_up_no_other() {
    let broker = Broker::dedicated(Kind::Apache).await;
    let second = broker.second().await;
    let mut world = World::probe_on(broker).await;
    let (address, silent, other) = (world.broker.address(), world.topic("out"), world.topic("missing"));
    records::create_topic_on(&address, &silent, &[1, 2, 1]).await;
    records::create_topic_on(&address, &other, &[1, 1, 1]).await;
    world.prepared().await;
    second.stop().await;
    let rows = "INSERT INTO tidemill.outbox (bucket, topic, key, value)
        SELECT tidemill.key_bucket($1, k), $1, k, convert_to(format('{\"id\": \"%s\"}', n), 'UTF8')
        FROM generate_series(1, $2::int) n, LATERAL (SELECT convert_to('key-' || n % 100, 'UTF8') AS k) x ORDER BY n";
    world.sql().await.execute(rows, &[&silent, &12_000]).await.unwrap();
    world.start().await;
    world.until_logged("the brokers acknowledge nothing of a partition").await;
    world.sql().await.execute(rows, &[&silent, &12_000]).await.unwrap();
    world.sql().await.execute(rows, &[&other, &300]).await.unwrap();
    publish(&world, &other, "k", "last").await;
    until_there(&world, &other, 301).await;
    assert!(world.count("SELECT count(*) FROM tidemill.outbox").await > 4_000, "a partition has no leader");
    second.start().await;
    world.until_outbox_is_empty().await;
    let there = until_there(&world, &silent, 12_000).await;
    for (key, ids) in there {
        let numbers: Vec<u32> = ids.iter().map(|id| id.parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() == 120, "{key}: {numbers:?}");
    }
}

async fn c11_a_topic_of_small_records_gets_batches_that_it_takes(kind: Kind) {
    let world = World::probe(kind).await;
    let topic = world.topic("out");
    world.handlers.change("probe", |manifest| {
        let topic = manifest["topics"][topic.as_str()].as_table_mut().unwrap();
        topic.insert("max_message_bytes".into(), "64KiB".into());
    });
    let mut world = world;
    world.prepared().await;
    let rows = "INSERT INTO tidemill.outbox (bucket, topic, key, value)
        SELECT tidemill.key_bucket($1, k), $1, k, convert_to(format('{\"id\": \"%s\", \"noise\": \"%s\"}', n, noise), 'UTF8')
        FROM generate_series(0, 299) n, LATERAL (SELECT convert_to('key-' || n % 10, 'UTF8') AS k,
            (SELECT string_agg(md5((n * 1000 + i)::text), '') FROM generate_series(1, 600) i) AS noise) x ORDER BY n";
    world.sql().await.execute(rows, &[&topic]).await.unwrap();
    world.start().await;
    let there = until_there(&world, &topic, 300).await;
    world.until_outbox_is_empty().await;
    for (key, ids) in there {
        let numbers: Vec<u32> = ids.iter().map(|id| id.parse().unwrap()).collect();
        assert!(numbers.is_sorted() && numbers.len() == 30, "{key}: {numbers:?}");
    }
    let log = world.log();
    assert!((1..=6).contains(&log.matches("the relay makes smaller ones").count()), "{log}");
}

async fn c11_events_reach_the_topic_in_the_order_of_the_commits_per_key(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let topic = world.topic("out");
    let workers = (0..8).map(|worker| {
        let (world, topic) = (&world, &topic);
        async move {
            for number in 0..15 {
                publish(world, topic, ["red", "blue"][(worker + number) % 2], &format!("{worker}-{number}")).await;
            }
        }
    });
    futures_util::future::join_all(workers).await;
    let published = until_there(&world, &topic, 120).await;
    for (key, ids) in published {
        let query = "SELECT array_agg(id ORDER BY pg_xact_commit_timestamp(xmin)) FROM probe.rows WHERE id = ANY ($1)";
        let committed: Vec<String> = world.sql().await.query_one(query, &[&ids]).await.unwrap().get(0);
        assert_eq!(ids, committed, "key {key}");
    }
    world.until_outbox_is_empty().await;
    let records = records::all(&world.broker.address(), &topic).await;
    assert_eq!(records.len(), 120, "without a fault nothing is sent twice");
    assert!(records.iter().all(|record| record.timestamp.is_some_and(|timestamp| timestamp > 1_700_000_000_000)), "{records:?}");
    assert!(records.iter().all(|record| record.header("content-type") == Some("application/cloudevents+json; charset=UTF-8")));
}

async fn c11_nothing_is_lost_while_the_broker_is_away(kind: Kind) {
    let world = World::probe_on(Broker::dedicated(kind).await).await.started().await;
    let topic = world.topic("out");
    publish(&world, &topic, "k", "e0").await;
    until_there(&world, &topic, 1).await;
    world.until_outbox_is_empty().await;
    world.broker.stop().await;
    for number in 1..20 {
        publish(&world, &topic, "k", &format!("e{number}")).await;
    }
    assert_eq!(world.count("SELECT count(*) FROM tidemill.outbox").await, 19, "a row stays until the broker has acknowledged it");
    assert_eq!(world.readyz().await.status, 200, "requests are answered without a broker");
    world.broker.start().await;
    let expected: Vec<String> = (0..20).map(|number| format!("e{number}")).collect();
    assert_eq!(until_there(&world, &topic, 20).await["k"], expected);
    world.until_outbox_is_empty().await;
    // Consuming goes on as well.
    world.send_event(0, "k", "afterwards", "probe.ok").await;
    world.until_seen("afterwards").await;
}

async fn c11_nothing_is_lost_when_the_host_dies_before_the_broker_has_it(kind: Kind) {
    let mut world = World::probe_on(Broker::dedicated(kind).await).await.started().await;
    let topic = world.topic("out");
    world.broker.stop().await;
    for number in 0..10 {
        publish(&world, &topic, "k", &format!("e{number}")).await;
    }
    world.host().kill_9();
    world.broker.start().await;
    world.start().await;
    for number in 10..20 {
        publish(&world, &topic, "k", &format!("e{number}")).await;
    }
    let expected: Vec<String> = (0..20).map(|number| format!("e{number}")).collect();
    assert_eq!(until_there(&world, &topic, 20).await["k"], expected);
    world.until_outbox_is_empty().await;
}

/// What `/readyz` says is stuck.
async fn stuck(world: &World) -> Vec<Json> {
    let answer = world.readyz().await;
    assert_eq!(answer.status, 200, "a stuck row does not keep the host from answering: {answer:?}");
    answer.body["stuck"].as_array().cloned().unwrap_or_default()
}

async fn c11_an_event_for_an_unknown_topic_is_stuck_and_leaves_in_order_once_the_topic_exists(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let missing = world.topic("missing");
    for id in ["first", "second", "third"] {
        publish(&world, &missing, "k", id).await;
    }
    let shown = eventually("the row is shown as stuck", async || stuck(&world).await.into_iter().next()).await;
    assert_eq!(shown["topic"], json!(missing));
    assert!(shown["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{shown}");
    // Others are not held up, not even those with the same key in another topic.
    publish(&world, &world.topic("out"), "k", "elsewhere").await;
    until_there(&world, &world.topic("out"), 1).await;
    publish(&world, &missing, "k", "fourth").await;

    records::create_topic(&world.broker.address(), &missing, 1).await;
    assert_eq!(until_there(&world, &missing, 4).await["k"], ["first", "second", "third", "fourth"]);
    world.until_outbox_is_empty().await;
    eventually("nothing is stuck", async || stuck(&world).await.is_empty().then_some(())).await;
}

/// Puts a row into the outbox by SQL: `size` bytes more than its id.
async fn add(world: &World, key: &str, id: &str, size: i32) -> i64 {
    let row = "INSERT INTO tidemill.outbox (bucket, topic, key, value) \
               SELECT tidemill.key_bucket($1, convert_to($2, 'UTF8')), $1, convert_to($2, 'UTF8'), \
                      convert_to(json_build_object('id', $3::text, 'more', repeat('x', $4))::text, 'UTF8') RETURNING id";
    world.sql().await.query_one(row, &[&world.topic("out"), &key, &id, &size]).await.unwrap().get(0)
}

async fn c11_a_stuck_row_holds_its_key_until_it_is_discarded_or_mended_and_not_longer(kind: Kind) {
    let mut world = World::probe(kind).await;
    world.prepared().await;
    let topic = world.topic("out");
    // Larger than the topic takes, and the first that a producer ever sends to its partition.
    let (discarded, mended) = (add(&world, "discarded", "d0", 2 << 20).await, add(&world, "mended", "m0", 2 << 20).await);
    for number in 1..=3 {
        for key in ["discarded", "mended", "free"] {
            add(&world, key, &format!("{}{number}", &key[..1]), 0).await;
        }
    }
    world.start().await;
    assert_eq!(until_there(&world, &topic, 3).await["free"], ["f1", "f2", "f3"]);
    eventually("both wait for long", async || {
        let stuck = stuck(&world).await;
        let long = stuck.iter().filter(|row| row["retry_in_ms"].as_u64() >= Some(8_000)).count();
        (long == 2).then_some(())
    })
    .await;
    assert_eq!(by_key(&world, &topic).await.len(), 1, "what is behind a stuck row waits");
    let dealt = std::time::Instant::now();
    let sql = world.sql().await;
    sql.execute("DELETE FROM tidemill.outbox WHERE id = $1", &[&discarded]).await.unwrap();
    let mend = "UPDATE tidemill.outbox SET value = convert_to('{\"id\": \"m0\"}', 'UTF8'), stuck_since = NULL, stuck_reason = NULL WHERE id = $1";
    sql.execute(mend, &[&mended]).await.unwrap();
    let there = until_there(&world, &topic, 10).await;
    assert_eq!(
        (&there["discarded"][..], &there["mended"][..]),
        (&["d1", "d2", "d3"].map(String::from)[..], &["m0", "m1", "m2", "m3"].map(String::from)[..])
    );
    println!("dealt with {:?} after the statement", dealt.elapsed());
    world.until_outbox_is_empty().await;
    assert!(dealt.elapsed().as_secs() < 6, "it was noticed before the next try");
    eventually("nothing is stuck", async || stuck(&world).await.is_empty().then_some(())).await;
}

#[tokio::test]
async fn c23_large_rows_that_waited_are_read_within_bounds() {
    let mut world = World::probe_on(Broker::dedicated(Kind::Embedded).await).await;
    world.prepared().await;
    let rows = "INSERT INTO tidemill.outbox (bucket, topic, key, value) \
                SELECT 0, $1, 'k', convert_to(repeat('x', 900000), 'UTF8') FROM generate_series(1, 300)";
    world.sql().await.execute(rows, &[&world.topic("out")]).await.unwrap();
    world.start().await;
    world.until_outbox_is_empty().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")).unwrap();
    println!("peak {peak} kB");
    // 270 MB waited; 64 MiB may be in flight, and a page of 8 MiB is in memory several times.
    assert!(peak.parse::<u64>().unwrap() < 300_000, "{peak} kB");
}

/// It looks a few times a second then, however many rows come.
#[tokio::test]
async fn c11_commits_do_not_make_the_relay_read_while_the_broker_is_away() {
    let mut world = World::probe_on(Broker::dedicated(Kind::Embedded).await).await;
    world.prepared().await;
    world.start().await;
    world.broker.stop().await;
    let topic = world.topic("out");
    publish(&world, &topic, "k", "first").await;
    let counted = async |what: &str| {
        // The server's own count of what was read of the table; a session says what it did within a second or when it ends.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let text = format!("SELECT ({what})::int8 FROM pg_stat_user_tables WHERE relid = 'tidemill.outbox'::regclass");
        world.count(&text).await
    };
    let (fetches, scans) = ("seq_tup_read + idx_tup_fetch", "seq_scan + idx_scan");
    let before = counted(fetches).await;
    for number in 0..200 {
        publish(&world, &topic, "k", &format!("e{number}")).await;
    }
    let read = counted(fetches).await - before;
    println!("{read} rows were read");
    // For each commit all rows that wait by then would be 20,000.
    assert!(read < 10_000, "{read} rows were read while nothing could be sent");
    // Nor when the topic counts as silent, and rows of others would be sent.
    world.until_logged("acknowledge nothing of a partition").await;
    let before = counted(scans).await;
    for number in 0..200 {
        publish(&world, &topic, "k", &format!("f{number}")).await;
    }
    let looked = counted(scans).await - before;
    println!("{looked} looks");
    assert!(looked < 100, "it looked {looked} times while nothing could be sent");
    world.broker.start().await;
    world.until_outbox_is_empty().await;
}

#[tokio::test]
async fn c11_the_first_event_of_a_new_database_leaves_also_after_a_rest() {
    let world = World::with_probe().await;
    // Idle, the relay looks once a second how far it may raise its floor; by now it has.
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    publish(&world, &world.topic("out"), "k", "first").await;
    until_there(&world, &world.topic("out"), 1).await;
}

#[tokio::test]
async fn c11_an_old_transaction_that_stays_open_holds_up_nothing() {
    let world = World::with_probe().await;
    let mut sql = world.sql().await;
    let old = sql.transaction().await.unwrap();
    old.query_one("SELECT pg_current_xact_id()::text", &[]).await.unwrap();
    for number in 0..5 {
        publish(&world, &world.topic("out"), "k", &format!("e{number}")).await;
    }
    until_there(&world, &world.topic("out"), 5).await;
    old.rollback().await.unwrap();
    world.until_outbox_is_empty().await;
}

#[tokio::test]
async fn c11_a_row_with_a_lower_number_that_commits_later_is_not_skipped() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    let topic = world.topic("out");
    // One unit is held open between its event's number and its COMMIT.
    world.proxy().arm(Fault::HoldCommit, "into rows");
    let late = publish(&world, &topic, "late", "late");
    let others = async {
        eventually("the COMMIT is held", async || (world.proxy().hits() == 1).then_some(())).await;
        for number in 0..10 {
            publish(&world, &topic, &format!("k{number}"), &format!("e{number}")).await;
        }
        until_there(&world, &topic, 10).await;
        world.proxy().release();
    };
    tokio::join!(late, others);
    until_there(&world, &topic, 11).await;
    world.until_outbox_is_empty().await;
}

#[tokio::test]
async fn c11_no_event_overtakes_an_earlier_one_of_its_key_however_late_that_commits() {
    let world = World::probe(Kind::Embedded).await.proxied().await.started().await;
    let topic = world.topic("out");
    world.proxy().arm(Fault::HoldCommit, "into rows");
    let earlier = publish(&world, &topic, "k", "earlier");
    let meanwhile = async {
        eventually("the COMMIT is held", async || (world.proxy().hits() == 1).then_some(())).await;
        // Thousands of numbers pass the one that nobody can see yet.
        let others = "INSERT INTO tidemill.outbox (bucket, topic, key, value) \
                      SELECT 0, $1, convert_to('other', 'UTF8'), convert_to('{\"id\": \"o' || n || '\"}', 'UTF8') FROM generate_series(1, 20000) n";
        world.sql().await.execute(others, &[&topic]).await.unwrap();
        world.until_outbox_is_empty().await;
        // This one waits for the key, which the held unit has.
        let later = publish(&world, &topic, "k", "later");
        let release = async {
            let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            eventually("the later unit waits", async || (world.count(waiting).await == 1).then_some(())).await;
            world.proxy().release();
        };
        tokio::join!(later, release);
    };
    tokio::join!(earlier, meanwhile);
    let there =
        eventually("both are in the topic", async || by_key(&world, &topic).await.remove("k").filter(|ids| ids.len() == 2));
    assert_eq!(there.await, ["earlier", "later"]);
}
