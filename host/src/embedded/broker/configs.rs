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

const MAX_MESSAGE_BYTES: &str = "max.message.bytes";

/// Kafka's topic settings with Kafka's defaults. They are kept and told; only `max.message.bytes` has an effect so far.
pub(super) const KNOWN: &[(&str, Kind, &str)] = &[
    ("cleanup.policy", Kind::List, "delete"),
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
    ("retention.bytes", Kind::Long, "-1"),
    ("retention.ms", Kind::Long, "604800000"),
    ("segment.bytes", Kind::Int, "1073741824"),
    ("segment.index.bytes", Kind::Int, "10485760"),
    ("segment.jitter.ms", Kind::Long, "0"),
    ("segment.ms", Kind::Long, "604800000"),
    ("unclean.leader.election.enable", Kind::Bool, "false"),
];

/// The largest batch that a topic with these settings takes, in bytes.
pub(super) fn max_message_bytes(configs: &BTreeMap<String, String>) -> usize {
    configs.get(MAX_MESSAGE_BYTES).and_then(|v| v.parse().ok()).unwrap_or(1_048_588)
}

/// Says what is wrong with a setting, in words for the person who sent it.
pub(super) fn check(name: &str, value: &str) -> Result<(), String> {
    let Some((_, kind, _)) = KNOWN.iter().find(|(known, ..)| *known == name) else {
        return Err(format!("unknown topic setting {name}"));
    };
    // Negative means "unlimited" for the two retentions alone.
    let least = if name.starts_with("retention.") { -1 } else { 0 };
    let valid = match kind {
        Kind::Bool => value.parse::<bool>().is_ok(),
        Kind::Int => value.parse::<i32>().is_ok_and(|n| i64::from(n) >= least),
        Kind::Long => value.parse::<i64>().is_ok_and(|n| n >= least),
        Kind::Double => value.parse::<f64>().is_ok(),
        Kind::List => value.split(',').all(|v| matches!(v.trim(), "delete" | "compact")),
        Kind::Text => !value.is_empty(),
    };
    if valid { Ok(()) } else { Err(format!("invalid value {value:?} for topic setting {name}")) }
}
