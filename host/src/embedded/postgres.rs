//! A private PostgreSQL for development: found on the machine, kept in a folder of its own, reached over a Unix socket alone.
//!
//! It ends with the host: by [`Postgres::stop`], or, when the host is killed, because the kernel tells it so (`setpriv --pdeathsig`).
//! The kernel does that when the *thread* ends that started it, so it is started from a thread of its own, which lives as long as the
//! server; callers may start it from any task. Where `setpriv` does not exist, a killed host leaves it behind and the next adopts it.

mod place;
mod programs;

use std::{
    fmt::Write as _,
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use tokio::sync::oneshot;
use tokio_postgres::{NoTls, error::SqlState};

use place::{lock, place};
use programs::{Account, Programs};

/// The superuser of the private server.
const SUPERUSER: &str = "postgres";
/// The database that is made.
const DATABASE: &str = "tidemill";
/// The variable that says where the programs are; the setting `postgres_bin`.
const BIN_ENV: &str = "TIDEMILL_POSTGRES_BIN";
const START_PATIENCE: Duration = Duration::from_secs(60);
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// A running private server.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    programs: Programs,
    account: Account,
    adopted: bool,
    /// Its data are thrown away: it need not survive a power cut.
    scratch: bool,
    /// One host at a time: the kernel gives the lock back when this one ends, however it ends.
    _lock: fs::File,
}

impl Postgres {
    /// Starts the server of a data folder, or adopts the one that a killed host left; programs as `TIDEMILL_POSTGRES_BIN` says.
    pub async fn start(data_dir: &Path) -> anyhow::Result<Self> {
        let bin = std::env::var_os(BIN_ENV).filter(|bin| !bin.is_empty()).map(PathBuf::from);
        Self::start_with(data_dir, bin.as_deref()).await
    }

    /// The same with the folder of the programs, if it is known.
    pub async fn start_with(data_dir: &Path, bin: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_as(data_dir, bin, false).await
    }

    /// A server whose data are thrown away when it ends: it never waits for the disk.
    pub async fn start_scratch(data_dir: &Path) -> anyhow::Result<Self> {
        let bin = std::env::var_os(BIN_ENV).filter(|bin| !bin.is_empty()).map(PathBuf::from);
        Self::start_as(data_dir, bin.as_deref(), true).await
    }

    async fn start_as(data_dir: &Path, bin: Option<&Path>, scratch: bool) -> anyhow::Result<Self> {
        fs::create_dir_all(data_dir).with_context(|| format!("can't make the data folder {}", data_dir.display()))?;
        let data_dir = fs::canonicalize(data_dir)?;
        let lock = lock(&data_dir)?;
        let account = Account::find()?;
        let folder = place(&data_dir, &account)?;
        let data = folder.join("data");
        let programs = Programs::find(bin, fs::read_to_string(data.join("PG_VERSION")).ok().as_deref())
            .with_context(|| format!("can't start the private PostgreSQL in {}", folder.display()))?;
        let mut server = Self { folder, programs, account, adopted: false, scratch, _lock: lock };
        server.adopted = server.left_running().await;
        if !server.adopted {
            if !data.join("PG_VERSION").exists() {
                server.initialise()?;
            }
            server.launch().await?;
        }
        server.create_database().await?;
        Ok(server)
    }

    /// The superuser's URL of the host's database, for migrations. tokio-postgres, sqlx and psql all read a socket's folder as a
    /// percent-encoded host.
    pub fn admin_url(&self) -> String {
        self.runtime_url(SUPERUSER)
    }

    /// Another user's URL.
    pub fn runtime_url(&self, user: &str) -> String {
        self.url(user, DATABASE)
    }

