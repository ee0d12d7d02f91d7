//! The one table of all settings. Flags, environment, file keys, help and documentation are made from it.

use clap::{Arg, Command as Clap};

/// A command that reads settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// `tidemill dev`
    Dev,
    /// `tidemill serve`
    Serve,
    /// `tidemill migrate`
    Migrate,
    /// `tidemill topics plan` and `tidemill topics apply`
    Topics,
    /// `tidemill token`
    Token,
    /// `tidemill offsets …`
    Offsets,
    /// `tidemill reprocess`
    Reprocess,
    /// What operators do: `tidemill waiting`, `dlq`, `outbox`, `actions`
    Operate,
    /// `tidemill deploy` and `tidemill rollback`
    Deploy,
    /// The rest about deploys: `tidemill ps`, `revisions`, `diff`, `undeploy`, `pause`, `resume`
    Fleet,
}

impl Command {
    /// What a person types after `tidemill`.
    pub fn name(self) -> &'static str {
        match self {
            Command::Dev => "dev",
            Command::Serve => "serve",
            Command::Migrate => "migrate",
            Command::Topics => "topics",
            Command::Token => "token",
            Command::Offsets => "offsets",
            Command::Reprocess => "reprocess",
            Command::Operate => "waiting/dlq/outbox/jobs/actions",
            Command::Deploy => "deploy/rollback",
            Command::Fleet => "ps/revisions/diff/undeploy/pause/resume",
        }
    }
}

use Command::{Deploy, Dev, Fleet, Migrate, Offsets, Operate, Reprocess, Serve, Token, Topics};

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its name: the key in `tidemill.toml`.
    pub key: &'static str,
    /// The long flag without its dashes. A key has none: flags are readable by every process of the machine.
    pub flag: Option<&'static str>,
    /// The environment variable.
    pub env: &'static str,
    /// What stands for the value in help texts.
    pub value: &'static str,
    /// The value if nobody gives one.
    pub default: Option<&'static str>,
    /// One sentence.
    pub help: &'static str,
    /// Never shown, not even in an error about it.
    pub secret: bool,
    /// The ways to name a file that holds the value instead.
    pub file: Option<FileForm>,
    /// The commands that read it.
    pub commands: &'static [Command],
    /// The commands that do not start without it.
    pub required: &'static [Command],
}

/// How a file with the value of a setting is named.
#[derive(Debug, Clone, Copy)]
pub struct FileForm {
    /// The setting's key with `_file`.
    pub key: &'static str,
    /// The long flag.
    pub flag: &'static str,
    /// The setting's variable with `_FILE`.
    pub env: &'static str,
}

/// What most settings have in common; the rows below say what differs.
const PLAIN: Setting = Setting {
    key: "",
    flag: None,
    env: "",
    value: "TEXT",
    default: None,
    help: "",
    secret: false,
    file: None,
    commands: &[Dev, Serve],
    required: &[],
};

