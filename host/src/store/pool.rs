//! Connections to PostgreSQL under the runtime login, lent one at a time.
//!
//! A small pool of our own, because a unit of work needs what general pools do not give: a connection whose transaction did not end
//! cleanly is thrown away, never cleaned up; prepared statements are kept per (handler revision, text); a running statement can be
//! cancelled when its invocation is over.

use super::error::{NotReady, Unavailable, describe};
use super::target::Target;
use super::unit::{HostStatements, IDLE};
use crate::telemetry::lock;
use futures_util::future;
use postgres_openssl::MakeTlsConnector;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{CancelToken, Client, Statement};

/// How many distinct statements one connection keeps prepared before it starts afresh.
const STATEMENTS_PER_CONNECTION: usize = 1_000;
/// How many revisions' statements one connection keeps before it starts afresh.
const SCOPES_PER_CONNECTION: usize = 128;

/// How the pool connects.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Connections at most.
    pub connections: usize,
    /// How long a connection may take to be made or lent before the database counts as unavailable.
    pub patience: Duration,
    /// `lock_timeout` of every connection.
    pub lock_timeout: Duration,
    /// `idle_in_transaction_session_timeout`: a unit whose host froze gives its locks up after this long.
    pub idle_in_transaction: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            connections: 16,
            patience: Duration::from_secs(5),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction: IDLE,
        }
    }
}

/// The pool. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Shared>,
}

struct Shared {
    target: Target,
    options: PoolOptions,
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    /// Counts how often all handlers' statements were forgotten.
    era: AtomicU64,
}

/// One connection and what is prepared on it.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) cancel: CancelToken,
    pub(super) host: HostStatements,
    /// What `enable_seqscan` is on it, where the host does not say otherwise.
    pub(super) seqscan: String,
    scopes: HashMap<u64, ScopeStatements>,
    prepared: usize,
    /// The era of its handlers' statements.
    era: u64,
}

/// What is prepared for one handler revision.
pub(super) struct ScopeStatements {
    pub(super) xid: Statement,
    pub(super) resume: Statement,
    texts: HashMap<Box<str>, Statement>,
}

impl Connection {
    /// What is prepared for `scope` (a handler revision).
    pub(super) fn scope(&self, scope: u64) -> Option<&ScopeStatements> {
        self.scopes.get(&scope)
    }

    /// The handler's statement `text`, if it is prepared.
    pub(super) fn cached(&self, scope: u64, text: &str) -> Option<Statement> {
        self.scopes.get(&scope)?.texts.get(text).cloned()
    }

    /// Keeps the statements that every unit of `scope` needs.
    pub(super) fn keep_scope(&mut self, scope: u64, xid: Statement, resume: Statement) {
        // Revisions come and go for as long as a host runs.
        if self.scopes.len() >= SCOPES_PER_CONNECTION {
            self.forget();
        }
        self.scopes.insert(scope, ScopeStatements { xid, resume, texts: HashMap::new() });
    }

    fn forget(&mut self) {
        self.scopes.clear();
        self.prepared = 0;
    }

    /// Forgets the handlers' statements if they are of another era.
    fn enter(&mut self, era: u64) {
        if std::mem::replace(&mut self.era, era) != era {
            self.forget();
        }
    }

    /// Keeps a statement of the handler.
    pub(super) fn keep(&mut self, scope: u64, text: &str, statement: Statement) {
        if self.prepared >= STATEMENTS_PER_CONNECTION {
            self.scopes.values_mut().for_each(|scope| scope.texts.clear());
            self.prepared = 0;
        }
        if let Some(scope) = self.scopes.get_mut(&scope) {
            self.prepared += 1;
            scope.texts.insert(text.into(), statement);
        }
    }
}

