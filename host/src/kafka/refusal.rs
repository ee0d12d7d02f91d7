//! Why a broker does not let this process in, in words that name the setting. librdkafka says it in words of its own settings, and of a
//! certificate only that it was not accepted; the reason is asked for on a connection of our own.

use crate::config::pem::authorities;
use crate::config::{KafkaAccess, KafkaTls};
use crate::telemetry::lock;
use openssl::ssl::{HandshakeError, SslConnector, SslMethod};
use rdkafka::error::RDKafkaErrorCode;
use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Mutex;
use std::time::Duration;

const PROTOCOL: &str = "TIDEMILL_KAFKA_SECURITY_PROTOCOL";
/// How long asking for a certificate's fault may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why a broker does not let this process in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// With the way out.
    Known(String),
    /// It looks so.
    Perhaps(String),
    /// Its certificate is not accepted, and why must be asked.
    Certificate(Certificate),
}

/// A broker whose certificate is not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Certificate {
    broker: String,
}

/// Listens to what librdkafka says of one client.
#[derive(Debug, Default)]
pub(super) struct Ear {
    /// How often in a row each connection was ended without a word.
    ended: Mutex<BTreeMap<String, u32>>,
}

impl Ear {
    /// What an error, or a log line about a failed connection, says about being let in, if anything.
    pub(super) fn hear(&self, access: &KafkaAccess, code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Refusal> {
        // Log lines have the thread in front.
        let reason = reason.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")).map_or(reason, |(_, rest)| rest);
        let connection = reason.split(": ").next().unwrap_or_default();
        match ended_at_once(access, reason) {
            // Once may be a broker that stops.
            Some(words) if code.is_none() => {
                let mut ended = lock(&self.ended);
                let times = ended.entry(connection.to_owned()).or_default();
                *times += 1;
                (*times > 1).then_some(Refusal::Perhaps(words))
            }
            // Errors repeat what the log has said.
            Some(_) => None,
            None => {
                if is_away(reason) {
                    lock(&self.ended).clear();
                }
                refusal(access, code, reason)
            }
        }
    }
}

/// Whether this says that nobody listens at a broker's place.
pub(super) fn is_away(reason: &str) -> bool {
    reason.contains("Connect to ")
}

/// How brokers treat who comes by the wrong protocol: they close the connection at its first request, or at the first behind the greeting.
fn ended_at_once(access: &KafkaAccess, reason: &str) -> Option<String> {
    let young = |state: &str| {
        let (before, after) = reason.rsplit_once(" (after ")?;
        let (time, rest) = after.split_once("ms in state ")?;
        (before.contains("Disconnected") && rest.starts_with(state) && time.parse::<u32>().ok()? < 2_000).then_some(())
    };
    let (broker, protocol) = (broker(reason).unwrap_or(&access.brokers), access.protocol());
    let other = match (&access.tls, &access.login) {
        (None, _) if young("APIVERSION_QUERY").is_some() => protocol.replace("plaintext", "ssl"),
        (_, None) if young("UP").is_some() => format!("sasl_{protocol}"),
        _ => return None,
    };
    Some(format!(
        "Kafka broker {broker} ends connections at once; {PROTOCOL} is `{protocol}`, does the broker want `{other}` there? (A proxy whose \
         broker is away does the same.)"
    ))
}

/// What one sentence of librdkafka says about being let in, if anything.
fn refusal(access: &KafkaAccess, code: Option<RDKafkaErrorCode>, reason: &str) -> Option<Refusal> {
    let says = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    let broker = broker(reason).unwrap_or(&access.brokers);
    let protocol = access.protocol();
    let words = if code == Some(RDKafkaErrorCode::Authentication) {
        login(access, reason)
    } else if says(&["certificate verify failed", "Failed to verify broker certificate"]) {
        return Some(Refusal::Certificate(Certificate { broker: broker.to_owned() }));
    } else if says(&["alert certificate required", "alert bad certificate", "alert unknown ca", "client SSL authentication"]) {
        format!(
            "Kafka broker {broker} asks for a client certificate that it trusts; check TIDEMILL_KAFKA_CERTIFICATE_FILE and \
             TIDEMILL_KAFKA_KEY_FILE"
        )
    } else if code == Some(RDKafkaErrorCode::SSL) || says(&["connecting to a PLAINTEXT broker listener?"]) {
        let detail = detail(reason);
        format!(
            "no TLS connection with Kafka broker {broker}: {detail}; check that it speaks TLS there, and {PROTOCOL} ({protocol})"
        )
    } else {
        return None;
    };
    Some(Refusal::Known(words))
}

fn login(access: &KafkaAccess, reason: &str) -> String {
    let detail = detail(reason);
    match &access.login {
        Some(login) => format!(
            "Kafka refuses the login of `{}` by {}: {detail}; check TIDEMILL_KAFKA_USER, TIDEMILL_KAFKA_PASSWORD and \
             TIDEMILL_KAFKA_SASL_MECHANISM",
            login.user, login.mechanism
        ),
        None => format!("Kafka wants a login: {detail}; check {PROTOCOL}"),
    }
}

/// `host:port` out of `sasl_ssl://host:port/bootstrap: what happened`.
fn broker(reason: &str) -> Option<&str> {
    let (_, rest) = reason.split_once("://")?;
    rest.split(['/', ' ']).next().map(|broker| broker.trim_end_matches(':')).filter(|broker| !broker.is_empty())
}

/// What happened, without broker, state and time, which differ from one attempt to the next.
fn detail(reason: &str) -> &str {
    let after = reason.split_once("://").and_then(|(_, rest)| rest.split_once(": ")).map_or(reason, |(_, detail)| detail);
    after.rsplit_once(" (after ").map_or(after, |(detail, _)| detail).trim()
}

impl Certificate {
    /// Connects as librdkafka does and says what is wrong with the certificate.
    pub(super) fn ask(&self, access: &KafkaAccess) -> String {
        let fault = access.tls.as_ref().and_then(|tls| self.fault(tls).ok().flatten());
        let place = match access.tls.as_ref().and_then(|tls| tls.ca_file.as_ref()) {
            Some(file) => format!("TIDEMILL_KAFKA_CA_FILE ({})", file.display()),
            None => "the system's store, for there is no TIDEMILL_KAFKA_CA_FILE".to_owned(),
        };
        self.words(fault.as_deref().map(|fault| (fault, place.as_str())))
    }

