//! A private PostgreSQL cluster for the test process and a database of its own for each test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::certs::Issued;
use super::process;

/// The database whose TCP connections need a password; all others trust.
pub const WITH_PASSWORD: &str = "needs_password";

/// A cluster that can go away and come back with its data.
pub struct Cluster {
    /// Its port on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    /// Settings beside those of all clusters, as `name=value`.
    settings: Vec<String>,
    server: Mutex<Option<Child>>,
}

/// The cluster of this test process, started at the first call.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(Cluster::dedicated)
}

impl Cluster {
    /// A running cluster for one test alone, which may stop it.
    pub fn dedicated() -> Self {
        let rules = format!(
            "local all all trust\nhost {WITH_PASSWORD} all 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
        );
        start(&rules, None)
    }

    /// Takes the server away in the midst of its work, as a power cut would; its data stay.
    pub fn stop(&self) {
        if let Some(mut server) = self.server.lock().unwrap().take() {
            let asked = Command::new("kill").args(["-QUIT", &server.id().to_string()]).status();
            assert!(asked.unwrap().success());
            server.wait().unwrap();
        }
    }

    /// Brings the server back on the same port.
    pub fn start(&self) {
        let mut server = Command::new("setpriv");
        server
            .args(unprivileged())
            .args(["--pdeathsig", "QUIT", "--"])
            .arg(programs().join("postgres"))
            .current_dir(&self.folder);
        server.arg("-D").arg(self.folder.join("data")).arg("-p").arg(self.port.to_string()).arg("-k").arg(&self.folder);
        // The disk is not what these tests are about; commit timestamps tell them in which order transactions committed.
        let all = [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "max_connections=300",
            "track_commit_timestamp=on",
            "shared_buffers=64MB",
        ];
        for setting in all.into_iter().chain(self.settings.iter().map(String::as_str)) {
            server.args(["-c", setting]);
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        server.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let server = process::spawn(server).unwrap();
        process::outlives_tests(&server);
        *self.server.lock().unwrap() = Some(server);
        await_socket(&self.folder, self.port);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts a cluster with these rules of access and, if given, TLS with a certificate and the authority of clients' certificates.
pub fn start(rules: &str, tls: Option<(&Issued, &Path)>) -> Cluster {
    let folder = process::folder("pg");
    let data = folder.join("data");
    if process::is_root() {
        let given = Command::new("chown").arg("postgres:postgres").arg(&folder).status().unwrap();
        assert!(given.success(), "`chown postgres` failed: is there a user `postgres`?");
    }
    let bin = programs();
    let mut initdb = Command::new("setpriv");
    initdb.args(unprivileged()).arg("--").arg(bin.join("initdb")).current_dir(&folder);
    let made = initdb
        .arg("-D")
        .arg(&data)
        .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"])
        .output()
        .unwrap();
    assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(data.join("pg_hba.conf"), rules).unwrap();

    let mut settings = Vec::new();
    if let Some((issued, authority)) = tls {
        let key = folder.join("server.key");
        std::fs::copy(&issued.key, &key).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        if process::is_root() {
            assert!(Command::new("chown").arg("postgres:postgres").arg(&key).status().unwrap().success());
        }
        for (setting, value) in [
            ("ssl_key_file", key.as_path()),
            ("ssl_cert_file", &issued.certificate),
            ("ssl_ca_file", authority),
            ("ssl", Path::new("on")),
        ] {
            settings.push(format!("{setting}={}", value.display()));
        }
    }
    let cluster = Cluster { port: process::free_port(), folder, settings, server: Mutex::new(None) };
    cluster.start();
    cluster
}

/// The arguments that make `setpriv` run a program as a user that PostgreSQL accepts.
fn unprivileged() -> &'static [&'static str] {
    if process::is_root() { &["--reuid=postgres", "--regid=postgres", "--clear-groups"] } else { &[] }
}

fn await_socket(folder: &Path, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = || std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The folder of the newest `postgres` on this machine: Debian's place, or the search path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> =
        versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin")))).collect();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = found.into_iter().rev().map(|(_, bin)| bin).chain(std::env::split_paths(&path));
    candidates
        .into_iter()
        .find(|bin| bin.join("postgres").exists() && bin.join("initdb").exists())
        .expect("no PostgreSQL programs: install `postgresql`")
}

/// A fresh database with the names that belong to it.
pub struct Database {
    /// Its name, which is also the installation's.
    pub name: String,
    /// The port of its cluster.
    pub port: u16,
}

impl Database {
    /// Makes an empty database under a name that no other test has.
    pub async fn create() -> Self {
        Self::create_on(cluster()).await
    }

    /// Makes one in a cluster.
    pub async fn create_on(cluster: &Cluster) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::create_in(cluster, &format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed))).await
    }

    /// Makes an empty database.
    pub async fn create_named(name: &str) -> Self {
        Self::create_in(cluster(), name).await
    }

    /// Makes an empty database in a cluster.
    pub async fn create_in(cluster: &Cluster, name: &str) -> Self {
        let port = cluster.port;
        let admin = super::eventually("PostgreSQL lets us in", async || connect(port, "postgres").await.ok()).await;
        admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        Self { name: name.to_owned(), port }
    }

    /// Runs statements of the whole cluster.
    pub async fn administer(statements: &str) {
        connect(cluster().port, "postgres").await.unwrap().batch_execute(statements).await.unwrap();
    }

    /// The login that the host runs under; `tidemill migrate` makes it.
    pub fn login(&self) -> String {
        format!("{}_login", self.name)
    }

    /// `TIDEMILL_DATABASE_URL`, by way of any port that leads to the cluster.
    pub fn url(&self, port: u16) -> String {
        format!("postgres://{}:not-so-secret@127.0.0.1:{port}/{}", self.login(), self.name)
    }

    /// `TIDEMILL_ADMIN_DATABASE_URL`.
    pub fn admin_url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, self.name)
    }

    /// A superuser's connection, never through a proxy.
    pub async fn connect(&self) -> Client {
        super::eventually("PostgreSQL lets us in", async || connect(self.port, &self.name).await.ok()).await
    }
}

async fn connect(port: u16, database: &str) -> Result<Client, tokio_postgres::Error> {
    let options = format!("host=127.0.0.1 port={port} user=postgres dbname={database} password=not-so-secret");
    let (client, connection) = tokio_postgres::connect(&options, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
