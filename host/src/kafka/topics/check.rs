//! What endangers a promise while the host runs, and the note about it.

use super::plan::{MIN_INSYNC, RETENTION, SEGMENT, SIZE, size};
use super::wanted::{LONGEST_SEGMENT, Topics, Wanted};
use super::{Cluster, Found, FoundTopic};
use crate::config::KafkaAccess;
use crate::config::units::{display_duration, display_size};
use crate::telemetry::Board;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The note's name on the board.
const NOTE: &str = "topics";

/// How long until the next look, at first and at most. Looking ends when all is well.
const PAUSES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Something that a person has to mend. Each says what it endangers and the way out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A declared topic does not exist, or the dead-letter topic of one that is read.
    Missing(String),
    /// A topic that handlers use does not exist, and nobody declares it.
    Undeclared(String),
    /// Records stay longer than the inbox remembers them (`None`: for ever).
    Retention(String, Option<Duration>, Duration),
    /// Segments are so long that records stay longer than retention says (`None`: without end); of a declared topic or of a foreign one.
    Segment(String, Option<Duration>, bool),
    /// It takes fewer bytes than it must.
    Size(String, i64, i64),
    /// One broker alone holds it, though there are more.
    OneReplica(String),
    /// One broker's word is enough for an acknowledgement, though there are more.
    Insync(String, i64),
    /// A broker that lacks acknowledged records may lead it.
    Unclean(String),
}

/// Everything that is wrong with the topics, by kind and name.
pub fn findings(topics: &Topics, found: &Found) -> Vec<Finding> {
    let mut all = Vec::new();
    for wanted in topics.wanted() {
        let Some(topic) = found.topics.get(&wanted.name) else {
            all.push(Finding::Missing(wanted.name.clone()));
            continue;
        };
        all.extend(lifetime(wanted, topic));
        let short = size(wanted, topics, found).zip(topic.number(SIZE)).filter(|((least, _), has)| has < least);
        all.extend(short.map(|((least, _), has)| Finding::Size(wanted.name.clone(), has, least)));
        all.extend(safety(&wanted.name, topic, found.brokers));
    }
    for name in topics.foreign() {
        match found.topics.get(name) {
            None => all.push(Finding::Undeclared(name.to_owned())),
            Some(topic) => {
                all.extend(segment(name, topic, false));
                all.extend(safety(name, topic, found.brokers));
            }
        }
    }
    all.sort();
    all
}

/// How long records stay. Nobody remembers dead letters by the inbox, so those that nobody declares may stay as long as they like.
fn lifetime(wanted: &Wanted, topic: &FoundTopic) -> Vec<Finding> {
    let retention = topic.time(RETENTION);
    let long = !wanted.derived && retention.is_none_or(|retention| retention > wanted.retention);
    let retention = long.then(|| Finding::Retention(wanted.name.clone(), retention, wanted.retention));
    retention.into_iter().chain(segment(&wanted.name, topic, true)).collect()
}

fn segment(name: &str, topic: &FoundTopic, declared: bool) -> Option<Finding> {
    let segment = topic.time(SEGMENT);
    segment.is_none_or(|segment| segment > LONGEST_SEGMENT).then(|| Finding::Segment(name.to_owned(), segment, declared))
}

/// Whether acknowledged records survive a broker.
fn safety(name: &str, topic: &FoundTopic, brokers: usize) -> Vec<Finding> {
    let mut unsafe_ways = Vec::new();
    if brokers > 1 {
        let insync = topic.number(MIN_INSYNC).unwrap_or(1);
        if topic.replication < 2 {
            unsafe_ways.push(Finding::OneReplica(name.to_owned()));
        } else if insync < 2 {
            unsafe_ways.push(Finding::Insync(name.to_owned(), insync));
        }
    }
    if topic.settings.get("unclean.leader.election.enable").is_some_and(|value| value == "true") {
        unsafe_ways.push(Finding::Unclean(name.to_owned()));
    }
    unsafe_ways
}

impl Finding {
    /// Whether `tidemill topics apply` mends it.
    pub fn is_mended_by_apply(&self) -> bool {
        match self {
            Self::Missing(_) | Self::Retention(..) | Self::Size(..) => true,
            Self::Segment(.., declared) => *declared,
            Self::Undeclared(_) | Self::OneReplica(_) | Self::Insync(..) | Self::Unclean(_) => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Option<Duration>| {
            time.map_or_else(|| "for ever".to_owned(), |time| format!("for {}", display_duration(time)))
        };
        match self {
            Self::Missing(topic) => write!(f, "topic `{topic}` does not exist: run `tidemill topics apply`"),
            Self::Undeclared(topic) => {
                write!(
                    f,
                    "topic `{topic}` does not exist and no manifest declares it: add `[topics.\"{topic}\"]` at its owner, or make it"
                )
            }
            Self::Retention(topic, has, declared) => write!(
                f,
                "topic `{topic}` keeps records {}, declared is {}: the inbox forgets a day and a segment after the declared time, so a \
                 record that is read again later would be handled twice; run `tidemill topics apply`, or declare what it has",
                time(has),
                display_duration(*declared)
            ),
            Self::Segment(topic, has, declared) => write!(
                f,
                "topic `{topic}` fills a segment {}, so records stay up to that much longer than its retention says, when the inbox may \
                 have forgotten them: {}",
                time(has),
                if *declared { "run `tidemill topics apply`".to_owned() } else { format!("set {SEGMENT} to a day or less") }
            ),
            Self::Size(topic, has, least) => write!(
                f,
                "topic `{topic}` takes records of {}, but has to take {}: run `tidemill topics apply`",
                display_size(has.unsigned_abs()),
                display_size(least.unsigned_abs())
            ),
            Self::OneReplica(topic) => write!(
                f,
                "topic `{topic}` has one replica: losing that broker loses acknowledged events; give it more with \
                 kafka-reassign-partitions"
            ),
            Self::Insync(topic, has) => write!(
                f,
                "topic `{topic}` has {MIN_INSYNC} {has}: an event may be acknowledged by a single broker and lost with it; set it to 2 \
                 or more (`min_insync_replicas` in the manifest, or at the broker)"
            ),
            Self::Unclean(topic) => write!(
                f,
                "topic `{topic}` has unclean.leader.election.enable=true: a broker that lacks acknowledged events may take over and drop \
                 them; set it to false"
            ),
        }
    }
}

/// Looks at the topics until nothing is wrong or `stop` turns true: each finding is logged once, and all stand in the note `topics` of the
/// board as long as they last. Brokers may be away.
pub async fn watch(access: Arc<KafkaAccess>, topics: Topics, board: Arc<Board>, mut stop: watch::Receiver<bool>) {
    let (mut pause, longest) = PAUSES;
    let mut said = BTreeSet::new();
    let cluster = match Cluster::connect(&access) {
        Ok(cluster) => cluster,
        Err(error) => return tracing::error!("the topics are not checked: {error:#}"),
    };
    let names = topics.names();
    loop {
        let found = tokio::select! {
            found = cluster.describe(&names) => found,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let wrong: BTreeSet<String> = match found {
            Ok(found) => findings(&topics, &found).iter().map(Finding::to_string).collect(),
            Err(error) => [format!("the topics are not checked yet: {error:#}")].into(),
        };
        for new in wrong.difference(&said) {
            tracing::warn!("{new}");
        }
        if wrong.is_empty() {
            board.clear(NOTE);
            return tracing::info!(topics = names.len(), "the topics are checked, and nothing is wrong with them");
        }
        board.note(NOTE, wrong.iter().cloned().collect::<Vec<_>>().join("; "));
        said.extend(wrong);
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