    /// The sentence, with what is wrong and where the authorities are, once that is known.
    pub(super) fn words(&self, fault: Option<(&str, &str)>) -> String {
        let broker = &self.broker;
        match fault {
            Some((fault, _)) if fault.contains("mismatch") => format!(
                "the certificate of Kafka broker {broker} is for another host ({fault}); name the brokers as their certificates do, in \
                 TIDEMILL_KAFKA_BROKERS and in the brokers' advertised.listeners"
            ),
            Some((fault, place)) if fault.contains("issuer") || fault.contains("self") => format!(
                "the certificate of Kafka broker {broker} is not signed by an authority that is trusted here ({fault}); trusted are those in \
                 {place}"
            ),
            Some((fault, _)) => {
                format!("the certificate of Kafka broker {broker} is not accepted ({fault}); the broker needs another one")
            }
            None => format!(
                "the certificate of Kafka broker {broker} is not accepted; check TIDEMILL_KAFKA_CA_FILE and the broker's name"
            ),
        }
    }

    /// OpenSSL's verdict on the certificate; nothing if it is good by now.
    fn fault(&self, tls: &KafkaTls) -> anyhow::Result<Option<String>> {
        let mut builder = SslConnector::builder(SslMethod::tls_client())?;
        if let Some(file) = &tls.ca_file {
            builder.set_cert_store(authorities(file).map_err(anyhow::Error::msg)?);
        }
        let host = self.broker.rsplit_once(':').map_or(&*self.broker, |(host, _)| host).trim_matches(['[', ']']);
        let mut last = anyhow::anyhow!("{} has no address", self.broker);
        for address in self.broker.to_socket_addrs()? {
            let stream = match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => stream,
                Err(error) => {
                    last = error.into();
                    continue;
                }
            };
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            return Ok(match builder.build().connect(host, stream) {
                Err(HandshakeError::Failure(failed)) => Some(failed.ssl().verify_result().error_string().to_owned()),
                _ => None,
            });
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KafkaLogin, SaslMechanism, Secret};