/// All settings, in the order of help and documentation.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "handlers",
        flag: Some("handlers"),
        env: "TIDEMILL_HANDLERS",
        value: "DIR",
        help: "Folder of the handlers: every handler.toml below it; `serve` deploys it at its start, and without it runs what is active",
        commands: &[Dev, Serve, Migrate, Topics],
        required: &[Dev, Migrate, Topics],
        ..PLAIN
    },
    Setting {
        key: "database_url",
        flag: Some("database-url"),
        env: "TIDEMILL_DATABASE_URL",
        value: "URL",
        help: "PostgreSQL of the running host: a login that is no superuser, not through a transaction-mode pooler",
        secret: true,
        file: Some(FileForm { key: "database_url_file", flag: "database-url-file", env: "TIDEMILL_DATABASE_URL_FILE" }),
        commands: &[Serve, Migrate, Offsets, Reprocess, Operate, Deploy, Fleet],
        required: &[Serve, Migrate, Offsets, Reprocess, Operate, Deploy, Fleet],
        ..PLAIN
    },
    Setting {
        key: "admin_database_url",
        flag: Some("admin-database-url"),
        env: "TIDEMILL_ADMIN_DATABASE_URL",
        value: "URL",
        help: "The same PostgreSQL for migrations: a login that may create schemas and roles; `deploy` needs it where something is to be migrated",
        secret: true,
        file: Some(FileForm {
            key: "admin_database_url_file",
            flag: "admin-database-url-file",
            env: "TIDEMILL_ADMIN_DATABASE_URL_FILE",
        }),
        commands: &[Migrate, Deploy],
        required: &[Migrate],
        ..PLAIN
    },
    Setting {
        key: "kafka_brokers",
        flag: Some("kafka-brokers"),
        env: "TIDEMILL_KAFKA_BROKERS",
        value: "HOST:PORT,…",
        help: "Brokers to begin with",
        commands: &[Serve, Topics, Offsets],
        required: &[Serve, Topics],
        ..PLAIN
    },
    Setting {
        key: "kafka_security_protocol",
        flag: Some("kafka-security-protocol"),
        env: "TIDEMILL_KAFKA_SECURITY_PROTOCOL",
        value: "PROTOCOL",
        default: Some("plaintext"),
        help: "How brokers are talked to: `plaintext`, `ssl`, `sasl_plaintext` or `sasl_ssl`",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_ca_file",
        flag: Some("kafka-ca-file"),
        env: "TIDEMILL_KAFKA_CA_FILE",
        value: "FILE",
        help: "Authorities (PEM) that may have signed the brokers' certificates; the system's if not given",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_certificate_file",
        flag: Some("kafka-certificate-file"),
        env: "TIDEMILL_KAFKA_CERTIFICATE_FILE",
        value: "FILE",
        help: "Certificate (PEM) that the host shows to brokers, for those that ask for one",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_key_file",
        flag: Some("kafka-key-file"),
        env: "TIDEMILL_KAFKA_KEY_FILE",
        value: "FILE",
        help: "Private key (PEM) of that certificate",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_key_password",
        env: "TIDEMILL_KAFKA_KEY_PASSWORD",
        value: "PASSWORD",
        help: "Password of that key, if it is encrypted",
        secret: true,
        file: Some(FileForm {
            key: "kafka_key_password_file",
            flag: "kafka-key-password-file",
            env: "TIDEMILL_KAFKA_KEY_PASSWORD_FILE",
        }),
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_sasl_mechanism",
        flag: Some("kafka-sasl-mechanism"),
        env: "TIDEMILL_KAFKA_SASL_MECHANISM",
        value: "MECHANISM",
        help: "How the host logs in to brokers: `SCRAM-SHA-512`, `SCRAM-SHA-256` or `PLAIN`",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_user",
        flag: Some("kafka-user"),
        env: "TIDEMILL_KAFKA_USER",
        value: "NAME",
        help: "Who logs in to brokers",
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_password",
        env: "TIDEMILL_KAFKA_PASSWORD",
        value: "PASSWORD",
        help: "Password of that login",
        secret: true,
        file: Some(FileForm { key: "kafka_password_file", flag: "kafka-password-file", env: "TIDEMILL_KAFKA_PASSWORD_FILE" }),
        commands: &[Serve, Topics, Offsets],
        ..PLAIN
    },
    Setting {
        key: "kafka_addr",
        flag: Some("kafka-addr"),
        env: "TIDEMILL_KAFKA_ADDR",
        value: "IP:PORT",
        default: Some("127.0.0.1:9092"),
        help: "Where the embedded broker listens",
        commands: &[Dev],
        ..PLAIN
    },
    Setting {
        key: "http_addr",
        flag: Some("http-addr"),
        env: "TIDEMILL_HTTP_ADDR",
        value: "IP:PORT",
        default: Some("127.0.0.1:8080"),
        help: "Where the handlers' HTTP routes are served",
        ..PLAIN
    },
    Setting {
        key: "admin_addr",
        flag: Some("admin-addr"),
        env: "TIDEMILL_ADMIN_ADDR",
        value: "IP:PORT",
        default: Some("127.0.0.1:9090"),
        help: "Where health, metrics and the admin API are served",
        ..PLAIN
    },
    Setting {
        key: "data_dir",
        flag: Some("data-dir"),
        env: "TIDEMILL_DATA_DIR",
        value: "DIR",
        default: Some(".tidemill"),
        help: "Compiled components and, in development, the private PostgreSQL, the broker's log, the token key and the admin token",
        commands: &[Dev, Serve, Token, Deploy],
        ..PLAIN
    },
    Setting {
        key: "jwt_hs256_key",
        env: "TIDEMILL_JWT_HS256_KEY",
        value: "KEY",
        help: "Key that signs the tokens of users (HS256, at least 32 bytes); in development made under the data folder",
        secret: true,
        file: Some(FileForm { key: "jwt_hs256_key_file", flag: "jwt-hs256-key-file", env: "TIDEMILL_JWT_HS256_KEY_FILE" }),
        commands: &[Dev, Serve, Token],
        required: &[Serve],
        ..PLAIN
    },
    Setting {
        key: "admin_token",
        env: "TIDEMILL_ADMIN_TOKEN",
        value: "TOKEN",
        help: "Token of the admin API (at least 32 characters); without it the API answers nobody; in development made under the data folder",
        secret: true,
        file: Some(FileForm { key: "admin_token_file", flag: "admin-token-file", env: "TIDEMILL_ADMIN_TOKEN_FILE" }),
        ..PLAIN
    },
    Setting {
        key: "installation",
        flag: Some("installation"),
        env: "TIDEMILL_INSTALLATION",
        value: "NAME",
        default: Some("tidemill"),
        help: "Prefix of the database roles, for several installations on one PostgreSQL",
        commands: &[Dev, Serve, Migrate, Deploy, Fleet],
        ..PLAIN
    },
    Setting {
        key: "revision_size",
        flag: Some("revision-size"),
        env: "TIDEMILL_REVISION_SIZE",
        value: "SIZE",
        default: Some("64MiB"),
        help: "Bytes of one revision at most: component, manifest and migrations",
        commands: &[Dev, Serve, Deploy],
        ..PLAIN
    },
    Setting {
        key: "migration_lock_timeout",
        flag: Some("migration-lock-timeout"),
        env: "TIDEMILL_MIGRATION_LOCK_TIMEOUT",
        value: "DURATION",
        default: Some("5s"),
        help: "How long a migration may wait for a lock, and everybody behind it",
        commands: &[Dev, Migrate, Deploy],
        ..PLAIN
    },
    Setting {
        key: "db_connections",
        flag: Some("db-connections"),
        env: "TIDEMILL_DB_CONNECTIONS",
        value: "N",
        default: Some("16"),
        help: "Database connections for units of work",
        ..PLAIN
    },
    Setting {
        key: "concurrency",
        flag: Some("concurrency"),
        env: "TIDEMILL_CONCURRENCY",
        value: "N",
        default: Some("256"),
        help: "Requests worked on at once; those beyond are refused",
        ..PLAIN
    },
    Setting {
        key: "shutdown_grace",
        flag: Some("shutdown-grace"),
        env: "TIDEMILL_SHUTDOWN_GRACE",
        value: "DURATION",
        default: Some("10s"),
        help: "How long work under way may take to end on shutdown",
        ..PLAIN
    },
    Setting {
        key: "outcome_deadline",
        flag: Some("outcome-deadline"),
        env: "TIDEMILL_OUTCOME_DEADLINE",
        value: "DURATION",
        default: Some("5s"),
        help: "How long the host asks for the outcome of a commit whose connection broke",
        ..PLAIN
    },
    Setting {
        key: "postgres_bin",
        flag: Some("postgres-bin"),
        env: "TIDEMILL_POSTGRES_BIN",
        value: "DIR",
        help: "Folder of the programs initdb, postgres and pg_ctl; found on the machine if not given",
        commands: &[Dev],
        ..PLAIN
    },
    Setting {
        key: "log",
        flag: Some("log"),
        env: "TIDEMILL_LOG",
        value: "FILTER",
        default: Some("info"),
        help: "What is logged, such as `info` or `info,tidemill=debug`",
        commands: &[Dev, Serve, Migrate, Topics, Offsets, Reprocess, Operate, Deploy, Fleet],
        ..PLAIN
    },
    Setting {
        key: "log_format",
        flag: Some("log-format"),
        env: "TIDEMILL_LOG_FORMAT",
        value: "text|json",
        default: Some("text"),
        help: "How log lines are written: `text` or `json`",
        commands: &[Dev, Serve, Migrate, Topics, Offsets, Reprocess, Operate, Deploy, Fleet],
        ..PLAIN
    },
];

