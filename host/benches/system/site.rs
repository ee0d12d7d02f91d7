//! A private installation in a temporary folder: PostgreSQL, handlers, keys. The host is started on it by the parts.

use crate::process::Process;
use crate::report::{TIDEMILL, target};
use anyhow::Context;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tidemill::cli::token;
use tidemill::config::Secret;
use tidemill::embedded::Postgres;
use tidemill::fleet::{Administration, Deployer};
use tidemill::store::MigrationOptions;
use tidemill::store::{Pool, PoolOptions};
use tokio::process::Command;

/// The login of the host.
const LOGIN: &str = "tidemill_host";

/// The handlers of the product. Its migrations name the roles of all of them, wherever only some are to run.
pub(crate) const PRODUCT: [&str; 5] = ["task-api", "audit", "recurrence", "reminder", "suppression"];

/// The routes of the probe are measured; its topics are not wanted here.
const PROBE: &str = r#"name = "probe"
component = "probe.wasm"
migrations = "migrations"

[[http]]
method = "POST"
path = "/probe/{action}"
auth = "jwt"

[[http]]
method = "GET"
path = "/open"
auth = "none"

[publish]
topics = ["probe.out"]

[sql]

[jobs]
"#;

/// The installation. Its PostgreSQL may be stopped, so that `tidemill dev` can start it.
pub(crate) struct Site {
    postgres: Option<Postgres>,
    postgres_folder: PathBuf,
    admin_url: String,
    database_url: String,
    folder: TempDir,
}

impl Site {
    /// Makes the folder and starts PostgreSQL in it, which keeps the times of commits.
    pub(crate) async fn build() -> anyhow::Result<Self> {
        // The server may run under another account, which must be able to pass.
        let folder =
            tempfile::Builder::new().prefix("tidemill-bench-").permissions(fs::Permissions::from_mode(0o755)).tempdir()?;
        let data = folder.path().join("data");
        let postgres = Postgres::start(&data).await?;
        connect(&postgres.admin_url()).await?.batch_execute("ALTER SYSTEM SET track_commit_timestamp = on").await?;
        postgres.stop().await?;
        let postgres = Postgres::start(&data).await?;
        Ok(Self {
            postgres_folder: postgres.folder().to_owned(),
            admin_url: postgres.admin_url(),
            database_url: postgres.runtime_url(LOGIN),
            postgres: Some(postgres),
            folder,
        })
    }

    /// A path in the installation's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The login of the host on PostgreSQL.
    pub(crate) fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The key that signs tokens.
    pub(crate) fn key(&self) -> anyhow::Result<Secret> {
        token::development_key(&self.path("data"))
    }

    /// Tokens for so many users, `user1` and so on.
    pub(crate) fn tokens(&self, users: usize) -> anyhow::Result<Vec<String>> {
        let key = self.key()?;
        (1..=users).map(|user| token::token(&key, &format!("user{user}"), Duration::from_secs(86_400))).collect()
    }

    /// A superuser's connection.
    pub(crate) async fn client(&self) -> anyhow::Result<tokio_postgres::Client> {
        connect(&self.admin_url).await
    }