impl Pool {
    /// A pool for `url` (`postgres://…`, or key=value without files for TLS). Connects at the first use; fails only if the URL makes no
    /// sense or a file that it names cannot be used.
    pub fn new(url: &str, options: PoolOptions) -> anyhow::Result<Self> {
        let mut target = Target::parse(url, "TIDEMILL_DATABASE_URL")?;
        let config = &mut target.config;
        // The host's own statements have one good plan each; left to itself, PostgreSQL plans the inbox's anew for every batch. A handler's
        // statements run under `auto`, see the unit. And none of them gains from being compiled, which costs far more than running it: any estimate
        // far off, such as that of a plan type that is turned off, would have it done at each execution.
        let own = format!(
            "-c lock_timeout={} -c idle_in_transaction_session_timeout={} -c default_transaction_isolation=read\\ committed -c search_path=pg_catalog \
             -c plan_cache_mode=force_generic_plan -c jit=off",
            options.lock_timeout.as_millis(),
            options.idle_in_transaction.as_millis(),
        );
        let all = match config.get_options() {
            Some(given) => format!("{own} {given}"),
            None => own,
        };
        config.options(all).connect_timeout(options.patience).tcp_user_timeout(Duration::from_secs(10));
        // A server that is gone without a word is noticed within seconds, also by who only waits.
        config.keepalives_idle(Duration::from_secs(5)).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        if config.get_application_name().is_none() {
            config.application_name("tidemill");
        }
        let permits = Arc::new(Semaphore::new(options.connections));
        let shared = Shared { target, options, permits, idle: Mutex::new(Vec::new()), era: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The login name of the pool's connections.
    pub fn user(&self) -> &str {
        self.shared.target.config.get_user().unwrap_or("")
    }

    /// Borrows a connection, waiting for one if all are lent.
    pub async fn lend(&self) -> Result<Lease, Unavailable> {
        let waiting = self.shared.permits.clone().acquire_owned();
        let permit = match tokio::time::timeout(self.shared.options.patience, waiting).await {
            Ok(Ok(permit)) => permit,
            _ => {
                return Err(Unavailable(format!("all {} database connections are busy", self.shared.options.connections)));
            }
        };
        // A connection that the server closed while it was idle is noticed here, not by the guest.
        let idle = std::iter::from_fn(|| lock(&self.shared.idle).pop()).find(|c| !c.client.is_closed());
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let client = self.connect().await?;
                let greeted = tokio::time::timeout(self.shared.options.patience, self.greet(&client)).await;
                let greeted = greeted.unwrap_or_else(|_| Err(NotReady::Away(self.silence())));
                let (host, seqscan) = greeted.map_err(|error| Unavailable(error.to_string()))?;
                Connection { cancel: client.cancel_token(), client, host, seqscan, scopes: HashMap::new(), prepared: 0, era: 0 }
            }
        };
        connection.enter(self.shared.era.load(Ordering::SeqCst));
        Ok(Lease { connection: Some(connection), pool: self.clone(), _permit: permit })
    }

    /// Makes a connection outside the pool's count, for the questions that must not wait behind units.
    pub(super) async fn connect(&self) -> Result<Client, Unavailable> {
        self.connect_hearing(None).await
    }