/// The configuration file's own flag and variable; it is no key of the file.
pub const CONFIG_FLAG: &str = "config";
/// See [`CONFIG_FLAG`].
pub const CONFIG_ENV: &str = "TIDEMILL_CONFIG";
/// The file that is read if it exists and no other is named.
pub const CONFIG_FILE: &str = "tidemill.toml";

impl Setting {
    /// The ways to give the setting, for errors: `--http-addr IP:PORT, TIDEMILL_HTTP_ADDR or http_addr in tidemill.toml`.
    pub fn ways(&self) -> String {
        let flag = match (self.flag, self.file) {
            (Some(flag), _) => format!("--{flag} {}, ", self.value),
            (None, Some(file)) => format!("--{} FILE, ", file.flag),
            (None, None) => String::new(),
        };
        let file = if self.file.is_some() { "[_FILE]" } else { "" };
        format!("{flag}{}{file} or `{}` in {CONFIG_FILE}", self.env, self.key)
    }
}

/// Adds `--config` and the flags of all settings that the command reads.
pub fn args(clap: Clap, command: Command) -> Clap {
    let config = Arg::new(CONFIG_FLAG)
        .long(CONFIG_FLAG)
        .value_name("FILE")
        .help(format!("File with settings [env: {CONFIG_ENV}] [default: {CONFIG_FILE}, if there is one]"));
    let settings = SETTINGS.iter().filter(|setting| setting.commands.contains(&command)).flat_map(|setting| {
        let value = setting.flag.map(|flag| {
            let default = setting.default.map(|text| format!(" [default: {text}]")).unwrap_or_default();
            let help = format!("{} [env: {}]{default}", setting.help, setting.env);
            Arg::new(setting.key).long(flag).value_name(setting.value).help(help)
        });
        let file = setting.file.map(|file| {
            let help = format!("File with: {} [env: {}, {}]", setting.help, setting.env, file.env);
            Arg::new(file.key).long(file.flag).value_name("FILE").help(help)
        });
        value.into_iter().chain(file)
    });
    clap.arg(config).args(settings)
}

