//! What a database URL says about TLS, in libpq's words. The driver knows three of its modes and none of its files, so these parameters
//! are taken out of the URL before the driver reads it.

use super::Secret;
use super::pem::ClientCertificate;
use std::path::PathBuf;
use tokio_postgres::config::SslMode as DriverMode;

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can.
    Prefer,
    /// Encrypted, whoever the server is; with authorities given, like `VerifyCa`.
    Require,
    /// Encrypted, with a certificate of a known authority.
    VerifyCa,
    /// The same, and the certificate is for the host of the URL.
    VerifyFull,
}

const MODES: [(&str, SslMode); 5] = [
    ("disable", SslMode::Disable),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

impl SslMode {
    /// As it stands in a URL.
    pub fn name(self) -> &'static str {
        MODES.iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }

    fn for_driver(self) -> DriverMode {
        match self {
            SslMode::Disable => DriverMode::Disable,
            SslMode::Prefer => DriverMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => DriverMode::Require,
        }
    }
}

/// The authorities that may have signed a server's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorities {
    /// Those of the system (`sslrootcert=system`).
    System,
    /// Those of a file.
    File(PathBuf),
}

/// How connections to a database are encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseTls {
    /// `sslmode`
    pub mode: SslMode,
    /// `sslrootcert`; where nothing is verified, nothing.
    pub authorities: Option<Authorities>,
    /// `sslcert`, `sslkey` and `sslpassword`
    pub certificate: Option<ClientCertificate>,
}

/// Reads a database URL. The error quotes nothing of it, since it may be a part of the password.
pub fn parse_database_url(url: &str) -> Result<(tokio_postgres::Config, DatabaseTls), String> {
    let (rest, given) = split(url)?;
    let mut driver = rest
        .parse::<tokio_postgres::Config>()
        .map_err(|error| format!("{error}; it looks like postgres://user:password@host:5432/database"))?;
    let tls = given.tls(driver.get_ssl_mode())?;
    driver.ssl_mode(tls.mode.for_driver());
    Ok((driver, tls))
}

/// The parameters about TLS, as they were given.
#[derive(Default)]
struct Given {
    mode: Option<String>,
    root: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    password: Option<String>,
}

impl Given {
    fn slot(&mut self, key: &str) -> Option<&mut Option<String>> {
        Some(match key {
            "sslmode" => &mut self.mode,
            "sslrootcert" => &mut self.root,
            "sslcert" => &mut self.certificate,
            "sslkey" => &mut self.key,
            "sslpassword" => &mut self.password,
            _ => return None,
        })
    }

    /// What they mean together. Where this differs from libpq it refuses what libpq would connect less safely.
    fn tls(self, default: DriverMode) -> Result<DatabaseTls, String> {
        let authorities =
            self.root.map(|root| if root == "system" { Authorities::System } else { Authorities::File(root.into()) });
        let mode = match (self.mode, &authorities) {
            (Some(name), _) => MODES
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, mode)| *mode)
                .ok_or("its sslmode is none of disable, prefer, require, verify-ca and verify-full")?,
            (None, Some(Authorities::System)) => SslMode::VerifyFull,
            (None, _) if default == DriverMode::Disable => SslMode::Disable,
            (None, _) if default == DriverMode::Require => SslMode::Require,
            (None, _) => SslMode::Prefer,
        };
        let authorities = match (mode, authorities) {
            (SslMode::VerifyFull, None) => Some(Authorities::System),
            (SslMode::VerifyFull | SslMode::Disable, given) => given,
            (SslMode::VerifyCa, None) => {
                return Err("its sslmode=verify-ca needs sslrootcert, the file of the authority".to_owned());
            }
            (SslMode::Prefer, Some(_)) => {
                return Err("it has sslrootcert, but sslmode=prefer verifies nothing; use sslmode=verify-full".to_owned());
            }
            // The system's authorities sign for everyone who asks: without the name they prove nothing.
            (_, Some(Authorities::System)) => return Err("its sslrootcert=system needs sslmode=verify-full".to_owned()),
            (_, given) => given,
        };
        let certificate = match (self.certificate, self.key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: certificate.into(),
                key: key.into(),
                key_password: self.password.map(Secret::new),
            }),
            (None, None) => None,
            (Some(_), None) => return Err("it has sslcert without sslkey".to_owned()),
            (None, Some(_)) => return Err("it has sslkey without sslcert".to_owned()),
        };
        // With authorities given, libpq verifies under `require`, too.
        let mode = if mode == SslMode::Require && authorities.is_some() { SslMode::VerifyCa } else { mode };
        Ok(DatabaseTls { mode, authorities, certificate })
    }
}

