//! The running host: what `serve` and `dev` have in common, from open ports to a clean end.

use super::plan::Plan;
use crate::admin::Admin;
use crate::config::{Config, KafkaAccess, Secret};
use crate::engine::{Cache, Engine, Registry};
use crate::kafka::topics;
use crate::relay::Relay;
use crate::store::{InboxDays, KeptAnswers, NotReady, Pool, PoolOptions};
use crate::telemetry::{Board, Metrics};
use crate::triggers::http::{self, HttpTrigger, Verifier};
use crate::triggers::jobs::JobsTrigger;
use crate::triggers::kafka::KafkaTrigger;
use anyhow::Context;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where things are and who may come in.
pub(super) struct Setup {
    pub(super) database_url: String,
    pub(super) kafka: KafkaAccess,
    pub(super) key: Secret,
    /// Without one, the admin API answers nobody.
    pub(super) admin_token: Option<Secret>,
    pub(super) plan: Plan,
}

/// What the consumers need beyond the grace period, to roll back what is under way, to commit the last offsets and to leave their groups.
const PARTING: Duration = Duration::from_secs(6);

/// A running host.
pub(super) struct Host {
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    pool: Pool,
    stop: watch::Sender<bool>,
    stop_relay: watch::Sender<bool>,
    stopping: Arc<AtomicBool>,
    public: JoinHandle<std::io::Result<()>>,
    work: JoinHandle<()>,
    jobs: JoinHandle<()>,
    relay: JoinHandle<()>,
    grace: Duration,
}

impl Host {
    /// Opens the ports, compiles the handlers, and starts answering, consuming, firing and relaying. The database and the broker may be away.
    pub(super) async fn start(config: &Config, setup: Setup) -> anyhow::Result<Self> {
        let public = bind(config.http_addr(), "public", "TIDEMILL_HTTP_ADDR").await?;
        let admin = bind(config.admin_addr(), "admin", "TIDEMILL_ADMIN_ADDR").await?;
        let (http_addr, admin_addr) = (public.local_addr()?, admin.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let (stop_relay, relay_stopped) = watch::channel(false);
        let (metrics, board) = (Arc::new(Metrics::default()), Arc::new(Board::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let options = PoolOptions { connections: config.db_connections(), ..PoolOptions::default() };
        let pool = Pool::new(&setup.database_url, options)?;

        let admin_page = Admin {
            pool: pool.clone(),
            board: board.clone(),
            metrics: metrics.clone(),
            stopping: stopping.clone(),
            token: setup.admin_token,
        };
        // Ends with the process: it must say "stopping" for as long as the host stops.
        tokio::spawn(axum::serve(admin, admin_page.router()).into_future());

        let cache = Cache::open(&config.data_dir().join("cache"))?;
        let engine = Arc::new(Engine::new(pool.clone(), cache, metrics.clone(), config.outcome_deadline())?);
        let registry = Arc::new(Registry::default());
        activate(&engine, &registry, &setup.plan).await?;

        let kafka = Arc::new(setup.kafka);
        tokio::spawn(topics::watch(kafka.clone(), setup.plan.topics()?, board.clone(), stopped.clone()));
        let trigger = HttpTrigger::new(
            engine.clone(),
            registry.clone(),
            Verifier::hs256(&setup.key),
            config.concurrency(),
            metrics.clone(),
        );
        tokio::spawn(http::forget(KeptAnswers::new(pool.clone()), stopped.clone()));
        let mut closing = stopped.clone();
        let serving = axum::serve(public, trigger.router()).with_graceful_shutdown(async move {
            let _ = closing.wait_for(|stop| *stop).await;
        });
        let consumers = KafkaTrigger {
            engine: engine.clone(),
            registry,
            kafka: kafka.clone(),
            board: board.clone(),
            metrics: metrics.clone(),
            days: InboxDays::new(pool.clone()),
        };
        let jobs = JobsTrigger {
            pool: pool.clone(),
            bell: engine.jobs_bell(),
            outbox: engine.outbox_bell(),
            metrics: metrics.clone(),
            board: board.clone(),
        };
        let relay = Relay { pool: pool.clone(), kafka, bell: engine.outbox_bell(), metrics, board };
        Ok(Self {
            http: http_addr,
            admin: admin_addr,
            pool,
            stop,
            stop_relay,
            stopping,
            public: tokio::spawn(serving.into_future()),
            jobs: tokio::spawn(jobs.run(stopped.clone())),
            work: tokio::spawn(consumers.run(stopped, config.shutdown_grace())),
            relay: tokio::spawn(relay.run(relay_stopped)),
            grace: config.shutdown_grace(),
        })
    }

    /// Waits until the database answers, saying why it does not; false if the process is told to stop first. A login that no guest may
    /// run under is an error, not a reason to wait.
    pub(super) async fn wait_for_database(&self, signal: &mut Signals) -> anyhow::Result<bool> {
        loop {
            match self.pool.check().await {
                Ok(()) => return Ok(true),
                Err(refused @ NotReady::Login(_)) => return Err(refused.into()),
                Err(error) => tracing::warn!("not ready: {error}; trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = signal.wait() => return Ok(false),
            }
        }
    }

    /// Ends in order: unready, no new work, work under way to its end within the grace period, then what it published.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        tracing::info!("stopping");
        self.stopping.store(true, Ordering::Relaxed);
        let _ = self.stop.send(true);
        let (public, _, work) = tokio::join!(
            tokio::time::timeout(self.grace, self.public),
            tokio::time::timeout(self.grace, self.jobs),
            // The consumers keep to the grace period themselves.
            tokio::time::timeout(self.grace + PARTING, self.work),
        );
        let _ = self.stop_relay.send(true);
        let _ = tokio::time::timeout(self.grace, self.relay).await;
        if public.is_err() || work.is_err() {
            tracing::warn!("work under way did not end within {:?} and is rolled back", self.grace);
        }
        match work {
            Ok(Err(error)) => Err(anyhow::anyhow!("the consumers failed: {error}")),
            _ => Ok(()),
        }
    }
}

/// Compiles all handlers at once; every one that cannot be used is named.
async fn activate(engine: &Arc<Engine>, registry: &Registry, plan: &Plan) -> anyhow::Result<()> {
    let compiling: Vec<_> = plan
        .sources()?
        .into_iter()
        .map(|source| {
            let engine = engine.clone();
            tokio::task::spawn_blocking(move || engine.prepare(source))
        })
        .collect();
    let (mut handlers, mut refused) = (Vec::new(), Vec::new());
    for handler in compiling {
        match handler.await? {
            Ok(handler) => handlers.push(Arc::new(handler)),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    registry.activate(handlers)
}

async fn bind(addr: SocketAddr, what: &str, variable: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!("cannot listen on {addr} for the {what} port; another process may have it: end that one, or set {variable} to another address")
    })
}

/// SIGTERM and SIGINT.
pub(super) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    pub(super) fn listen() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Resolves when the process is told to stop.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
