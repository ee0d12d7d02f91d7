//! The difference between what is declared and what there is, as steps.

use super::wanted::{DEAD_LETTER_HEADROOM, Size, Topics, Wanted};
use super::{Finding, Found, FoundTopic, findings};
use crate::config::units::{display_duration, display_size};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub(super) const RETENTION: &str = "retention.ms";
pub(super) const SEGMENT: &str = "segment.ms";
pub(super) const SIZE: &str = "max.message.bytes";
pub(super) const MIN_INSYNC: &str = "min.insync.replicas";

/// What has to be done to one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "action", rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Step {
    /// It is missing.
    Create {
        /// How many partitions it gets.
        partitions: i32,
        /// How many replicas; `None`: the brokers' default.
        replication: Option<i32>,
        /// The settings that it gets, by Kafka's names.
        settings: BTreeMap<&'static str, String>,
    },
    /// It has too few partitions.
    Grow {
        /// How many it has.
        from: i32,
        /// How many are declared.
        to: i32,
        /// Whether somebody has accepted that keys move.
        allowed: bool,
    },
    /// One of its settings differs.
    Set {
        /// The setting, by Kafka's name.
        setting: &'static str,
        /// Its value, if the broker tells it.
        from: Option<String>,
        /// The value that it gets.
        to: String,
    },
    /// It cannot become what is declared.
    Refuse {
        /// Why, and the way out.
        reason: String,
    },
}

/// Steps by topic, and what else a person should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Every wanted topic; without steps it is as declared.
    pub topics: BTreeMap<String, Vec<Step>>,
    /// What endangers a promise and no step mends.
    pub warnings: Vec<Finding>,
}

impl Plan {
    /// Compares. Partitions are added only if `allow_key_moves`; until then the step is held back.
    pub fn new(topics: &Topics, found: &Found, allow_key_moves: bool) -> Self {
        let steps = topics.wanted().map(|wanted| {
            let size = size(wanted, topics, found);
            let steps = match found.topics.get(&wanted.name) {
                None => vec![create(wanted, size, found.brokers)],
                Some(topic) => compare(wanted, size, topic, allow_key_moves),
            };
            (wanted.name.clone(), steps)
        });
        let warnings = findings(topics, found).into_iter().filter(|finding| !finding.is_mended_by_apply());
        Self { topics: steps.collect(), warnings: warnings.collect() }
    }

    /// Whether anything differs.
    pub fn differs(&self) -> bool {
        self.topics.values().any(|steps| !steps.is_empty())
    }

    /// The same without what changes topics that exist.
    pub fn creations(mut self) -> Self {
        for steps in self.topics.values_mut() {
            steps.retain(|step| matches!(step, Step::Create { .. }));
        }
        self
    }
}

/// The least bytes that a topic has to take, and whether it may take more.
pub(super) fn size(wanted: &Wanted, topics: &Topics, found: &Found) -> Option<(i64, bool)> {
    match &wanted.size {
        Size::Default => None,
        Size::Exactly(bytes) => Some((*bytes, false)),
        Size::Above(source) => {
            let declared = match topics.get(source).map(|source| &source.size) {
                Some(Size::Exactly(bytes)) => Some(*bytes),
                _ => None,
            };
            let now = || found.topics.get(source).and_then(|source| source.number(SIZE));
            let source = declared.or_else(now).unwrap_or(found.default_max_message_bytes);
            Some(((source + DEAD_LETTER_HEADROOM).min(i32::MAX.into()), true))
        }
    }
}

fn create(wanted: &Wanted, size: Option<(i64, bool)>, brokers: usize) -> Step {
    let brokers = i32::try_from(brokers).unwrap_or(i32::MAX);
    let copies = wanted.replication.max(wanted.min_insync_replicas).unwrap_or(1);
    if copies > brokers {
        let reason = format!("{copies} replicas are declared, the cluster has {brokers} broker(s): add brokers or declare fewer");
        return Step::Refuse { reason };
    }
    let mut settings = BTreeMap::from([(RETENTION, millis(wanted.retention)), (SEGMENT, millis(wanted.segment()))]);
    settings.extend(size.map(|(bytes, _)| (SIZE, bytes.to_string())));
    settings.extend(wanted.min_insync_replicas.map(|replicas| (MIN_INSYNC, replicas.to_string())));
    Step::Create { partitions: wanted.partitions, replication: wanted.replication, settings }
}

