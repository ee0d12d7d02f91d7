//! How this process talks to Kafka: client settings that all clients share, and topic administration.

pub mod offsets;
mod retention;

use crate::telemetry::Board;
use anyhow::Context;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use retention::{Retention, longest_retention};

/// How long an administrative call may take.
const ADMIN_PATIENCE: Duration = Duration::from_secs(15);

/// Settings of every client: a producer, a consumer or an admin client of these brokers.
pub fn client_config(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("client.id", "tidemill")
        // A broker that restarts is back within seconds; waiting longer only adds to the delay.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000")
        // Topics may be made after a client has started.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("socket.keepalive.enable", "true")
        .set("log_level", "5");
    config
}

/// Passes librdkafka's words on: its log lines, and on the board whether brokers can be reached.
#[derive(Debug, Clone)]
pub struct KafkaContext {
    /// Who this client is, such as `relay`.
    pub name: &'static str,
    /// The board that says so when no broker can be reached.
    pub board: Arc<Board>,
    /// The brokers, for that sentence.
    pub brokers: Arc<str>,
}

impl ClientContext for KafkaContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        let client = self.name;
        match level {
            RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
                tracing::debug!(client, facility, "{message}")
            }
            // A broker that is away is said once by `error` below, not with every attempt to reach it.
            _ => tracing::debug!(client, facility, "librdkafka warns: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let client = self.name;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                tracing::warn!(
                    client,
                    brokers = &*self.brokers,
                    "no Kafka broker can be reached; events wait in the database, nothing is lost"
                );
                self.board.note(
                    self.name,
                    format!("no Kafka broker of {} can be reached; check TIDEMILL_KAFKA_BROKERS and the brokers", self.brokers),
                );
            }
            _ => tracing::debug!(client, %error, "{reason}"),
        }
    }
}

/// A topic as its owner declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// How many partitions it has.
    pub partitions: i32,
    /// How long its records stay.
    pub retention: Duration,
}

/// What became of a topic of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was made.
    Created,
    /// It was there.
    Present,
}

/// Makes the topics that are missing; those that exist are left as they are.
pub async fn create_missing(brokers: &str, topics: &[TopicPlan]) -> anyhow::Result<Vec<(String, Applied)>> {
    let admin: AdminClient<DefaultClientContext> = client_config(brokers).create().context("the Kafka client cannot be made")?;
    let retentions: BTreeMap<&str, String> =
        topics.iter().map(|t| (t.name.as_str(), t.retention.as_millis().to_string())).collect();
    // Retention is exact to a segment only; the inbox reaches back over retention and one segment.
    let segments: BTreeMap<&str, String> =
        topics.iter().map(|t| (t.name.as_str(), t.retention.min(Duration::from_secs(86_400)).as_millis().to_string())).collect();
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|t| {
            NewTopic::new(&t.name, t.partitions, TopicReplication::Fixed(-1))
                .set("retention.ms", &retentions[t.name.as_str()])
                .set("segment.ms", &segments[t.name.as_str()])
        })
        .collect();
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let options = AdminOptions::new().request_timeout(Some(ADMIN_PATIENCE)).operation_timeout(Some(ADMIN_PATIENCE));
    let results = admin.create_topics(&new, &options).await.with_context(|| {
        format!("no answer from Kafka at {brokers}; check TIDEMILL_KAFKA_BROKERS and that a broker runs there")
    })?;
    results
        .into_iter()
        .map(|result| match result {
            Ok(name) => Ok((name, Applied::Created)),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => Ok((name, Applied::Present)),
            Err((name, error)) => anyhow::bail!("topic `{name}` cannot be made: {error}"),
        })
        .collect()
}
