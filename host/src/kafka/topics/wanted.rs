//! What manifests want of topics, and the dead-letter topics that follow from what they read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a dead-letter topic's name adds to the name of its source.
pub const DEAD_LETTER_SUFFIX: &str = ".dlq";

/// How long dead letters stay if nobody declares it.
pub const DEAD_LETTER_RETENTION: Duration = Duration::from_secs(30 * 86_400);

/// Bytes by which a dead letter may be larger than the record that it copies: headers tell its story.
pub const DEAD_LETTER_HEADROOM: i64 = 64 << 10;

/// Retention is exact to a segment only, and the inbox reaches back over retention, one segment and a day; so segments are short.
pub const LONGEST_SEGMENT: Duration = Duration::from_secs(86_400);

/// A topic as its owner declares it, or as it follows from its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How long its records stay.
    pub retention: Duration,
    /// How many brokers hold each partition; `None`: what the brokers do by default.
    pub replication: Option<i32>,
    /// `min.insync.replicas`; `None`: what the brokers do by default.
    pub min_insync_replicas: Option<i32>,
    /// `max.message.bytes`.
    pub size: Size,
    /// Whether no manifest declares it: it follows from a topic that is read.
    pub derived: bool,
}

/// How large a record batch may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Size {
    /// What the brokers take by default, or what somebody has set.
    Default,
    /// So many bytes.
    Exactly(i64),
    /// At least [`DEAD_LETTER_HEADROOM`] more than this topic takes.
    Above(String),
}

impl Wanted {
    /// The longest `segment.ms` that it may have.
    pub fn segment(&self) -> Duration {
        self.retention.min(LONGEST_SEGMENT)
    }

    /// The dead-letter topic of a topic that is read. It is as safe as its source.
    fn dead_letters(source: &str, declared: Option<&Wanted>) -> Self {
        Self {
            name: format!("{source}{DEAD_LETTER_SUFFIX}"),
            partitions: 1,
            retention: DEAD_LETTER_RETENTION,
            replication: declared.and_then(|source| source.replication),
            min_insync_replicas: declared.and_then(|source| source.min_insync_replicas),
            size: Size::Above(source.to_owned()),
            derived: true,
        }
    }
}

/// All topics that an installation is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topics {
    wanted: BTreeMap<String, Wanted>,
    foreign: BTreeSet<String>,
}

impl Topics {
    /// The declared topics, with a dead-letter topic for each of `read` that is none itself. A declared dead-letter topic stays as it is
    /// declared; without a declared size it, too, takes what a dead letter needs. Names of `read` and `published` that nobody declares
    /// belong to somebody else: they are looked at and never made.
    pub fn new(declared: Vec<Wanted>, read: &BTreeSet<String>, published: &BTreeSet<String>) -> Self {
        let mut wanted: BTreeMap<String, Wanted> = declared.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        let foreign = read.union(published).filter(|name| !wanted.contains_key(*name)).cloned().collect::<BTreeSet<_>>();
        for source in read.iter().filter(|name| !name.ends_with(DEAD_LETTER_SUFFIX)) {
            let derived = Wanted::dead_letters(source, wanted.get(source));
            let topic = wanted.entry(derived.name.clone()).or_insert_with(|| derived.clone());
            if topic.size == Size::Default {
                topic.size = derived.size;
            }
        }
        let foreign = foreign.into_iter().filter(|name| !wanted.contains_key(name)).collect();
        Self { wanted, foreign }
    }

    /// The topics to make and to keep as they are declared, by name.
    pub fn wanted(&self) -> impl Iterator<Item = &Wanted> {
        self.wanted.values()
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Wanted> {
        self.wanted.get(name)
    }

    /// Topics that handlers read or publish to and no manifest declares.
    pub fn foreign(&self) -> impl Iterator<Item = &str> {
        self.foreign.iter().map(String::as_str)
    }

    /// The names of all of them, foreign ones too.
    pub fn names(&self) -> Vec<String> {
        self.wanted.keys().chain(&self.foreign).cloned().collect()
    }

    /// The same for a cluster of one broker, which holds no second copy of anything: development.
    pub fn on_one_broker(mut self) -> Self {
        for topic in self.wanted.values_mut() {
            topic.replication = None;
            topic.min_insync_replicas = None;
        }
        self
    }
}
