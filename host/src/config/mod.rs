//! Flags, environment and file → one typed [`Config`].
//!
//! - `settings`: the one table of all settings, from which flags, variables, file keys, help and documentation are made
//! - `sources`: flag over environment over file over default
//! - `secret`: values that never print
//! - `kafka`: the settings about Kafka as one value, `database_tls`: what a database URL says about TLS, `pem`: the files that both name
//! - `units`: durations and sizes, `problems`: several errors at once; both also serve the manifests

mod database_tls;
mod kafka;
pub mod pem;
mod problems;
mod secret;
mod settings;
mod sources;
pub mod units;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use database_tls::{Authorities, DatabaseTls, SslMode, parse_database_url};
pub use kafka::{KafkaAccess, KafkaLogin, KafkaTls, SaslMechanism};
pub use problems::{Problems, nearest};
pub use secret::{DatabaseUrl, Secret};
pub use settings::{CONFIG_ENV, CONFIG_FILE, CONFIG_FLAG, Command, FileForm, SETTINGS, Setting, args, markdown};
use sources::Values;
pub use sources::{Lookup, Sources};

/// HS256 needs a key as long as its hash (RFC 7518, 3.2).
pub const JWT_KEY_BYTES: usize = 32;

/// Characters of the admin token at least.
pub const ADMIN_TOKEN_CHARS: usize = 32;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What one command runs with. A setting that the command does not read has its default or is missing.
#[derive(Debug, Clone)]
pub struct Config {
    command: Command,
    handlers: Option<PathBuf>,
    database_url: Option<DatabaseUrl>,
    admin_database_url: Option<DatabaseUrl>,
    kafka: Option<KafkaAccess>,
    kafka_addr: SocketAddr,
    http_addr: SocketAddr,
    admin_addr: SocketAddr,
    data_dir: PathBuf,
    jwt_hs256_key: Option<Secret>,
    admin_token: Option<Secret>,
    installation: String,
    migration_lock_timeout: Duration,
    db_connections: usize,
    concurrency: usize,
    shutdown_grace: Duration,
    outcome_deadline: Duration,
    revision_size: u64,
    postgres_bin: Option<PathBuf>,
    log: String,
    log_format: LogFormat,
}

impl Config {
    /// Reads the command's flags, the process environment and the file.
    pub fn load(command: Command, matches: &clap::ArgMatches) -> Result<Self, Problems> {
        Self::resolve(
            command,
            &Sources {
                flag: &|key| matches.try_get_one::<String>(key).ok().flatten().cloned(),
                env: &|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()),
                folder: Path::new("."),
            },
        )
    }

    /// A configuration of the given keys and the defaults alone, for tests and for parts that start others.
    pub fn from_pairs(command: Command, pairs: &[(&str, &str)]) -> Result<Self, Problems> {
        if let Some((key, _)) = pairs.iter().find(|(key, _)| !sources::keys().any(|known| known == *key)) {
            return Err(format!("there is no setting `{key}`").into());
        }
        let flag = |key: &str| pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        // A folder that can't exist: no file is read.
        Self::resolve(command, &Sources { flag: &flag, env: &|_| None, folder: Path::new("/dev/null") })
    }

    /// Reads from the given sources; all that is wrong comes back at once.
    pub fn resolve(command: Command, sources: &Sources<'_>) -> Result<Self, Problems> {
        let values = Values::read(command, sources)?;
        let mut problems = Problems::default();
        let p = &mut problems;
        let config = Config {
            command,
            handlers: values.parse("handlers", p, path),
            database_url: values.parse("database_url", p, DatabaseUrl::parse),
            admin_database_url: values.parse("admin_database_url", p, DatabaseUrl::parse),
            kafka: kafka::access(&values, p),
            kafka_addr: typed(&values, "kafka_addr", p, address),
            http_addr: typed(&values, "http_addr", p, address),
            admin_addr: typed(&values, "admin_addr", p, address),
            data_dir: typed(&values, "data_dir", p, path),
            jwt_hs256_key: values.parse("jwt_hs256_key", p, jwt_key),
            admin_token: values.parse("admin_token", p, admin_token),
            installation: typed(&values, "installation", p, installation),
            migration_lock_timeout: typed(&values, "migration_lock_timeout", p, lock_timeout),
            db_connections: typed(&values, "db_connections", p, |text| count(text, 1_000)),
            concurrency: typed(&values, "concurrency", p, |text| count(text, 900)),
            shutdown_grace: typed(&values, "shutdown_grace", p, units::parse_duration),
            outcome_deadline: typed(&values, "outcome_deadline", p, units::parse_duration),
            revision_size: typed(&values, "revision_size", p, revision_size),
            postgres_bin: values.parse("postgres_bin", p, path),
            log: typed(&values, "log", p, log_filter),
            log_format: typed(&values, "log_format", p, log_format),
        };
        problems.into_result(Some(config))
    }
}

impl Config {
    /// The command that the configuration was read for.
    pub fn command(&self) -> Command {
        self.command
    }

    /// The folder below which the handlers are.
    pub fn handlers(&self) -> Result<&Path, Problems> {
        self.required("handlers", self.handlers.as_deref())
    }

    /// The same for a command that can do without.
    pub fn handlers_if_given(&self) -> Option<&Path> {
        self.handlers.as_deref()
    }

    /// The running host's database.
    pub fn database_url(&self) -> Result<&DatabaseUrl, Problems> {
        self.required("database_url", self.database_url.as_ref())
    }

