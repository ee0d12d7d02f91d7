//! Values that must never reach a log, an error or a page.

use std::fmt;

use super::parse_database_url;
use tokio_postgres::config::Host;

/// Text that prints as `***`; only [`Secret::expose`] gives it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A checked PostgreSQL URL. It prints rebuilt from its parts, without the password and without its parameters.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    text: Secret,
    driver: tokio_postgres::Config,
}

impl DatabaseUrl {
    /// Checks the text. The error never quotes it: a part of the password would be in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORM: &str = "it is no URL of the form postgres://user:password@host:5432/database (special characters in the password \
                            are percent-encoded)";
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err(FORM.to_owned());
        }
        let (driver, _) = parse_database_url(text)?;
        if driver.get_hosts().is_empty() || !driver.get_hosts().iter().all(is_host) {
            return Err(FORM.to_owned());
        }
        if driver.get_user().is_none() {
            return Err("it names no user (postgres://user:password@host:5432/database)".to_owned());
        }
        Ok(Self { text: Secret::new(text), driver })
    }

    /// The whole URL with its password.
    pub fn expose(&self) -> &str {
        self.text.expose()
    }

    /// The user that logs in.
    pub fn user(&self) -> &str {
        self.driver.get_user().unwrap_or_default()
    }

    /// The URL for people: without the password.
    pub fn redacted(&self) -> String {
        let ports = self.driver.get_ports();
        let hosts = self.driver.get_hosts().iter().enumerate().map(|(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => folder.display().to_string(),
            }
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        format!("postgres://{}@{hosts}/{}", self.user(), self.driver.get_dbname().unwrap_or(self.user()))
    }
}

/// A raw `@` or `/` in a password ends up in what the driver takes for the host.
fn is_host(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._:%".contains(c)),
        Host::Unix(_) => true,
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.redacted())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hush-hush");
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert_eq!(secret.expose(), "hush-hush");
    }

    #[test]
    fn a_database_url_prints_without_its_password() {
        let cases = [
            ("postgres://app:hush@db.example:6432/shop?application_name=x", "postgres://app@db.example:6432/shop"),
            ("postgresql://app@db/shop?password=hush", "postgres://app@db:5432/shop"),
            ("postgres://app:hush%40%2F@a,b:1/shop", "postgres://app@a:5432,b:1/shop"),
            ("postgres://app:hush@%2Frun%2Fpg/shop", "postgres://app@/run/pg/shop"),
        ];
        for (text, shown) in cases {
            let url = DatabaseUrl::parse(text).unwrap();
            assert_eq!(format!("{url} {url:?} {}", url.redacted()), format!("{shown} {shown} {shown}"));
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn a_broken_database_url_is_refused_without_quoting_it() {
        for text in [
            "hush",
            "mysql://a:hush@b/c",
            "postgres://a:hush@hush@b/c",
            "postgres://a:b@h:hush/c",
            "postgres://",
            "postgres:///hush",
        ] {
            let error = DatabaseUrl::parse(text).unwrap_err();
            assert!(!error.contains("hush"), "{text}: {error}");
        }
        assert!(DatabaseUrl::parse("postgres://db/shop").unwrap_err().contains("names no user"));
    }
}
