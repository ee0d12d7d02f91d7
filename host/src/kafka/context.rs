//! What librdkafka says, for the log and the board.

use super::client_config;
use super::refusal::{Ear, Refusal, is_away};
use crate::config::KafkaAccess;
use crate::telemetry::{Board, lock};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Passes librdkafka's words on: its log lines, and on the board whether brokers can be reached and let this process in.
#[derive(Debug, Clone)]
pub struct KafkaContext {
    name: &'static str,
    /// The board that says so when brokers cannot be used.
    pub board: Arc<Board>,
    access: Arc<KafkaAccess>,
    ear: Arc<Ear>,
    trouble: Arc<Mutex<Option<Trouble>>>,
}

/// Why this client does no work now.
#[derive(Debug)]
struct Trouble {
    text: String,
    kind: Kind,
}

/// The later ones say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Away,
    PerhapsRefused,
    /// A broker answered and refused. That all brokers count as down is then no news.
    Refused,
}

impl KafkaContext {
    /// The context of a client. `name` says who it is, such as `relay`, and is the name of its sentence on the board.
    pub fn new(name: &'static str, board: Arc<Board>, access: Arc<KafkaAccess>) -> Self {
        Self { name, board, access, ear: Arc::default(), trouble: Arc::default() }
    }

    /// Settings of a client with this context.
    pub fn client_config(&self) -> ClientConfig {
        let mut config = client_config(&self.access);
        // The only way to learn that a broker is back when nothing is sent or read.
        config.set("statistics.interval.ms", "2000");
        config
    }

    /// Keeps why brokers cannot be used and says it once, until that changes.
    fn note(&self, kind: Kind, text: String) {
        let mut trouble = lock(&self.trouble);
        if trouble.as_ref().is_some_and(|known| known.kind > kind) {
            return;
        }
        if self.board.notes().get(self.name) != Some(&text) {
            tracing::warn!(client = self.name, "{text}; events wait in the database, nothing is lost");
        }
        self.board.note(self.name, text.clone());
        *trouble = Some(Trouble { text, kind });
    }

    fn away(&self) {
        let brokers = &self.access.brokers;
        self.note(
            Kind::Away,
            format!("no Kafka broker of {brokers} can be reached; check TIDEMILL_KAFKA_BROKERS and the brokers"),
        );
    }

    fn refused(&self, refusal: Refusal) {
        match refusal {
            Refusal::Known(text) => self.note(Kind::Refused, text),
            Refusal::Perhaps(text) => self.note(Kind::PerhapsRefused, text),
            Refusal::Certificate(asked) => {
                // What stands until its reason is known. Asking takes a connection, for which librdkafka's thread must not wait.
                let mut trouble = lock(&self.trouble);
                if trouble.as_ref().is_none_or(|known| known.kind < Kind::Refused) {
                    *trouble = Some(Trouble { text: asked.words(None), kind: Kind::Refused });
                }
                drop(trouble);
                let context = self.clone();
                let asking = move || {
                    let words = asked.ask(&context.access);
                    context.note(Kind::Refused, words);
                };
                if let Err(error) = std::thread::Builder::new().name("certificate".to_owned()).spawn(asking) {
                    tracing::debug!(%error, "no thread to ask for the certificate");
                }
            }
        }
    }

    /// What looked like a refusal was a broker on its way down, if nobody listens there any more.
    fn is_it_away(&self, reason: &str) {
        let mut trouble = lock(&self.trouble);
        if is_away(reason)
            && let Some(known) = trouble.as_mut().filter(|known| known.kind == Kind::PerhapsRefused)
        {
            known.kind = Kind::Away;
            drop(trouble);
            self.away();
        }
    }

    /// Takes the sentence down once a broker lets this client in.
    fn heard_from(&self, up: bool) {
        let mut trouble = lock(&self.trouble);
        match (&*trouble, up) {
            (Some(_), true) => {
                *trouble = None;
                self.board.clear(self.name);
                tracing::info!(client = self.name, "Kafka is there again");
            }
            // Another client of the same name may have taken it down.
            (Some(known), false) => self.board.note(self.name, known.text.clone()),
            (None, _) => {}
        }
    }
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
        // A connection that the broker ends is only logged; a certificate comes as an error as well.
        if facility == "FAIL" {
            match self.ear.hear(&self.access, None, message) {
                None | Some(Refusal::Certificate(_)) => {}
                Some(refusal) => self.refused(refusal),
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if let Some(refusal) = self.ear.hear(&self.access, code, reason) {
            self.refused(refusal);
        } else if code == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.away();
        } else {
            tracing::debug!(client = self.name, %error, "{reason}");
            self.is_it_away(reason);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        #[derive(Deserialize)]
        struct Statistics {
            #[serde(default)]
            brokers: BTreeMap<String, Broker>,
        }
        #[derive(Deserialize)]
        struct Broker {
            state: String,
        }
        if lock(&self.trouble).is_some()
            && let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics)
        {
            self.heard_from(statistics.brokers.values().any(|broker| broker.state == "UP"));
        }
    }
}
