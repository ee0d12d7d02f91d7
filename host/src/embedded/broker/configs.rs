//! Topic settings: which there are, what they are by default, which values are refused.

use std::collections::BTreeMap;

/// The kinds of value, numbered as DescribeConfigs numbers them (KIP-569).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool = 1,
    Text = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

const CLEANUP_POLICY: &str = "cleanup.policy";
const MAX_MESSAGE_BYTES: &str = "max.message.bytes";
const RETENTION_BYTES: &str = "retention.bytes";
const RETENTION_MS: &str = "retention.ms";
const SEGMENT_BYTES: &str = "segment.bytes";
const SEGMENT_MS: &str = "segment.ms";

/// Kafka's topic settings with Kafka's defaults. They are kept and told; only those in [`Limits`] have an effect.
pub(super) const KNOWN: &[(&str, Kind, &str)] = &[
    (CLEANUP_POLICY, Kind::List, "delete"),
    ("compression.type", Kind::Text, "producer"),
    ("delete.retention.ms", Kind::Long, "86400000"),
    ("file.delete.delay.ms", Kind::Long, "60000"),
    ("flush.messages", Kind::Long, "9223372036854775807"),
    ("flush.ms", Kind::Long, "9223372036854775807"),
    ("index.interval.bytes", Kind::Int, "4096"),
    ("max.compaction.lag.ms", Kind::Long, "9223372036854775807"),
    (MAX_MESSAGE_BYTES, Kind::Int, "1048588"),
    ("message.timestamp.type", Kind::Text, "CreateTime"),
    ("min.cleanable.dirty.ratio", Kind::Double, "0.5"),
    ("min.compaction.lag.ms", Kind::Long, "0"),
    ("min.insync.replicas", Kind::Int, "1"),
    ("preallocate", Kind::Bool, "false"),
    (RETENTION_BYTES, Kind::Long, "-1"),
    (RETENTION_MS, Kind::Long, "604800000"),
    (SEGMENT_BYTES, Kind::Int, "1073741824"),
    ("segment.index.bytes", Kind::Int, "10485760"),
    ("segment.jitter.ms", Kind::Long, "0"),
    (SEGMENT_MS, Kind::Long, "604800000"),
    ("unclean.leader.election.enable", Kind::Bool, "false"),
];

/// The settings of a topic that have an effect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The largest record batch, in bytes.
    pub(super) max_message_bytes: usize,
    /// A segment is closed before it gets larger, in bytes, or older, in milliseconds.
    pub(super) segment_bytes: u64,
    pub(super) segment_ms: i64,
    /// What is kept at least, in bytes and milliseconds; `None` is everything.
    pub(super) retention_bytes: Option<u64>,
    pub(super) retention_ms: Option<i64>,
}

impl Limits {
    /// What the given settings, all checked, and Kafka's defaults for the others come to.
    pub(super) fn of(given: &BTreeMap<String, String>) -> Limits {
        let value = |name| given.get(name).map(String::as_str).or_else(|| default(name));
        let number = |name| value(name).and_then(|value| value.parse::<i64>().ok()).unwrap_or(-1);
        // A folder of before `compact` was refused may have it: such a topic is not to lose records by their age.
        let deletes = value(CLEANUP_POLICY).is_some_and(|policy| policy.split(',').any(|p| p.trim() == "delete"));
        let kept = |name| u64::try_from(number(name)).ok().filter(|_| deletes);
        Limits {
            max_message_bytes: usize::try_from(number(MAX_MESSAGE_BYTES)).unwrap_or(0),
            segment_bytes: u64::try_from(number(SEGMENT_BYTES)).unwrap_or(0),
            segment_ms: number(SEGMENT_MS),
            retention_bytes: kept(RETENTION_BYTES),
            retention_ms: kept(RETENTION_MS).and_then(|ms| i64::try_from(ms).ok()),
        }
    }
}

fn default(name: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, ..)| *known == name).map(|(.., value)| *value)
}

/// Says what is wrong with a setting, in words for the person who sent it.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    let Some((_, kind, _)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("unknown topic setting {name}"));
    };
    // As in Kafka 4 (KIP-1030). Negative means "unlimited" for the two retentions alone.
    let least = match name {
        RETENTION_BYTES | RETENTION_MS => -1,
        SEGMENT_BYTES => 1024 * 1024,
        SEGMENT_MS => 1,
        _ => 0,
    };
    let valid = match kind {
        Kind::Bool => value.parse::<bool>().is_ok(),
        Kind::Int => value.parse::<i32>().is_ok_and(|n| i64::from(n) >= least),
        Kind::Long => value.parse::<i64>().is_ok_and(|n| n >= least),
        Kind::Double => value.parse::<f64>().is_ok(),
        Kind::List => value.split(',').all(|v| matches!(v.trim(), "delete" | "compact")),
        Kind::Text => !value.is_empty(),
    };
    if !valid {
        return Err(format!("invalid value {value:?} for topic setting {name}"));
    }
    if name == CLEANUP_POLICY && value.contains("compact") {
        return Err("this development broker compacts nothing; use cleanup.policy=delete, or Apache Kafka".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_would_have_no_effect_on_records_are_refused_in_words() {
        assert!(check("cleanup.policy", "compact,delete").unwrap_err().contains("compacts nothing"));
        assert_eq!(check("cleanup.policy", "delete"), Ok(()));
        assert!(check("segment.bytes", "1000").is_err());
        assert!(check("retention.bytes", "-2").is_err());
    }

    #[test]
    fn limits_are_kafkas_defaults_unless_given_and_minus_one_keeps_everything() {
        let limits = Limits::of(&BTreeMap::new());
        assert_eq!((limits.retention_ms, limits.retention_bytes), (Some(604_800_000), None));
        assert_eq!((limits.segment_bytes, limits.segment_ms, limits.max_message_bytes), (1 << 30, 604_800_000, 1_048_588));
        let limits = Limits::of(&BTreeMap::from([("retention.ms".into(), "-1".into()), ("retention.bytes".into(), "7".into())]));
        assert_eq!((limits.retention_ms, limits.retention_bytes), (None, Some(7)));
        assert_eq!(Limits::of(&BTreeMap::from([("cleanup.policy".into(), "compact".into())])).retention_ms, None);
    }
}
