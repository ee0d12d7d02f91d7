//! The partitions of one producer's life, and whether the broker knows it there.
//!
//! A broker that has nothing of a producer in a partition takes any sequence number from it. So behind a first request that it refuses,
//! a second one that is on its way already would get in, ahead of the rows that failed. Therefore the first row with a key in each
//! partition goes there alone; once it is acknowledged, the broker's sequence lets no later row past a failed one.

use crate::store::OutboxRow;
use crate::telemetry::lock;
use rdkafka::producer::Partitioner;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Brokers forget a producer that has sent nothing for a day.
const KNOWN: Duration = Duration::from_secs(3600);

/// Puts a key where Java's clients put it, and remembers how many partitions topics have.
#[derive(Debug, Clone, Default)]
pub(super) struct Murmur2 {
    counts: Arc<Mutex<HashMap<String, i32>>>,
}

impl Murmur2 {
    /// The partition of a key; unknown until the first record of the topic has been given one.
    fn of(&self, topic: &str, key: &[u8]) -> Option<i32> {
        lock(&self.counts).get(topic).map(|count| place(key, *count))
    }
}

impl Partitioner for Murmur2 {
    fn partition(&self, topic: &str, key: Option<&[u8]>, count: i32, _: impl Fn(i32) -> bool) -> i32 {
        let mut counts = lock(&self.counts);
        match counts.get_mut(topic) {
            Some(known) => *known = count,
            None => drop(counts.insert(topic.to_owned(), count)),
        }
        // Records without a key do not come here: librdkafka places them itself.
        place(key.unwrap_or_default(), count)
    }
}

fn place(key: &[u8], count: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % count.max(1)
}

/// MurmurHash2 with the seed of Java's clients.
fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        let rest = tail.iter().rev().fold(0u32, |rest, byte| (rest << 8) | u32::from(*byte));
        hash = (hash ^ rest).wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[derive(Debug, Clone, Copy)]
enum Lane {
    /// This row is the first and on its way.
    Trying(i64),
    /// The last acknowledgement.
    Known(Instant),
}

/// What is known in the life of one producer. `None` is the partition of a topic of which nothing is known.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    topics: HashMap<String, HashMap<Option<i32>, Lane>>,
}

impl Lanes {
    /// Whether the row may be sent now. One that may not waits for a delivery.
    pub(super) fn admit(&mut self, murmur2: &Murmur2, row: &OutboxRow) -> bool {
        // Without a key there is no order to keep.
        let Some(key) = &row.key else { return true };
        if !self.topics.contains_key(&row.topic) {
            self.topics.insert(row.topic.clone(), HashMap::new());
        }
        let Some(lanes) = self.topics.get_mut(&row.topic) else { return true };
        // The number of partitions becomes known before the first row is acknowledged.
        if let Some(Lane::Trying(first)) = lanes.get(&None) {
            return *first == row.id;
        }
        match lanes.entry(murmur2.of(&row.topic, key)).or_insert(Lane::Trying(row.id)) {
            Lane::Trying(first) => *first == row.id,
            Lane::Known(last) if last.elapsed() < KNOWN => true,
            forgotten => {
                *forgotten = Lane::Trying(row.id);
                true
            }
        }
    }

    /// The row was not sent after all.
    pub(super) fn withdraw(&mut self, row: &OutboxRow) {
        if let Some(lanes) = self.topics.get_mut(&row.topic) {
            lanes.retain(|_, lane| !matches!(lane, Lane::Trying(id) if *id == row.id));
        }
    }

    /// The row got into the partition.
    pub(super) fn acknowledged(&mut self, row: &OutboxRow, partition: i32) {
        if let Some(lanes) = self.topics.get_mut(&row.topic) {
            // One without a key says nothing of a first row that is still on its way.
            if matches!(lanes.get(&None), Some(Lane::Trying(first)) if *first == row.id) {
                lanes.remove(&None);
            }
            lanes.insert(Some(partition), Lane::Known(Instant::now()));
        }
    }

    /// When the partition of a row has last acknowledged another; of a row without a key, when any partition of its topic has.
    pub(super) fn heard(&self, murmur2: &Murmur2, row: &OutboxRow) -> Option<Instant> {
        let lanes = self.topics.get(&row.topic)?;
        let known = |lane: &Lane| match lane {
            Lane::Known(last) => Some(*last),
            Lane::Trying(_) => None,
        };
        match &row.key {
            Some(key) => lanes.get(&murmur2.of(&row.topic, key)).and_then(known),
            None => lanes.values().filter_map(known).max(),
        }
    }

    /// Another producer begins.
    pub(super) fn clear(&mut self) {
        self.topics.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_javas_clients_put_them() {
        let hashes =
            [("21", -973_932_308), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536), ("abc", 479_470_107)];
        for (key, expected) in hashes {
            assert_eq!(murmur2(key.as_bytes()) as i32, expected, "{key}");
        }
    }

    fn row(id: i64, key: Option<&str>) -> OutboxRow {
        let key = key.map(|key| key.as_bytes().to_vec());
        OutboxRow { id, slice: 0, topic: "t".to_owned(), key, value: None, headers: Vec::new(), timestamp: 0 }
    }

    #[test]
    fn the_first_row_of_each_partition_goes_alone() {
        let (murmur2, mut lanes) = (Murmur2::default(), Lanes::default());
        // Of a topic of which nothing is known, one at a time, whatever the key.
        assert!(lanes.admit(&murmur2, &row(1, Some("21"))) && lanes.admit(&murmur2, &row(1, Some("21"))));
        assert!(!lanes.admit(&murmur2, &row(2, Some("foobar"))));
        assert!(lanes.admit(&murmur2, &row(3, None)));
        let partition = murmur2.partition("t", Some(b"21"), 3, |_| true);
        assert!(!lanes.admit(&murmur2, &row(2, Some("foobar"))) && !lanes.admit(&murmur2, &row(4, Some("21"))));
        // One without a key that got in says nothing of the first one with a key.
        lanes.acknowledged(&row(3, None), (partition + 1) % 3);
        assert!(!lanes.admit(&murmur2, &row(2, Some("foobar"))) && !lanes.admit(&murmur2, &row(4, Some("21"))));
        lanes.acknowledged(&row(1, Some("21")), partition);
        assert!(lanes.admit(&murmur2, &row(4, Some("21"))) && lanes.admit(&murmur2, &row(5, Some("21"))));
        let fresh = (0..3).find(|place| *place != partition && *place != (partition + 1) % 3);
        let other = ["a", "b", "c", "d", "e", "f"].into_iter().find(|key| Some(place(key.as_bytes(), 3)) == fresh);
        assert!(other.is_some());
        assert!(lanes.admit(&murmur2, &row(6, other)));
        assert!(!lanes.admit(&murmur2, &row(7, other)));
        lanes.withdraw(&row(6, other));
        assert!(lanes.admit(&murmur2, &row(7, other)));
        lanes.clear();
        assert!(lanes.admit(&murmur2, &row(8, Some("21"))) && !lanes.admit(&murmur2, &row(9, Some("21"))));
    }
}
