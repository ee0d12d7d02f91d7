//! How this process talks to Kafka: client settings that all clients share, and topic administration.
//!
//! - `context`: what librdkafka says, for the log and the board
//! - `refusal`: why a broker does not let this process in, and the way out
//! - `reach`: whether brokers can be reached at all, for what says so instead of waiting
//! - `topics`: declared topics against those of the cluster
//! - `offsets`: what a group has committed, and what is in the log
//! - `retention`: how long topics keep their records

mod context;
pub mod offsets;
mod reach;
mod refusal;
mod retention;
pub mod topics;

use crate::config::KafkaAccess;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};

pub use context::KafkaContext;
pub use reach::reach;
pub use retention::{Retention, longest_retention};

/// Settings of every client: a producer, a consumer or an admin client of these brokers.
pub fn client_config(access: &KafkaAccess) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &access.brokers)
        .set("client.id", "tidemill")
        // A broker that restarts is back within seconds; waiting longer only adds to the delay.
        .set("reconnect.backoff.ms", "100")
        .set("reconnect.backoff.max.ms", "2000")
        // Topics may be made after a client has started.
        .set("topic.metadata.refresh.interval.ms", "10000")
        .set("socket.keepalive.enable", "true")
        // A broker that ends a connection for its security is said on this level.
        .set_log_level(RDKafkaLogLevel::Info);
    secure(&mut config, access);
    config
}

/// How the client gets in. Certificates are checked and compared with the broker's name, which is librdkafka's default, said here because
/// everything rests on it.
fn secure(config: &mut ClientConfig, access: &KafkaAccess) {
    config.set("security.protocol", access.protocol());
    if let Some(tls) = &access.tls {
        config.set("enable.ssl.certificate.verification", "true").set("ssl.endpoint.identification.algorithm", "https");
        if let Some(file) = &tls.ca_file {
            config.set("ssl.ca.location", file.display().to_string());
        }
        if let Some(client) = &tls.certificate {
            config.set("ssl.certificate.location", client.certificate.display().to_string());
            config.set("ssl.key.location", client.key.display().to_string());
            if let Some(password) = &client.key_password {
                config.set("ssl.key.password", password.expose());
            }
        }
    }
    if let Some(login) = &access.login {
        config.set("sasl.mechanism", login.mechanism.to_string());
        config.set("sasl.username", &login.user).set("sasl.password", login.password.expose());
    }
}
