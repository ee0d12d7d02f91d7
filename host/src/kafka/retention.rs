//! How long the records of topics stay, taken together.

use super::topics::Cluster;
use crate::config::KafkaAccess;
use anyhow::Context;
use std::time::Duration;

/// How long records stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Retention {
    /// So long.
    For(Duration),
    /// For good.
    Endless,
}

/// The longest retention of these topics. All must exist, and the brokers must answer.
pub async fn longest_retention(access: &KafkaAccess, topics: &[String]) -> anyhow::Result<Retention> {
    let known = Cluster::connect(access)?.retentions(topics).await?;
    topics.iter().try_fold(Retention::For(Duration::ZERO), |longest, topic| {
        let kept =
            known.get(topic).with_context(|| format!("topic `{topic}` does not exist; `tidemill topics apply` makes it"))?;
        Ok(longest.max(kept.map_or(Retention::Endless, Retention::For)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_is_longer_than_any_time() {
        assert!(Retention::Endless > Retention::For(Duration::MAX));
    }
}
