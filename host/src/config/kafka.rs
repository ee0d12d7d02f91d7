//! Where Kafka is and how this process gets in, from the settings whose keys begin with `kafka_`.

use super::pem::{ClientCertificate, certificates};
use super::sources::Values;
use super::{Problems, SETTINGS, Secret, path};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

/// Where Kafka is and how this process gets in. Prints without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaAccess {
    /// The brokers to begin with, `host:port` separated by commas.
    pub brokers: String,
    /// How connections are encrypted; not at all if nothing.
    pub tls: Option<KafkaTls>,
    /// Who logs in; nobody if nothing.
    pub login: Option<KafkaLogin>,
}

/// How connections to brokers are encrypted. Certificates and names of brokers are always checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTls {
    /// The authorities that may have signed a broker's certificate; the system's if nothing.
    pub ca_file: Option<PathBuf>,
    /// What this process shows to brokers that ask.
    pub certificate: Option<ClientCertificate>,
}

/// A login by SASL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaLogin {
    /// How the password is proved.
    pub mechanism: SaslMechanism,
    /// Who.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// How a password is proved to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SaslMechanism {
    /// The password itself is sent.
    Plain,
    /// Proved without being sent.
    ScramSha256,
    /// Proved without being sent.
    ScramSha512,
}

impl fmt::Display for SaslMechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        })
    }
}

impl KafkaAccess {
    /// Brokers that let everyone in, unencrypted.
    pub fn plaintext(brokers: impl Into<String>) -> Self {
        Self { brokers: brokers.into(), tls: None, login: None }
    }

    /// The security protocol as Kafka names it.
    pub fn protocol(&self) -> &'static str {
        match (&self.tls, &self.login) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        }
    }

    /// What is allowed and still worth a warning.
    pub fn warning(&self) -> Option<String> {
        let plain = self.tls.is_none() && self.login.as_ref()?.mechanism == SaslMechanism::Plain;
        let far = self.brokers.split(',').find(|broker| plain && !is_loopback(broker))?;
        Some(format!(
            "TIDEMILL_KAFKA_SASL_MECHANISM is PLAIN and TIDEMILL_KAFKA_SECURITY_PROTOCOL is sasl_plaintext: the password goes to {far} \
             readable for everyone on the way; use sasl_ssl, or a SCRAM mechanism"
        ))
    }
}

fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Settings that belong to a login.
const LOGIN: [&str; 3] = ["kafka_sasl_mechanism", "kafka_user", "kafka_password"];
/// Settings that belong to TLS.
const TLS: [&str; 4] = ["kafka_ca_file", "kafka_certificate_file", "kafka_key_file", "kafka_key_password"];
const PROTOCOL: &str = "TIDEMILL_KAFKA_SECURITY_PROTOCOL";

/// What the settings say, checked against each other and against the files that they name.
pub(super) fn access(values: &Values, problems: &mut Problems) -> Option<KafkaAccess> {
    let brokers = values.parse("kafka_brokers", problems, brokers);
    let protocol = values.parse("kafka_security_protocol", problems, Protocol::parse);
    let mechanism = values.parse("kafka_sasl_mechanism", problems, mechanism);
    let user = values.parse("kafka_user", problems, user);
    let password = values.parse("kafka_password", problems, secret);
    let (brokers, protocol) = (brokers?, protocol?);
    check(&protocol, values, problems);
    let tls = if protocol.tls { Some(tls(values, problems)?) } else { None };
    let login = if protocol.login { Some(KafkaLogin { mechanism: mechanism?, user: user?, password: password? }) } else { None };
    Some(KafkaAccess { brokers, tls, login })
}

struct Protocol {
    name: &'static str,
    tls: bool,
    login: bool,
}

impl Protocol {
    fn parse(text: &str) -> Result<Self, String> {
        let all = [("plaintext", false, false), ("ssl", true, false), ("sasl_plaintext", false, true), ("sasl_ssl", true, true)];
        let found = all.into_iter().find(|(name, _, _)| name.eq_ignore_ascii_case(text));
        let (name, tls, login) =
            found.ok_or_else(|| format!("`{text}` is none of `plaintext`, `ssl`, `sasl_plaintext` and `sasl_ssl`"))?;
        Ok(Self { name, tls, login })
    }

