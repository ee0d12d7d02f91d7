//! The board: what is paused or stuck right now, by name, for the body of `/readyz`.
//!
//! Nothing on it makes a replica unready: a paused partition is no reason to stop answering requests. It is the first page that a
//! person looks at when events do not arrive.

use super::lock;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// A partition that a consumer group has stopped reading, because its next batch fails.
#[derive(Debug, Clone, Serialize)]
pub struct PausedPartition {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the first record that is not done.
    pub offset: i64,
    /// What failed, and how to get out of it.
    pub reason: String,
    /// When it first failed, RFC 3339.
    pub since: String,
    /// How often the batch has failed.
    pub failures: u32,
    /// How long the partition waits before the next attempt, in milliseconds from the last failure.
    pub retry_in_ms: u64,
}

/// An outbox row that the broker refuses; the later rows of its key wait behind it.
#[derive(Debug, Clone, Serialize)]
pub struct StuckRow {
    /// The row's number in `tidemill.outbox`.
    pub id: i64,
    /// The topic that it is for.
    pub topic: String,
    /// What the broker said, and how to get out of it.
    pub reason: String,
    /// When it was first refused, RFC 3339.
    pub since: String,
    /// How often it was refused.
    pub failures: u32,
    /// How long it waits before the next attempt, in milliseconds from the last refusal.
    pub retry_in_ms: u64,
}

/// A group that has stopped, because many distinct keys fail on one revision.
#[derive(Debug, Clone, Serialize)]
pub struct OpenBreaker {
    /// The consumer group.
    pub group: String,
    /// The revision that fails.
    pub revision: String,
    /// Since when, RFC 3339.
    pub since: String,
    /// What failed, and how to get out of it.
    pub reason: String,
}

/// What waits for a person. Cheap to write, read by the admin port.
#[derive(Debug, Default)]
pub struct Board {
    paused: Mutex<BTreeMap<(String, String, i32), PausedPartition>>,
    stuck: Mutex<BTreeMap<i64, StuckRow>>,
    breakers: Mutex<BTreeMap<String, OpenBreaker>>,
    notes: Mutex<BTreeMap<&'static str, String>>,
}

impl Board {
    /// Puts a paused partition up, or replaces what is known of it.
    pub fn pause(&self, entry: PausedPartition) {
        lock(&self.paused).insert((entry.group.clone(), entry.topic.clone(), entry.partition), entry);
    }

    /// Takes a partition down: its batch has succeeded, or it belongs to another replica now.
    pub fn resume(&self, group: &str, topic: &str, partition: i32) {
        lock(&self.paused).remove(&(group.to_owned(), topic.to_owned(), partition));
    }

    /// Puts a group up that has stopped.
    pub fn open_breaker(&self, entry: OpenBreaker) {
        lock(&self.breakers).insert(entry.group.clone(), entry);
    }

    /// Takes a group down that goes on.
    pub fn close_breaker(&self, group: &str) {
        lock(&self.breakers).remove(group);
    }

    /// The groups that have stopped, by name.
    pub fn breakers(&self) -> Vec<OpenBreaker> {
        lock(&self.breakers).values().cloned().collect()
    }

    /// Puts a stuck outbox row up, or replaces what is known of it.
    pub fn stick(&self, entry: StuckRow) {
        lock(&self.stuck).insert(entry.id, entry);
    }

    /// Takes a stuck row down: it has left.
    pub fn unstick(&self, id: i64) {
        lock(&self.stuck).remove(&id);
    }

    /// Says one sentence under a name (such as `broker`), until [`Board::clear`].
    pub fn note(&self, name: &'static str, text: String) {
        lock(&self.notes).insert(name, text);
    }

    /// Takes the sentence under a name down.
    pub fn clear(&self, name: &'static str) {
        lock(&self.notes).remove(name);
    }

    /// The paused partitions, by group, topic and partition.
    pub fn paused(&self) -> Vec<PausedPartition> {
        lock(&self.paused).values().cloned().collect()
    }

    /// The stuck rows, by number.
    pub fn stuck(&self) -> Vec<StuckRow> {
        lock(&self.stuck).values().cloned().collect()
    }

    /// The sentences, by name.
    pub fn notes(&self) -> BTreeMap<&'static str, String> {
        lock(&self.notes).clone()
    }
}