fn compare(wanted: &Wanted, size: Option<(i64, bool)>, topic: &FoundTopic, allowed: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    let (has, declared) = (topic.partitions, wanted.partitions);
    match has.cmp(&declared) {
        std::cmp::Ordering::Less => steps.push(Step::Grow { from: has, to: declared, allowed }),
        std::cmp::Ordering::Greater => steps.push(Step::Refuse {
            reason: format!(
                "{declared} partitions are declared, it has {has}: partitions are never taken away. Declare {has}, or declare a \
                 topic with another name and move to it"
            ),
        }),
        std::cmp::Ordering::Equal => {}
    }
    if let Some(declared) = wanted.replication.filter(|declared| *declared != topic.replication) {
        let has = topic.replication;
        steps.push(Step::Refuse {
            reason: format!(
                "replication {declared} is declared, it has {has}: move replicas with kafka-reassign-partitions, or declare {has}"
            ),
        });
    }
    let mut set = |setting, to: String| steps.push(Step::Set { setting, from: topic.settings.get(setting).cloned(), to });
    if topic.time(RETENTION) != Some(wanted.retention) {
        set(RETENTION, millis(wanted.retention));
    }
    // Shorter than declared is better still.
    if topic.time(SEGMENT).is_none_or(|segment| segment > wanted.segment()) {
        set(SEGMENT, millis(wanted.segment()));
    }
    if let Some((bytes, or_more)) = size
        && topic.number(SIZE).is_none_or(|has| has < bytes || (has > bytes && !or_more))
    {
        set(SIZE, bytes.to_string());
    }
    if let Some(declared) = wanted.min_insync_replicas
        && topic.number(MIN_INSYNC) != Some(declared.into())
    {
        if declared > topic.replication {
            let has = topic.replication;
            let reason = format!("min_insync_replicas {declared} is declared, it has {has} replica(s): nobody could write to it");
            steps.push(Step::Refuse { reason });
        } else {
            set(MIN_INSYNC, declared.to_string());
        }
    }
    steps
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// A setting's value as people write it.
pub(super) fn shown(setting: &str, value: &str) -> String {
    match (setting, value.parse::<i64>()) {
        (RETENTION | SEGMENT, Ok(..0)) => "for ever".to_owned(),
        (RETENTION | SEGMENT, Ok(millis @ 0..)) => display_duration(Duration::from_millis(millis.unsigned_abs())),
        (SIZE, Ok(bytes @ 0..)) => display_size(bytes.unsigned_abs()),
        _ => value.to_owned(),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { partitions, replication, settings } => {
                write!(f, "{partitions} partition(s)")?;
                if let Some(replication) = replication {
                    write!(f, ", {replication} replica(s)")?;
                }
                settings.iter().try_for_each(|(setting, value)| write!(f, ", {setting} {}", shown(setting, value)))
            }
            Self::Grow { from, to, .. } => write!(
                f,
                "{from} → {to} partitions, which moves keys: later records of a key go to another partition than its earlier ones and \
                 may be handled before them"
            ),
            Self::Set { setting, from, to } => {
                let from_shown = from.as_ref().map_or_else(|| "unknown".to_owned(), |from| shown(setting, from));
                write!(f, "{setting} {from_shown} → {}", shown(setting, to))?;
                // -1 is "for ever", so longer than anything.
                let number = |text: &String| text.parse::<i64>().map(|millis| millis.cast_unsigned()).ok();
                if *setting == RETENTION && from.as_ref().and_then(number) > number(to) {
                    write!(f, ", so the brokers drop records that are older")?;
                }
                Ok(())
            }
            Self::Refuse { reason } => f.write_str(reason),
        }
    }
}