    /// The protocol with what a setting needs added to it.
    fn with(&self, tls: bool, login: bool) -> &'static str {
        if self.login || login { if self.tls || tls { "sasl_ssl" } else { "sasl_plaintext" } } else { "ssl" }
    }
}

/// Settings that the protocol has no use for, and those that it lacks: each is named with the protocol.
fn check(protocol: &Protocol, values: &Values, problems: &mut Problems) {
    let name = protocol.name;
    let idle =
        |keys: &'static [&'static str], unused: bool| keys.iter().filter_map(move |key| values.place(key).filter(|_| unused));
    for place in idle(&LOGIN, !protocol.login) {
        let better = protocol.with(true, true);
        problems.add(format!("{place}: {PROTOCOL} is `{name}`, which has no login; set that to `{better}`, or leave this out"));
    }
    for place in idle(&TLS, !protocol.tls) {
        let better = protocol.with(true, false);
        problems.add(format!("{place}: {PROTOCOL} is `{name}`, which has no TLS; set that to `{better}`, or leave this out"));
    }
    for key in LOGIN.iter().filter(|key| protocol.login && values.place(key).is_none()) {
        problems.add(format!("{PROTOCOL} is `{name}`, which needs `{key}`: give {}", ways(key)));
    }
}

fn tls(values: &Values, problems: &mut Problems) -> Option<KafkaTls> {
    let ca_file = values.parse("kafka_ca_file", problems, |text| {
        let file = path(text)?;
        certificates(&file).map(|_| file)
    });
    let certificate = values.parse("kafka_certificate_file", problems, path);
    let key = values.parse("kafka_key_file", problems, path);
    let key_password = values.parse("kafka_key_password", problems, secret);
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let client = ClientCertificate { certificate, key, key_password };
            if let Err(error) = client.load() {
                let places = ["kafka_certificate_file", "kafka_key_file"].map(|key| values.place(key).unwrap_or_default());
                let hint =
                    if error.contains("password") { format!("; give {}", ways("kafka_key_password")) } else { String::new() };
                problems.add(format!("{}, {}: {error}{hint}", places[0], places[1]));
            }
            Some(client)
        }
        (None, None) => {
            lacks(values, problems, "kafka_key_password", "kafka_key_file");
            None
        }
        (Some(_), None) => {
            lacks(values, problems, "kafka_certificate_file", "kafka_key_file");
            None
        }
        (None, Some(_)) => {
            lacks(values, problems, "kafka_key_file", "kafka_certificate_file");
            None
        }
    };
    Some(KafkaTls { ca_file, certificate })
}

/// A setting that is given without the one that it needs.
fn lacks(values: &Values, problems: &mut Problems, given: &str, missing: &str) {
    if let Some(place) = values.place(given) {
        problems.add(format!("{place}: this needs `{missing}` as well: give {}", ways(missing)));
    }
}

fn ways(key: &str) -> String {
    SETTINGS.iter().find(|setting| setting.key == key).map(|setting| setting.ways()).unwrap_or_default()
}

fn brokers(text: &str) -> Result<String, String> {
    let good = |broker: &str| broker.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match text.split(',').map(str::trim).find(|broker| !good(broker)) {
        Some(broker) => Err(format!("`{broker}` is no broker of the form HOST:PORT, such as localhost:9092")),
        None => Ok(text.split(',').map(str::trim).collect::<Vec<_>>().join(",")),
    }
}

fn mechanism(text: &str) -> Result<SaslMechanism, String> {
    let all = [SaslMechanism::Plain, SaslMechanism::ScramSha256, SaslMechanism::ScramSha512];
    let found = all.into_iter().find(|mechanism| mechanism.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("`{text}` is none of `SCRAM-SHA-512`, `SCRAM-SHA-256` and `PLAIN`"))
}

fn user(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains('\0') { Err("this is no name".to_owned()) } else { Ok(text.to_owned()) }
}

/// A password; the error never quotes it.
fn secret(text: &str) -> Result<Secret, String> {
    match text.is_empty() || text.contains('\0') {
        true => Err("the password is empty or has a zero byte".to_owned()),
        false => Ok(Secret::new(text)),
    }
}