    /// The database for migrations.
    pub fn admin_database_url(&self) -> Result<&DatabaseUrl, Problems> {
        self.required("admin_database_url", self.admin_database_url.as_ref())
    }

    /// The same for a command that can do without.
    pub fn admin_database_url_if_given(&self) -> Option<&DatabaseUrl> {
        self.admin_database_url.as_ref()
    }

    /// Where Kafka is and how to get in.
    pub fn kafka(&self) -> Result<&KafkaAccess, Problems> {
        self.required("kafka_brokers", self.kafka.as_ref())
    }

    /// Where the embedded broker listens.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// Where the public HTTP routes are served.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Where health and metrics are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// The host's own folder.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The key of the users' tokens.
    pub fn jwt_hs256_key(&self) -> Result<&Secret, Problems> {
        self.required("jwt_hs256_key", self.jwt_hs256_key.as_ref())
    }

    /// The same without an error, where development makes its own key.
    pub fn jwt_hs256_key_if_given(&self) -> Option<&Secret> {
        self.jwt_hs256_key.as_ref()
    }

    /// The token of the admin API, if given.
    pub fn admin_token(&self) -> Option<&Secret> {
        self.admin_token.as_ref()
    }

    /// Prefix of the database roles.
    pub fn installation(&self) -> &str {
        &self.installation
    }

    /// How long a migration may wait for a lock.
    pub fn migration_lock_timeout(&self) -> Duration {
        self.migration_lock_timeout
    }

    /// Database connections for units of work.
    pub fn db_connections(&self) -> usize {
        self.db_connections
    }

    /// Invocations at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// How long work under way may take to end on shutdown.
    pub fn shutdown_grace(&self) -> Duration {
        self.shutdown_grace
    }

    /// How long the host asks for the outcome of a commit whose connection broke.
    pub fn outcome_deadline(&self) -> Duration {
        self.outcome_deadline
    }

    /// Bytes of a revision at most.
    pub fn revision_size(&self) -> u64 {
        self.revision_size
    }

    /// The folder of PostgreSQL's programs, if given.
    pub fn postgres_bin(&self) -> Option<&Path> {
        self.postgres_bin.as_deref()
    }

    /// The filter of log lines.
    pub fn log(&self) -> &str {
        &self.log
    }

    /// How log lines are written.
    pub fn log_format(&self) -> LogFormat {
        self.log_format
    }

    /// What is allowed and still worth a line in the log.
    pub fn warnings(&self) -> Vec<String> {
        self.kafka.iter().filter_map(KafkaAccess::warning).collect()
    }

    fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, Problems> {
        let setting = SETTINGS.iter().find(|setting| setting.key == key);
        value.ok_or_else(|| setting.map(|setting| sources::missing(setting, self.command)).unwrap_or_default().into())
    }
}

/// A setting that has a default: after a problem, which ends the start anyway, the default stands in.
fn typed<T>(values: &Values, key: &str, problems: &mut Problems, parse: impl Fn(&str) -> Result<T, String>) -> T {
    values.parse(key, problems, &parse).unwrap_or_else(|| {
        let default = SETTINGS.iter().find(|setting| setting.key == key).and_then(|setting| setting.default);
        default.and_then(|text| parse(text).ok()).expect("the table gives a valid default")
    })
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("the path is empty".to_owned()) } else { Ok(PathBuf::from(text)) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address of the form IP:PORT, such as 127.0.0.1:8080"))
}

fn jwt_key(text: &str) -> Result<Secret, String> {
    match text.len() {
        length if length < JWT_KEY_BYTES => {
            Err(format!("the key has {length} bytes, HS256 needs at least {JWT_KEY_BYTES} (`openssl rand -hex 32` makes one)"))
        }
        _ => Ok(Secret::new(text)),
    }
}

/// What a header can carry: printable ASCII.
fn admin_token(text: &str) -> Result<Secret, String> {
    let length = text.chars().count();
    if length < ADMIN_TOKEN_CHARS {
        return Err(format!(
            "the token has {length} characters, it needs at least {ADMIN_TOKEN_CHARS} (`openssl rand -hex 32` makes one)"
        ));
    }
    match text.chars().all(|c| c.is_ascii_graphic()) {
        true => Ok(Secret::new(text)),
        false => {
            Err("the token has characters that no header can carry: use letters and digits (`openssl rand -hex 32`)".to_owned())
        }
    }
}

fn installation(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if text.len() <= 31 && text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(good) {
        return Ok(text.to_owned());
    }
    Err(format!("`{text}` is no installation name: a small letter, then up to 30 small letters, digits and `_`"))
}

/// PostgreSQL takes values below 1 GiB.
fn revision_size(text: &str) -> Result<u64, String> {
    match units::parse_size(text)? {
        0 => Err(format!("`{text}` would take nothing")),
        bytes if bytes > 512 << 20 => Err(format!("`{text}` is above `512MiB`, the most that fits into a row")),
        bytes => Ok(bytes),
    }
}

fn count(text: &str, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("`{text}` is no whole number from 1 to {most}"))
}

/// PostgreSQL takes 0 for no limit, and counts milliseconds in 31 bits.
fn lock_timeout(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        limit if limit < Duration::from_millis(1) => Err(format!("`{text}` would wait for ever: give at least 1ms")),
        limit if limit > Duration::from_secs(86_400) => Err(format!("`{text}` is above 1d, in which nobody could use the table")),
        limit => Ok(limit),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("`{text}` is no log filter such as `info` or `info,tidemill=debug`: {error}")),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither `text` nor `json`")),
    }
}

#[cfg(test)]
mod tests;