    /// The URL of any database.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{}@{}/{}", encoded(user), encoded(&self.folder.to_string_lossy()), encoded(database))
    }

    /// The superuser's URL of any database.
    pub fn superuser_url(&self, database: &str) -> String {
        self.url(SUPERUSER, database)
    }

    /// Makes a database, as a copy of another if one is named. Waits a moment for those that are still connected to that one.
    pub async fn make_database(&self, name: &str, template: Option<&str>) -> anyhow::Result<()> {
        let client = self.connect(SUPERUSER).await?;
        let template = template.unwrap_or("template0");
        let end = Instant::now() + STOP_PATIENCE;
        loop {
            // Copied file by file: the log of a small database is larger than its files, and a checkpoint that syncs nothing is quick.
            let made = client.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await;
            match made {
                Err(error) if error.code() == Some(&SqlState::OBJECT_IN_USE) && Instant::now() < end => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                made => return made.with_context(|| format!("can't make the database {name}")),
            }
        }
    }

    /// Removes a database, and whoever is connected to it.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        let client = self.connect(SUPERUSER).await?;
        client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.map_err(Into::into)
    }

    /// What a person types to look into the database.
    pub fn psql_command(&self) -> String {
        let folder = self.folder.to_string_lossy().replace('\'', r"'\''");
        let plain = folder.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let folder = if plain { folder } else { format!("'{folder}'") };
        format!("psql -h {folder} -U {SUPERUSER} {DATABASE}")
    }

    /// Where data, socket and log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether the server was left by a killed host.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Stops the server: connections are cut, what was committed stays. After 10 s it is stopped the hard way, which costs a recovery
    /// at the next start and no data.
    pub async fn stop(self) -> anyhow::Result<()> {
        tokio::task::spawn_blocking(move || {
            let stop = |mode: &str| {
                let patience = STOP_PATIENCE.as_secs().to_string();
                let data = self.data();
                let arguments = [
                    "stop".as_ref(),
                    "-w".as_ref(),
                    "-t".as_ref(),
                    patience.as_ref(),
                    "-m".as_ref(),
                    mode.as_ref(),
                    "-D".as_ref(),
                    data.as_os_str(),
                ];
                self.account.command(&self.programs.pg_ctl(), false).args(arguments).current_dir(&self.folder).output()
            };
            if stop("fast").is_ok_and(|output| output.status.success()) || self.pid().is_none() {
                return Ok(());
            }
            let output = stop("immediate").context("can't run pg_ctl")?;
            ensure!(
                output.status.success() || self.pid().is_none(),
                "the private PostgreSQL in {} does not stop: {}",
                self.folder.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(())
        })
        .await?
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("server.log")
    }

    /// The process that `postmaster.pid` names, if it lives.
    fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        Path::new("/proc").join(format!("{pid}")).exists().then_some(pid)
    }

    /// Whether a server answers that this host did not start. One that is still stopping is waited for.
    async fn left_running(&self) -> bool {
        let end = Instant::now() + STOP_PATIENCE;
        while self.pid().is_some() && Instant::now() < end {
            if self.connect(SUPERUSER).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        false
    }

    /// Makes the cluster aside and moves it into place, so that a killed first start leaves no half of one.
    fn initialise(&self) -> anyhow::Result<()> {
        let aside = self.folder.join("data.new");
        if aside.exists() {
            fs::remove_dir_all(&aside)?;
        }
        let output = self
            .account
            .command(&self.programs.initdb(), false)
            .arg("-D")
            .arg(&aside)
            .args(["-U", SUPERUSER, "--auth-local=trust", "--auth-host=reject", "--encoding=UTF8", "--locale=C.UTF-8"])
            .args(self.scratch.then_some("--no-sync"))
            .current_dir(&self.folder)
            .output()
            .with_context(|| format!("can't run {}", self.programs.initdb().display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            bail!("initdb could not make a PostgreSQL cluster in {}: {said}", self.folder.display());
        }
        fs::rename(aside, self.data())?;
        Ok(())
    }

    async fn launch(&self) -> anyhow::Result<()> {
        let log = self.log();
        if log.exists() {
            fs::rename(&log, log.with_extension("log.old"))?;
        }
        let out = fs::File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
        let mut command = self.account.command(&self.programs.postgres(), true);
        command.arg("-D").arg(self.data()).current_dir(&self.folder).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        for setting in [
            "listen_addresses=",
            // A list of quoted names: the folder may have a space.
            &format!("unix_socket_directories=\"{}\"", self.folder.to_string_lossy().replace('"', "\"\"")),
            "port=5432",
            "shared_buffers=128MB",
            "max_connections=200",
            "logging_collector=off",
        ] {
            command.arg("-c").arg(setting);
        }
        if self.scratch {
            command.args([
                "-c",
                "fsync=off",
                "-c",
                "synchronous_commit=off",
                "-c",
                "full_page_writes=off",
                "-c",
                "autovacuum=off",
            ]);
        }
        // Ctrl-C reaches the whole group of the terminal; the server has to outlive the host's own shutdown.
        command.process_group(0);
        let mut exited = keep(command).await?;
        let end = Instant::now() + START_PATIENCE;
        loop {
            if let Ok(status) = exited.try_recv() {
                bail!("the private PostgreSQL ended at its start ({status}); {}", self.last_lines());
            }
            match self.connect(SUPERUSER).await {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => {
                    bail!("the private PostgreSQL does not answer: {error}; {}", self.last_lines());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            }
        }
    }

    async fn create_database(&self) -> anyhow::Result<()> {
        let client = self.connect(SUPERUSER).await?;
        if client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&DATABASE]).await?.is_none() {
            client.batch_execute(&format!("CREATE DATABASE {DATABASE}")).await?;
        }
        Ok(())
    }

    async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.folder).user(SUPERUSER).dbname(database).connect_timeout(Duration::from_secs(2));
        let (client, connection) = config.connect(NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    fn last_lines(&self) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(10)..].join("\n  ");
        format!("the end of {}:\n  {last}", self.log().display())
    }
}

/// Starts a process from a thread that lives as long as it does; what comes back says when it ended.
async fn keep(mut command: Command) -> anyhow::Result<oneshot::Receiver<ExitStatus>> {
    let (started, start) = oneshot::channel();
    let (exit, exited) = oneshot::channel();
    std::thread::Builder::new().name("postgres".to_owned()).spawn(move || {
        let mut child: Child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return drop(started.send(Err(error))),
        };
        if started.send(Ok(())).is_ok() {
            let _ = child.wait().map(|status| exit.send(status));
        }
    })?;
    start.await?.context("can't run the program `postgres`")?;
    Ok(exited)
}

/// Percent-encodes all but what every reader of URLs leaves alone.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
        url
    })
}

#[cfg(test)]
mod tests;