/// Takes the parameters about TLS out of a URL. What is no URL stays as it is.
fn split(url: &str) -> Result<(String, Given), String> {
    let mut given = Given::default();
    // The driver takes all before the first `@` for user and password, question marks included.
    let login = url.find("://").and_then(|at| url[at..].find('@').map(|to| at + to)).unwrap_or(0);
    let Some(question) = url[login..].find('?').map(|at| login + at).filter(|_| url.contains("://")) else {
        return Ok((url.to_owned(), given));
    };
    let mut kept = Vec::new();
    for parameter in url[question + 1..].split('&') {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match given.slot(key) {
            Some(slot) => *slot = Some(decode(value).ok_or_else(|| format!("its parameter {key} is not valid UTF-8"))?),
            None => kept.push(parameter),
        }
    }
    let mark = if kept.is_empty() { "" } else { "?" };
    Ok((format!("{}{mark}{}", &url[..question], kept.join("&")), given))
}

/// Undoes percent-encoding.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match hex.filter(|_| first == b'%') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(parameters: &str) -> Result<DatabaseTls, String> {
        parse_database_url(&format!("postgres://a:p%40?@db/shop?{parameters}")).map(|(_, tls)| tls)
    }

    #[test]
    fn the_parameters_about_tls_are_taken_out_and_the_others_stay() {
        let url = "postgres://a:p?w@db:1/shop?sslmode=verify-full&application_name=x&sslrootcert=%2Fetc%2Fthe%20ca.pem&connect_timeout=3";
        let (driver, tls) = parse_database_url(url).unwrap();
        assert_eq!((tls.mode, driver.get_ssl_mode()), (SslMode::VerifyFull, DriverMode::Require));
        assert_eq!(tls.authorities, Some(Authorities::File("/etc/the ca.pem".into())));
        assert_eq!((driver.get_application_name(), driver.get_dbname()), (Some("x"), Some("shop")));
        assert_eq!(driver.get_password(), Some(&b"p?w"[..]));
    }

    #[test]
    fn the_modes_mean_what_they_mean_to_libpq() {
        let cases = [
            ("", SslMode::Prefer, None),
            ("sslmode=disable", SslMode::Disable, None),
            ("sslmode=require", SslMode::Require, None),
            ("sslmode=require&sslrootcert=ca", SslMode::VerifyCa, Some(Authorities::File("ca".into()))),
            ("sslmode=verify-ca&sslrootcert=ca", SslMode::VerifyCa, Some(Authorities::File("ca".into()))),
            ("sslmode=verify-full", SslMode::VerifyFull, Some(Authorities::System)),
            ("sslrootcert=system", SslMode::VerifyFull, Some(Authorities::System)),
        ];
        for (parameters, mode, authorities) in cases {
            let tls = tls(parameters).unwrap();
            assert_eq!((tls.mode, tls.authorities), (mode, authorities), "{parameters}");
        }
        let (driver, tls) = parse_database_url("host=db user=a sslmode=require").unwrap();
        assert_eq!((driver.get_ssl_mode(), tls.mode), (DriverMode::Require, SslMode::Require));
    }

    #[test]
    fn what_would_verify_less_than_it_seems_is_refused_and_nothing_is_quoted() {
        let cases = [
            ("sslmode=hush", "none of disable, prefer"),
            ("sslmode=verify-ca", "sslrootcert"),
            ("sslrootcert=ca", "verify-full"),
            ("sslmode=require&sslrootcert=system", "verify-full"),
            ("sslcert=hush", "sslkey"),
            ("sslkey=hush", "sslcert"),
            ("sslmode=verify-full&sslcrl=hush", "postgres://user:password@host"),
        ];
        for (parameters, words) in cases {
            let error = tls(parameters).unwrap_err();
            assert!(error.contains(words) && !error.contains("hush"), "{parameters}: {error}");
        }
    }

    #[test]
    fn passwords_of_keys_are_not_printed() {
        let tls = tls("sslcert=c&sslkey=k&sslpassword=hush%21").unwrap();
        assert_eq!(tls.certificate.as_ref().and_then(|c| c.key_password.as_ref()).map(Secret::expose), Some("hush!"));
        assert!(!format!("{tls:?}").contains("hush"));
    }
}
