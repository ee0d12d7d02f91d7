//! A database and how it is reached: the driver's settings, TLS, and words for what goes wrong.

use super::error::describe;
use crate::config::pem::authorities;
use crate::config::{Authorities, DatabaseTls, SslMode, parse_database_url};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode, SslVersion};
use postgres_openssl::MakeTlsConnector;
use std::future::poll_fn;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_postgres::config::{Host, SslMode as DriverMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config};

/// A database and how it is reached.
#[derive(Clone)]
pub(super) struct Target {
    /// The driver's settings.
    pub(super) config: Config,
    tls: MakeTlsConnector,
    mode: SslMode,
    /// The setting that all of it came from, for errors.
    variable: &'static str,
}

/// Parses a connection URL; the error never repeats it, since it holds a password.
pub(super) fn parse_url(url: &str, variable: &str) -> anyhow::Result<(Config, DatabaseTls)> {
    parse_database_url(url).map_err(|error| anyhow::anyhow!("{variable} is not valid: {error}"))
}

impl Target {
    /// Reads a URL and the files that it names.
    pub(super) fn parse(url: &str, variable: &'static str) -> anyhow::Result<Self> {
        let (mut config, tls) = parse_url(url, variable)?;
        let connector = connector(&tls).map_err(|error| anyhow::anyhow!("{variable}: {error}"))?;
        // There is no TLS over Unix sockets, and nobody to overhear them.
        if config.get_hosts().iter().all(|host| matches!(host, Host::Unix(_))) && !config.get_hosts().is_empty() {
            config.ssl_mode(DriverMode::Disable);
        }
        Ok(Self { config, tls: connector, mode: tls.mode, variable })
    }

    /// Makes a connection, driven until its client is dropped.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        self.connect_hearing(None).await
    }

    /// The same; `heard` rings with every notification that the connection gets.
    pub(super) async fn connect_hearing(&self, heard: Option<Arc<Notify>>) -> Result<Client, tokio_postgres::Error> {
        match connect(&self.config, self.tls(), heard.clone()).await {
            // Like libpq: `prefer` goes without where the server does not want it encrypted.
            Err(error) if self.config.get_ssl_mode() == DriverMode::Prefer && is_about_tls(&error) => {
                let mut plain = self.config.clone();
                connect(plain.ssl_mode(DriverMode::Disable), self.tls(), heard).await.map_err(|_| error)
            }
            result => result,
        }
    }

    /// What encrypts, also cancel requests.
    pub(super) fn tls(&self) -> MakeTlsConnector {
        self.tls.clone()
    }

    /// Where it is, without its secrets.
    pub(super) fn place(&self) -> String {
        let ports = self.config.get_ports();
        let hosts = self.config.get_hosts().iter().enumerate().map(|(i, host)| match host {
            Host::Tcp(name) => format!("{name}:{}", ports.get(i).or(ports.first()).copied().unwrap_or(5432)),
            Host::Unix(folder) => folder.display().to_string(),
        });
        hosts.collect::<Vec<_>>().join(",")
    }

    /// Why a connection could not be made, with the way out.
    pub(super) fn trouble(&self, error: &tokio_postgres::Error) -> String {
        let (text, place, variable, mode) = (describe(error), self.place(), self.variable, self.mode.name());
        if text.contains("server does not support TLS") {
            format!(
                "PostgreSQL at {place} has no TLS, and sslmode={mode} in {variable} asks for it; set `ssl = on` at the server, or \
                 sslmode=prefer where the network is trusted"
            )
        } else if text.contains("mismatch") && text.contains("certificate verify failed") {
            format!(
                "the certificate of PostgreSQL at {place} is for another host ({}); in {variable}, name the server as its certificate does \
                 (sslmode={mode} compares the names)",
                last(&text)
            )
        } else if text.contains("certificate verify failed") {
            format!(
                "the certificate of PostgreSQL at {place} is not accepted ({}); check sslrootcert in {variable}: the authority that signed \
                 the server's certificate has to be in that file",
                last(&text)
            )
        } else if text.contains("TLS handshake") || text.contains("SSL alert") || text.contains(" alert ") {
            format!("no TLS connection with PostgreSQL at {place}: {text}; check sslmode, sslcert and sslkey in {variable}")
        } else {
            format!("{text} (at {place}); check {variable} and that the server runs")
        }
    }
}

async fn connect(config: &Config, tls: MakeTlsConnector, heard: Option<Arc<Notify>>) -> Result<Client, tokio_postgres::Error> {
    let (client, mut driver) = config.connect(tls).await?;
    tokio::spawn(async move {
        while let Some(message) = poll_fn(|context| driver.poll_message(context)).await {
            match (message, &heard) {
                (Ok(AsyncMessage::Notification(_)), Some(heard)) => heard.notify_one(),
                (Ok(_), _) => {}
                (Err(error), _) => {
                    tracing::debug!(error = %describe(&error), "a database connection ended");
                    break;
                }
            }
        }
    });
    Ok(client)
}

/// Whether the handshake failed, or the server's rules refuse encrypted connections.
fn is_about_tls(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) || describe(error).contains("TLS handshake")
}

/// What OpenSSL says last: the verdict on the certificate.
fn last(text: &str) -> &str {
    text.rsplit(": ").next().unwrap_or(text)
}

fn connector(tls: &DatabaseTls) -> Result<MakeTlsConnector, String> {
    let failed = |error: openssl::error::ErrorStack| format!("TLS cannot be set up: {error}");
    let mut builder = SslConnector::builder(SslMethod::tls_client()).map_err(failed)?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2)).map_err(failed)?;
    match (tls.mode, &tls.authorities) {
        (SslMode::VerifyCa | SslMode::VerifyFull, Some(Authorities::File(file))) => {
            builder.set_cert_store(authorities(file).map_err(|error| format!("its sslrootcert {error}"))?);
        }
        (SslMode::VerifyCa | SslMode::VerifyFull, _) => {}
        _ => builder.set_verify(SslVerifyMode::NONE),
    }
    if let Some(client) = &tls.certificate {
        let (chain, key) = client.load().map_err(|error| format!("its sslcert and sslkey: {error} (sslpassword)"))?;
        let (own, between) = chain.split_first().ok_or("its sslcert is empty")?;
        builder.set_certificate(own).map_err(failed)?;
        for certificate in between {
            builder.add_extra_chain_cert(certificate.clone()).map_err(failed)?;
        }
        builder.set_private_key(&key).map_err(failed)?;
    }
    let mut connector = MakeTlsConnector::new(builder.build());
    let compares_names = tls.mode == SslMode::VerifyFull;
    connector.set_callback(move |connection, _| {
        connection.set_verify_hostname(compares_names);
        Ok(())
    });
    Ok(connector)
}