/// The table for `docs/settings.md`.
pub fn markdown() -> String {
    let mut text =
        "| key in the file | flag | environment | default | commands | what it is |\n|---|---|---|---|---|---|\n".to_owned();
    for setting in SETTINGS {
        let file = setting.file;
        let both = |one: Option<&str>, other: Option<&str>, dashes: &str| {
            [one, other].into_iter().flatten().map(|text| format!("`{dashes}{text}`")).collect::<Vec<_>>().join(" or ")
        };
        let commands = setting.commands.iter().map(|command| {
            let required = if setting.required.contains(command) { " (required)" } else { "" };
            format!("{}{required}", command.name())
        });
        text += &format!(
            "| {} | {} | {} | {} | {} | {} |\n",
            both(Some(setting.key), file.map(|file| file.key), ""),
            both(setting.flag, file.map(|file| file.flag), "--"),
            both(Some(setting.env), file.map(|file| file.env), ""),
            setting.default.map(|text| format!("`{text}`")).unwrap_or_default(),
            commands.collect::<Vec<_>>().join(", "),
            setting.help.replace('|', "\\|"),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_exactly_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/settings.md");
        let page = std::fs::read_to_string(path).unwrap();
        assert!(page.contains(&markdown()), "docs/settings.md must contain:\n{}", markdown());
        let rows = |text: &str| text.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows(&page), rows(&markdown()), "docs/settings.md has rows that no setting has");
    }

    #[test]
    fn names_follow_from_each_other() {
        for setting in SETTINGS {
            assert_eq!(setting.env, format!("TIDEMILL_{}", setting.key.to_uppercase()));
            assert!(setting.flag.is_none_or(|flag| flag == setting.key.replace('_', "-")), "{}", setting.key);
            assert!(setting.flag.is_some() || setting.file.is_some(), "{} can't be given as a flag", setting.key);
            if let Some(file) = setting.file {
                assert_eq!(file.key, format!("{}_file", setting.key));
                assert_eq!(file.flag, file.key.replace('_', "-"));
                assert_eq!(file.env, format!("{}_FILE", setting.env));
            }
            assert!(setting.required.iter().all(|command| setting.commands.contains(command)), "{}", setting.key);
            assert!(setting.default.is_none() || setting.required.is_empty(), "{}", setting.key);
        }
    }

    #[test]
    fn flags_name_their_variable_and_default() {
        let mut clap = args(Clap::new("serve"), Serve).term_width(1000);
        clap.clone().debug_assert();
        let help = clap.render_help().to_string();
        let line = help.lines().find(|line| line.contains("--http-addr")).unwrap();
        assert!(line.contains("--http-addr <IP:PORT>"), "{line}");
        assert!(line.ends_with("[env: TIDEMILL_HTTP_ADDR] [default: 127.0.0.1:8080]"), "{line}");
        assert!(help.contains("--jwt-hs256-key-file <FILE>") && !help.contains("--jwt-hs256-key <"), "{help}");
        assert!(!help.contains("--kafka-addr"), "{help}");
    }
}
