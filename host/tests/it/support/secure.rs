//! Servers that want to know who comes and show who they are: Apache Kafka with a listener for each way in, PostgreSQL with TLS.

use std::sync::{Arc, OnceLock};

use super::broker::Broker;
use super::certs::{Authority, Issued};
use super::postgres::Cluster;
use super::{apache, postgres, process};

/// The login that the broker knows, by whichever mechanism.
pub const USER: &str = "ann-of-kafka";
/// Its password.
pub const PASSWORD: &str = "hush-hush-kafka";

/// The authority of all servers here, and one that has signed none of them.
pub struct Authorities {
    /// The right one.
    pub good: Authority,
    /// Some other one.
    pub other: Authority,
    /// For 127.0.0.1.
    pub local: Issued,
    /// For a host that is not this one.
    pub elsewhere: Issued,
    /// For clients.
    pub client: Issued,
}

/// The authorities of this test process.
pub fn authorities() -> &'static Authorities {
    static AUTHORITIES: OnceLock<Authorities> = OnceLock::new();
    AUTHORITIES.get_or_init(|| {
        let good = Authority::new("good");
        let (local, elsewhere, client) =
            (good.issue(&["127.0.0.1"]), good.issue(&["elsewhere.example"]), good.issue(&["client.example"]));
        Authorities { good, other: Authority::new("other"), local, elsewhere, client }
    })
}

/// Apache Kafka with a listener for each way in; `broker` is the open one, for what the tests themselves send and read.
pub struct Ways {
    /// Its open listener.
    pub broker: Arc<Broker>,
    /// SCRAM, unencrypted.
    pub scram: String,
    /// PLAIN, unencrypted.
    pub plain: String,
    /// SCRAM and PLAIN, encrypted.
    pub sasl_ssl: String,
    /// The same with a certificate for another host.
    pub elsewhere: String,
    /// Encrypted, for client certificates.
    pub mutual: String,
}

/// The broker of this test process, started at the first call.
pub async fn ways() -> &'static Ways {
    static WAYS: OnceLock<Ways> = OnceLock::new();
    let ways = WAYS.get_or_init(|| {
        let ports: Vec<u16> = std::iter::repeat_with(process::free_port).take(5).collect();
        let broker = Broker::with_settings(&settings(&ports), &scram());
        let at = |i: usize| format!("127.0.0.1:{}", ports[i]);
        Ways { broker: Arc::new(broker), scram: at(0), plain: at(1), sasl_ssl: at(2), elsewhere: at(3), mutual: at(4) }
    });
    ways.broker.ready().await;
    ways
}

fn scram() -> Vec<String> {
    ["SCRAM-SHA-256", "SCRAM-SHA-512"].map(|mechanism| format!("{mechanism}=[name={USER},password={PASSWORD}]")).to_vec()
}

fn settings(ports: &[u16]) -> apache::Listeners {
    let names = [
        ("SCRAM", "SASL_PLAINTEXT"),
        ("PLAIN", "SASL_PLAINTEXT"),
        ("BOTH", "SASL_SSL"),
        ("ELSEWHERE", "SASL_SSL"),
        ("MUTUAL", "SSL"),
    ];
    let listeners = names.iter().zip(ports).map(|((name, protocol), port)| (*name, *protocol, *port)).collect();
    let authorities = authorities();
    let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
    let plain = format!("org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}=\"{PASSWORD}\";");
    let mut settings = String::new();
    for (listener, mechanisms) in [
        ("scram", "SCRAM-SHA-256,SCRAM-SHA-512"),
        ("plain", "PLAIN"),
        ("both", "SCRAM-SHA-256,SCRAM-SHA-512,PLAIN"),
        ("elsewhere", "SCRAM-SHA-512"),
    ] {
        settings += &format!("listener.name.{listener}.sasl.enabled.mechanisms={mechanisms}\n");
        for mechanism in mechanisms.split(',') {
            let module = if mechanism == "PLAIN" { plain.as_str() } else { scram };
            settings += &format!("listener.name.{listener}.{}.sasl.jaas.config={module}\n", mechanism.to_lowercase());
        }
    }
    for (listener, issued) in
        [("both", &authorities.local), ("elsewhere", &authorities.elsewhere), ("mutual", &authorities.local)]
    {
        settings += &format!(
            "listener.name.{listener}.ssl.keystore.type=PEM\nlistener.name.{listener}.ssl.keystore.location={}\n\
             listener.name.{listener}.ssl.truststore.type=PEM\nlistener.name.{listener}.ssl.truststore.location={}\n",
            issued.both.display(),
            authorities.good.file.display()
        );
    }
    settings += "listener.name.mutual.ssl.client.auth=required\n";
    apache::Listeners { listeners, settings }
}

/// PostgreSQL that lets logins in over TLS only, with a password, started at the first call.
pub fn encrypted_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let authorities = authorities();
        // The administrator's own connections, which the tests make unencrypted, need nothing.
        let rules = "hostssl certificates all 127.0.0.1/32 scram-sha-256 clientcert=verify-ca\nhost all postgres 127.0.0.1/32 trust\n\
                     hostssl all all 127.0.0.1/32 scram-sha-256\n";
        postgres::start(rules, Some((&authorities.local, &authorities.good.file)))
    })
}
