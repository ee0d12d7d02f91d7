//! Events put into the outbox by SQL, the way a writer of its own does, and what must have become of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio_postgres::Client;

use super::{World, records};

/// How many events of each key there are; their ids are `KEY-0`, `KEY-1`, ….
pub type Sent = BTreeMap<String, usize>;

/// Commits one transaction with one more event of each key.
pub async fn add(sql: &mut Client, topic: &str, keys: &[String], sent: &mut Sent) {
    let mut values = Vec::new();
    for key in keys {
        let number = sent.entry(key.clone()).or_default();
        values.push(format!(r#"{{"id": "{key}-{number}"}}"#));
        *number += 1;
    }
    let transaction = sql.transaction().await.unwrap();
    let locks = "SELECT pg_advisory_xact_lock(7001, bucket) \
                 FROM (SELECT DISTINCT tidemill.key_bucket($1, convert_to(k, 'UTF8')) AS bucket FROM unnest($2::text[]) k ORDER BY 1) s";
    transaction.query(locks, &[&topic, &keys]).await.unwrap();
    let rows = "INSERT INTO tidemill.outbox (bucket, topic, key, value) \
                SELECT tidemill.key_bucket($1, convert_to(k, 'UTF8')), $1, convert_to(k, 'UTF8'), convert_to(v, 'UTF8') \
                FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS r(k, v, n) ORDER BY n";
    transaction.execute(rows, &[&topic, &keys, &values]).await.unwrap();
    transaction.commit().await.unwrap();
}

/// Ten keys.
pub fn keys(name: &str) -> Vec<String> {
    (0..10).map(|number| format!("{name}{number}")).collect()
}

/// Adds events with four connections, forty keys, until it is over.
pub async fn load(world: &World, topic: &str, over: &AtomicBool) -> Sent {
    let writers = ["a", "b", "c", "d"].map(|name| async move {
        let (mut sql, keys, mut sent) = (world.sql().await, keys(name), Sent::new());
        while !over.load(Ordering::SeqCst) {
            add(&mut sql, topic, &keys, &mut sent).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sent
    });
    futures_util::future::join_all(writers).await.into_iter().flatten().collect()
}

/// Waits until the outbox is empty; then every event is in the topic, the first appearances in the order of their keys, and a copy has the
/// first one's timestamp. Returns how many copies there are.
pub async fn all_arrived(world: &World, topic: &str, sent: &Sent) -> usize {
    world.until_outbox_is_empty().await;
    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut times: BTreeMap<String, Option<i64>> = BTreeMap::new();
    let mut copies = 0;
    let mut partitions: BTreeMap<String, i32> = BTreeMap::new();
    for record in records::all(&world.broker.address(), topic).await {
        let id = record.json()["id"].as_str().unwrap().to_owned();
        let partition = *partitions.entry(record.key.clone().unwrap()).or_insert(record.partition);
        assert_eq!(partition, record.partition, "{id} is in another partition than the rest of its key");
        match times.get(&id) {
            Some(first) => {
                assert_eq!(*first, record.timestamp, "a copy of {id} has another timestamp");
                copies += 1;
            }
            None => {
                times.insert(id.clone(), record.timestamp);
                arrived.entry(record.key.unwrap()).or_default().push(id);
            }
        }
    }
    assert_eq!(arrived.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>());
    for (key, count) in sent {
        let expected = (0..*count).map(|number| format!("{key}-{number}"));
        let wrong = expected.zip(&arrived[key]).find(|(expected, arrived)| expected != *arrived);
        assert!(wrong.is_none(), "first appearances of key {key}: (expected, arrived) = {wrong:?}");
        assert_eq!(arrived[key].len(), *count, "first appearances of key {key}");
    }
    let all: usize = sent.values().sum();
    println!("{all} events and {copies} copies");
    copies
}