    /// The first process of PostgreSQL.
    pub(crate) fn postmaster(&self) -> anyhow::Result<u32> {
        let file = self.postgres_folder.join("data/postmaster.pid");
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.lines().next().unwrap_or_default().trim().parse()?)
    }

    /// Puts handlers, built for release, into a folder of this installation. Manifests and migrations are the product's own.
    pub(crate) fn handlers(&self, folder: &str, names: &[&str]) -> anyhow::Result<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        copy(&root.join("migrations/todo"), &self.path("migrations/todo"))?;
        for name in names {
            let to = self.path(folder).join(name);
            fs::create_dir_all(&to)?;
            match *name {
                "probe" => {
                    fs::write(to.join("handler.toml"), PROBE)?;
                    copy(&root.join("host/tests/guests/probe/migrations"), &to.join("migrations"))?;
                }
                _ => drop(fs::copy(root.join("handlers").join(name).join("handler.toml"), to.join("handler.toml"))?),
            }
            let built = target().join("wasm32-wasip2/release").join(format!("{}.wasm", name.replace('-', "_")));
            fs::copy(&built, to.join(format!("{name}.wasm")))
                .with_context(|| format!("{} is missing; `scripts/bench` builds it", built.display()))?;
        }
        Ok(self.path(folder))
    }

    /// Makes the topics of the handlers.
    pub(crate) async fn topics(&self, handlers: &Path, brokers: &str) -> anyhow::Result<()> {
        let mut command = self.tidemill(&["topics", "apply"], handlers)?;
        command.env("TIDEMILL_KAFKA_BROKERS", brokers);
        run(command).await
    }

    /// A command of the release binary that knows nothing of the caller's settings.
    pub(crate) fn tidemill(&self, command: &[&str], handlers: &Path) -> anyhow::Result<Command> {
        let mut tidemill = Command::new(TIDEMILL);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEMILL_")) {
            tidemill.env_remove(name);
        }
        if let Some(bin) = std::env::var_os("TIDEMILL_POSTGRES_BIN").filter(|_| command.contains(&"dev")) {
            tidemill.env("TIDEMILL_POSTGRES_BIN", bin);
        }
        tidemill.args(command);
        if !handlers.as_os_str().is_empty() {
            tidemill.arg("--handlers").arg(handlers);
        }
        tidemill.current_dir(self.folder.path()).env("TIDEMILL_LOG", "warn");
        Ok(tidemill)
    }

    /// Prepares the database for the handlers.
    pub(crate) async fn migrate(&self, handlers: &Path) -> anyhow::Result<()> {
        let mut command = self.tidemill(&["migrate"], handlers)?;
        command.env("TIDEMILL_DATABASE_URL", &self.database_url).env("TIDEMILL_ADMIN_DATABASE_URL", &self.admin_url);
        run(command).await
    }

    /// Starts `tidemill serve`.
    pub(crate) async fn serve(&self, handlers: &Path, brokers: &str, admin_addr: &str) -> anyhow::Result<Process> {
        let mut command = self.tidemill(&["serve", "--http-addr", "127.0.0.1:0", "--admin-addr", admin_addr], handlers)?;
        command.env("TIDEMILL_DATABASE_URL", &self.database_url).env("TIDEMILL_KAFKA_BROKERS", brokers);
        command.arg("--data-dir").arg(self.path("host")).env("TIDEMILL_JWT_HS256_KEY", self.key()?.expose());
        Process::start(command, &self.path("serve.log")).await
    }

    /// Starts `tidemill serve` on what is deployed.
    pub(crate) async fn serve_active(&self, name: &str) -> anyhow::Result<Process> {
        let any = "127.0.0.1:0";
        let mut command = self.tidemill(&["serve", "--http-addr", any, "--admin-addr", any], Path::new(""))?;
        command.env("TIDEMILL_DATABASE_URL", &self.database_url).env("TIDEMILL_KAFKA_BROKERS", free_address()?);
        command.arg("--data-dir").arg(self.path(name)).env("TIDEMILL_JWT_HS256_KEY", self.key()?.expose());
        Process::start(command, &self.path(&format!("{name}.log"))).await
    }

    /// What deploys into this installation, and may migrate it.
    pub(crate) fn deployer(&self) -> anyhow::Result<(Deployer, Administration)> {
        let pool = Pool::new(&self.database_url, PoolOptions { connections: 4, ..PoolOptions::default() })?;
        let admin = Administration {
            admin_url: self.admin_url.clone(),
            runtime_url: self.database_url.clone(),
            options: MigrationOptions::default(),
        };
        Ok((Deployer::new(pool, "tidemill", Some(self.path("host/cache"))), admin))
    }

    /// Stops PostgreSQL and starts `tidemill dev` on the same data.
    pub(crate) async fn dev(&mut self, handlers: &Path) -> anyhow::Result<Process> {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await?;
        }
        let any = "127.0.0.1:0";
        let mut command = self.tidemill(&["dev", "--http-addr", any, "--admin-addr", any, "--kafka-addr", any], handlers)?;
        command.arg("--data-dir").arg(self.path("data"));
        Process::start(command, &self.path("dev.log")).await
    }

    /// Stops PostgreSQL and removes everything.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        if let Some(postgres) = self.postgres.take() {
            postgres.stop().await?;
        }
        if !self.postgres_folder.starts_with(self.folder.path()) {
            fs::remove_dir_all(&self.postgres_folder)?;
        }
        Ok(self.folder.close()?)
    }
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for file in fs::read_dir(from)? {
        let file = file?;
        fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}

/// Runs a command to its end.
pub(crate) async fn run(mut command: Command) -> anyhow::Result<()> {
    let output = command.kill_on_drop(true).output().await?;
    let failed = || format!("{:?} failed: {}", command.as_std(), String::from_utf8_lossy(&output.stderr).trim());
    anyhow::ensure!(output.status.success(), failed());
    Ok(())
}

async fn connect(url: &str) -> anyhow::Result<tokio_postgres::Client> {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// An address of this machine that nobody listens on.
pub(crate) fn free_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}