    fn access() -> KafkaAccess {
        let login = KafkaLogin { mechanism: SaslMechanism::ScramSha512, user: "ann".to_owned(), password: Secret::new("hush") };
        KafkaAccess { login: Some(login), ..KafkaAccess::plaintext("one:9092") }
    }

    #[test]
    fn librdkafkas_words_become_settings() {
        let code = |code| Some(code);
        let cases = [
            (
                code(RDKafkaErrorCode::Authentication),
                "sasl_plaintext://one:9092/bootstrap: SASL authentication error: Authentication failed during authentication due to \
                 invalid credentials with SASL mechanism SCRAM-SHA-512 (after 12ms in state AUTH_REQ)",
                "Kafka refuses the login of `ann` by SCRAM-SHA-512: SASL authentication error: Authentication failed during \
                 authentication due to invalid credentials with SASL mechanism SCRAM-SHA-512; check TIDEMILL_KAFKA_USER, \
                 TIDEMILL_KAFKA_PASSWORD and TIDEMILL_KAFKA_SASL_MECHANISM",
            ),
            (
                code(RDKafkaErrorCode::SSL),
                "ssl://one:9092/bootstrap: SSL handshake failed: error:0A00010B:SSL routines::wrong version number (after 2ms in state \
                 SSL_HANDSHAKE)",
                "no TLS connection with Kafka broker one:9092: SSL handshake failed: error:0A00010B:SSL routines::wrong version number; \
                 check that it speaks TLS there, and TIDEMILL_KAFKA_SECURITY_PROTOCOL (sasl_plaintext)",
            ),
        ];
        for (code, reason, words) in cases {
            assert_eq!(refusal(&access(), code, reason), Some(Refusal::Known(words.to_owned())));
        }
        let away = "sasl_plaintext://one:9092/bootstrap: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(refusal(&access(), Some(RDKafkaErrorCode::BrokerTransportFailure), away), None);
    }

    #[test]
    fn connections_that_end_at_once_twice_are_a_wrong_protocol() {
        let (ear, access) = (Ear::default(), access());
        let ended = "[thrd:sasl_plaintext://[::1]:9092/1]: sasl_plaintext://[::1]:9092/1: Disconnected: connection closed by peer: \
                     receive 0 after POLLIN (after 140ms in state APIVERSION_QUERY, 1 identical error(s) suppressed)";
        let away =
            "sasl_plaintext://[::1]:9092/1: Connect to ipv6#[::1]:9092 failed: Connection refused (after 0ms in state CONNECT)";
        assert_eq!(ear.hear(&access, None, ended), None, "a broker that stops does so once");
        assert_eq!(ear.hear(&access, None, away), None);
        assert_eq!(ear.hear(&access, None, ended), None);
        assert_eq!(ear.hear(&access, None, &ended.replace("9092/1", "9092/bootstrap")), None, "and ends all connections");
        let Some(Refusal::Perhaps(words)) = ear.hear(&access, None, ended) else { panic!("twice in a row") };
        assert!(words.starts_with("Kafka broker [::1]:9092 ends connections at once") && words.contains("`sasl_ssl`"), "{words}");
        let later = "sasl_plaintext://one:9092/1: Disconnected: connection closed by peer (after 90000ms in state UP)";
        assert_eq!(ear.hear(&access, None, later), None);
    }

    #[test]
    fn a_certificate_is_said_by_its_fault() {
        let reason = "sasl_ssl://one:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::certificate verify failed: broker \
                      certificate could not be verified, verify that ssl.ca.location is correctly configured";
        let Some(Refusal::Certificate(certificate)) = refusal(&access(), Some(RDKafkaErrorCode::SSL), reason) else {
            panic!("it is about a certificate");
        };
        assert!(certificate.words(Some(("hostname mismatch", ""))).contains("one:9093 is for another host"));
        assert!(certificate.words(Some(("unable to get local issuer certificate", "x"))).ends_with("trusted are those in x"));
        assert!(certificate.words(Some(("certificate has expired", ""))).contains("certificate has expired"));
        assert!(certificate.words(None).contains("TIDEMILL_KAFKA_CA_FILE"));
    }
}
