//! How this process talks to Kafka: client settings that all clients share, and topic administration.
//!
//! - `topics`: declared topics against those of the cluster
//! - `offsets`: what a group has committed, and what is in the log
//! - `retention`: how long topics keep their records

pub mod offsets;
mod retention;
pub mod topics;

use crate::telemetry::Board;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::Arc;

pub use retention::{Retention, longest_retention};

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
