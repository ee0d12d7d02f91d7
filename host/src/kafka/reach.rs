//! Whether brokers can be reached and let this process in, for commands that say so instead of waiting.

use super::client_config;
use super::refusal::{Ear, Refusal};
use crate::config::KafkaAccess;
use crate::telemetry::lock;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// One round of asking, in which librdkafka's errors are not read.
const ROUND: Duration = Duration::from_millis(200);

/// Waits until a broker answers, at most `patience`. A broker that does not let this process in ends the waiting.
pub async fn reach(access: &KafkaAccess, patience: Duration) -> anyhow::Result<()> {
    let access = access.clone();
    tokio::task::spawn_blocking(move || ask(access, patience)).await?
}

fn ask(access: KafkaAccess, patience: Duration) -> anyhow::Result<()> {
    let listener = Listener { access: access.clone(), ear: Ear::default(), heard: Mutex::default() };
    let client: BaseProducer<Listener> = client_config(&access)
        .create_with_context(listener)
        .map_err(|error| anyhow::anyhow!("the Kafka client cannot be made: {error}"))?;
    let end = Instant::now() + patience;
    while Instant::now() < end {
        if client.client().fetch_metadata(None, ROUND).is_ok() {
            return Ok(());
        }
        client.poll(Duration::ZERO);
        match lock(&client.client().context().heard).take() {
            Some(Refusal::Known(text) | Refusal::Perhaps(text)) => anyhow::bail!(text),
            Some(Refusal::Certificate(certificate)) => anyhow::bail!(certificate.ask(&access)),
            None => {}
        }
    }
    anyhow::bail!("no answer from Kafka at {}; check TIDEMILL_KAFKA_BROKERS and that a broker runs there", access.brokers)
}

/// Keeps the first refusal that it hears of.
struct Listener {
    access: KafkaAccess,
    ear: Ear,
    heard: Mutex<Option<Refusal>>,
}

impl Listener {
    fn hear(&self, refusal: Option<Refusal>) {
        let mut heard = lock(&self.heard);
        *heard = heard.take().or(refusal);
    }
}

impl ClientContext for Listener {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, "{message}");
        if facility == "FAIL" {
            self.hear(self.ear.hear(&self.access, None, message));
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(self.ear.hear(&self.access, error.rdkafka_error_code(), reason));
    }
}

impl ProducerContext for Listener {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}
