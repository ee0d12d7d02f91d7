//! Topics of which the brokers acknowledge nothing, since a partition has no leader or too few replicas in sync.
//!
//! The client tries again without end and says nothing, and sooner or later everything would wait behind that. So no more of such a topic is read
//! until the partition answers, and what it has on its way does not count against the others. No order is at stake: what is on its way
//! stays with its producer, and what is read of the topic later comes behind that.

use super::flight::Sent;
use crate::store::OutboxRow;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// How long a row waits for its acknowledgement, and its partition has acknowledged no other, until its topic counts as silent.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// How often that is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// The silent topics, and what they have on their way.
#[derive(Debug, Default)]
pub(super) struct Silent {
    topics: HashSet<String>,
    /// Rows on their way.
    pub(super) rows: usize,
    /// Their bytes.
    pub(super) bytes: usize,
    last: Option<Instant>,
}

impl Silent {
    /// Looks, now and then, which topics are silent. True if one is not any more: what was left out of it has to be read.
    /// `heard`: when a row's partition has last acknowledged another.
    pub(super) fn look<'a>(
        &mut self,
        in_flight: impl Iterator<Item = &'a Sent> + Clone,
        heard: impl Fn(&OutboxRow) -> Option<Instant>,
    ) -> bool {
        if self.last.is_some_and(|last| last.elapsed() < LOOK) {
            return false;
        }
        let mut topics = HashSet::new();
        for sent in in_flight.clone().filter(|sent| !sent.alone && sent.since.elapsed() >= PATIENCE) {
            if !topics.contains(&sent.row.topic) && heard(&sent.row).is_none_or(|heard| heard.elapsed() >= PATIENCE) {
                topics.insert(sent.row.topic.clone());
            }
        }
        for topic in topics.difference(&self.topics) {
            tracing::warn!(
                topic,
                "the brokers acknowledge nothing of a partition; the topic's events wait in the outbox, all others go on"
            );
        }
        let again = self.topics.difference(&topics).next().is_some();
        let theirs = in_flight.filter(|sent| topics.contains(&sent.row.topic));
        let (rows, bytes) = theirs.fold((0, 0), |(rows, bytes), sent| (rows + 1, bytes + sent.size));
        *self = Self { topics, rows, bytes, last: Some(Instant::now()) };
        again
    }

    /// Something was acknowledged: if it was of a silent topic, the next look is now.
    pub(super) fn heard(&mut self, topic: &str) {
        if self.topics.contains(topic) {
            self.last = None;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    pub(super) fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }
}