    /// The same; `heard` rings with every notification that the connection gets.
    async fn connect_hearing(&self, heard: Option<Arc<Notify>>) -> Result<Client, Unavailable> {
        match tokio::time::timeout(self.shared.options.patience, self.shared.target.connect_hearing(heard)).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => {
                self.forget_idle();
                Err(Unavailable(self.trouble(&error)))
            }
            Err(_) => Err(Unavailable(self.silence())),
        }
    }

    /// Whether the database answers a host that is prepared for it, on a connection of its own: units may have all others.
    pub async fn check(&self) -> Result<(), NotReady> {
        let away = |error: Unavailable| NotReady::Away(error.0);
        let client = self.connect().await.map_err(away)?;
        let patience = self.shared.options.patience;
        match tokio::time::timeout(patience, self.greet(&client)).await {
            Ok(greeted) => greeted.map(drop),
            Err(_) => Err(NotReady::Away(self.silence())),
        }
    }

    /// What happens once on a new connection: it is refused if no guest may run under its login, else the host's statements are prepared.
    async fn greet(&self, client: &Client) -> Result<(HostStatements, String), NotReady> {
        let login = "SELECT rolsuper OR rolbypassrls, current_setting('enable_seqscan') FROM pg_catalog.pg_roles WHERE rolname = session_user";
        let away = |error| NotReady::Away(self.trouble(&error));
        let (login, prepared) = future::join(client.query_one(login, &[]), HostStatements::prepare(client)).await;
        let login = login.map_err(away)?;
        match login.get(0) {
            true => Err(NotReady::Login(self.user().to_owned())),
            false => prepared.map(|prepared| (prepared, login.get(1))).map_err(away),
        }
    }

    /// A client of its own for a long-lived user such as the relay, with session settings of its own. It ends when dropped.
    pub async fn dedicated(&self, setup: &str) -> Result<Client, Unavailable> {
        self.dedicated_hearing(setup, None).await
    }

    /// Like [`Pool::dedicated`]; `heard` rings with every notification that the connection gets.
    pub async fn dedicated_hearing(&self, setup: &str, heard: Option<Arc<Notify>>) -> Result<Client, Unavailable> {
        let client = self.connect_hearing(heard).await?;
        client.batch_execute(setup).await.map_err(|error| Unavailable(describe(&error)))?;
        Ok(client)
    }

    /// Why the database cannot be used, with the place and the way out.
    fn trouble(&self, error: &tokio_postgres::Error) -> String {
        use tokio_postgres::error::SqlState;
        let unprepared = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE];
        match error.code() {
            Some(code) if unprepared.contains(code) => {
                format!("{}: the database is not prepared for this login; run `tidemill migrate`", describe(error))
            }
            _ => self.shared.target.trouble(error),
        }
    }

    /// The same for a database that says nothing.
    fn silence(&self) -> String {
        let (place, patience) = (self.shared.target.place(), self.shared.options.patience);
        format!("PostgreSQL at {place} did not answer within {patience:?}; check TIDEMILL_DATABASE_URL and that the server runs")
    }

    fn forget_idle(&self) {
        lock(&self.shared.idle).retain(|c| !c.client.is_closed());
    }

    /// A table has changed: no connection that is lent from now on uses a statement of a handler that was prepared before.
    pub(super) fn forget_statements(&self) {
        self.shared.era.fetch_add(1, Ordering::SeqCst);
    }

    /// How a cancel request is encrypted: like the connection that it is for.
    pub(super) fn tls(&self) -> MakeTlsConnector {
        self.shared.target.tls()
    }

    /// `lock_timeout` of every connection.
    pub(super) fn lock_timeout(&self) -> Duration {
        self.shared.options.lock_timeout
    }

    pub(super) fn patience(&self) -> Duration {
        self.shared.options.patience
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("options", &self.shared.options).finish_non_exhaustive()
    }
}

/// A lent connection. Dropping it closes the connection (and with it whatever transaction is open); only [`Lease::give_back`] keeps it.
pub struct Lease {
    connection: Option<Connection>,
    pool: Pool,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    pub(super) fn connection(&mut self) -> &mut Connection {
        // The connection leaves only in `give_back`, which ends the lease's use.
        #[expect(clippy::expect_used, reason = "give_back is the last use of a lease")]
        self.connection.as_mut().expect("the lease was given back")
    }

    /// The client of this connection.
    pub fn client(&mut self) -> &Client {
        &self.connection().client
    }

    /// Returns the connection to the pool. Only for one with no transaction open and no answer outstanding.
    pub fn give_back(&mut self) {
        if let Some(connection) = self.connection.take()
            && !connection.client.is_closed()
        {
            lock(&self.pool.shared.idle).push(connection);
        }
    }
}
