//! How long topics keep their records, as the brokers have it.

use super::client_config;
use crate::config::KafkaAccess;
use anyhow::Context;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use std::time::Duration;

/// How long an administrative call may take.
const ADMIN_PATIENCE: Duration = Duration::from_secs(15);

/// How long records stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// So long.
    For(Duration),
    /// For good.
    Endless,
}

impl Retention {
    fn parse(milliseconds: &str) -> Option<Self> {
        let milliseconds: i64 = milliseconds.parse().ok()?;
        Some(u64::try_from(milliseconds).map_or(Self::Endless, |ms| Self::For(Duration::from_millis(ms))))
    }
}

/// The longest retention of these topics (at least one). All must answer.
pub async fn longest_retention(access: &KafkaAccess, topics: &[&str]) -> anyhow::Result<Retention> {
    let admin: AdminClient<DefaultClientContext> = client_config(access).create().context("the Kafka client cannot be made")?;
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(ADMIN_PATIENCE));
    let mut longest = Retention::For(Duration::ZERO);
    for (topic, described) in topics.iter().zip(admin.describe_configs(&resources, &options).await?) {
        let described = described.map_err(|error| anyhow::anyhow!("topic `{topic}` cannot be described: {error}"))?;
        // A compacted topic keeps the last record of a key whatever its age.
        let compacted =
            described.get("cleanup.policy").and_then(|entry| entry.value.as_deref()).is_some_and(|p| p.contains("compact"));
        let retention = described.get("retention.ms").and_then(|entry| Retention::parse(entry.value.as_deref()?));
        let retention =
            retention.with_context(|| format!("the broker does not say how long topic `{topic}` keeps its records"))?;
        longest = longest.max(if compacted { Retention::Endless } else { retention });
    }
    Ok(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_is_longer_than_any_time() {
        assert_eq!(Retention::parse("-1"), Some(Retention::Endless));
        assert_eq!(Retention::parse("1000"), Some(Retention::For(Duration::from_secs(1))));
        assert_eq!(Retention::parse(""), None);
        assert!(Retention::Endless > Retention::For(Duration::MAX));
    }
}
