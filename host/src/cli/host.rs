//! The running host: what `serve` and `dev` have in common, from open ports to a clean end.

use super::{actor, topics};
use crate::admin::Admin;
use crate::config::{Config, KafkaAccess, Secret};
use crate::engine::{Cache, Engine, Registry, short};
use crate::fleet::{Administration, Bundle, Deployer, Order, Replica, Report};
use crate::relay::Relay;
use crate::store::fleet::Pulse;
use crate::store::operate::{Actor, Via};
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
}

/// What the consumers need beyond the grace period, to roll back what is under way, to commit the last offsets and to leave their groups.
const PARTING: Duration = Duration::from_secs(6);

/// How long a replica may take to tell the others that it leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the handlers of a folder are to those that are active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// They run beside the others.
    Beside,
    /// They are all that runs: the others go out of service in the same switch.
    Whole,
}

/// A running host.
pub(super) struct Host {
    pub(super) http: SocketAddr,
    pub(super) admin: SocketAddr,
    pool: Pool,
    deployer: Deployer,
    replica: Replica,
    stop: watch::Sender<bool>,
    stop_relay: watch::Sender<bool>,
    stop_replica: watch::Sender<bool>,
    starting: Arc<AtomicBool>,
    stopping: Arc<AtomicBool>,
    public: JoinHandle<std::io::Result<()>>,
    work: JoinHandle<()>,
    jobs: JoinHandle<()>,
    relay: JoinHandle<()>,
    member: JoinHandle<()>,
    grace: Duration,
}

impl Host {
    /// Opens the ports, becomes a replica of the fleet, and starts answering, consuming, firing and relaying. The database and the broker may be
    /// away. Until what is active is loaded, nothing is answered or handled.
    pub(super) async fn start(config: &Config, setup: Setup) -> anyhow::Result<Self> {
        let public = bind(config.http_addr(), "public", "TIDEMILL_HTTP_ADDR").await?;
        let admin = bind(config.admin_addr(), "admin", "TIDEMILL_ADMIN_ADDR").await?;
        let (http_addr, admin_addr) = (public.local_addr()?, admin.local_addr()?);
        let (stop, stopped) = watch::channel(false);
        let (stop_relay, relay_stopped) = watch::channel(false);
        let (stop_replica, replica_stopped) = watch::channel(false);
        let (metrics, board) = (Arc::new(Metrics::default()), Arc::new(Board::default()));
        let (starting, stopping) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let pulse = Arc::new(Pulse::new());
        let options = PoolOptions { connections: config.db_connections(), ..PoolOptions::default() };
        let pool = Pool::new(&setup.database_url, options)?;

        let folder = config.data_dir().join("cache");
        let deployer = Deployer::new(pool.clone(), config.installation(), Some(folder.clone()));
        let admin_page = Admin {
            pool: pool.clone(),
            board: board.clone(),
            metrics: metrics.clone(),
            pulse: pulse.clone(),
            deployer: deployer.clone(),
            revision_size: config.revision_size(),
            starting: starting.clone(),
            stopping: stopping.clone(),
            token: setup.admin_token,
        };
        // Ends with the process: it must say "stopping" for as long as the host stops.
        tokio::spawn(axum::serve(admin, admin_page.router()).into_future());

        let cache = Cache::open(&folder)?;
        let engine = Engine::new(pool.clone(), cache, metrics.clone(), config.outcome_deadline())?.with_pulse(pulse);
        let engine = Arc::new(engine);
        let registry = Arc::new(Registry::default());
        let replica = Replica::new(engine.clone(), registry.clone(), board.clone(), config.installation());
        let member = replica.start(replica_stopped);

        let kafka = Arc::new(setup.kafka);
        tokio::spawn(topics::watch(kafka.clone(), registry.clone(), board.clone(), stopped.clone()));
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
            pulse: engine.pulse().clone(),
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
            deployer,
            replica,
            stop,
            stop_relay,
            stop_replica,
            starting,
            stopping,
            public: tokio::spawn(serving.into_future()),
            jobs: tokio::spawn(jobs.run(stopped.clone())),
            work: tokio::spawn(consumers.run(stopped, config.shutdown_grace())),
            relay: tokio::spawn(relay.run(relay_stopped)),
            member,
            grace: config.shutdown_grace(),
        })
    }

    /// What deploys into this host's database.
    pub(super) fn deployer(&self) -> &Deployer {
        &self.deployer
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

    /// Deploys what was found in a folder, if anything, and waits until what is active is loaded; false if the process is told to stop first. A
    /// database that goes away, or another deploy, is waited for; what is refused is an error.
    pub(super) async fn begin(
        &self,
        bundles: &[Bundle],
        claim: Claim,
        admin: Option<&Administration>,
        signal: &mut Signals,
    ) -> anyhow::Result<bool> {
        let version = match bundles.is_empty() {
            true => Some(0),
            false => tokio::select! {
                deployed = self.deploy(bundles, claim, admin) => Some(deployed?.version),
                () = signal.wait() => None,
            },
        };
        let Some(version) = version else { return Ok(false) };
        tokio::select! {
            () = self.replica.has_loaded(version) => {}
            () = signal.wait() => return Ok(false),
        }
        let beside =
            self.replica.handlers().into_iter().filter(|name| !bundles.iter().any(|bundle| bundle.manifest.name == *name));
        let beside: Vec<String> = beside.map(|name| format!("`{name}`")).collect();
        if !bundles.is_empty() && !beside.is_empty() {
            let names = beside.join(", ");
            tracing::warn!("active beside the handlers of the folder: {names}; `tidemill undeploy` takes one out of service");
        }
        self.starting.store(false, Ordering::Relaxed);
        Ok(true)
    }

    async fn deploy(&self, bundles: &[Bundle], claim: Claim, admin: Option<&Administration>) -> anyhow::Result<Report> {
        let order = Order { actor: Actor::new(&actor::local(), Via::Host)?, note: None };
        loop {
            let deployed = match claim {
                Claim::Beside => self.deployer.deploy(bundles, &order, admin).await,
                Claim::Whole => self.deployer.exactly(bundles, &order, admin).await,
            };
            match deployed {
                Ok(report) => {
                    for handler in report.handlers.iter().filter(|_| report.changed) {
                        tracing::info!(
                            handler = handler.handler,
                            revision = handler.revision.as_deref().map(short),
                            "{}",
                            handler.outcome
                        );
                    }
                    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                    return Ok(report);
                }
                Err(error) if error.may_pass() => {
                    tracing::warn!("the handlers are not deployed yet: {error}; trying again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Resolves when a part that should run as long as the host has ended by itself, with what is known of it. Nothing may go on without: a host
    /// that answers and consumes nothing looks well and loses hours. Its end is like `kill -9`, which loses nothing.
    pub(super) async fn broken(&mut self) -> anyhow::Error {
        let (part, ended) = tokio::select! {
            ended = &mut self.public => ("HTTP server", ended.map(|served| format!("{served:?}"))),
            ended = &mut self.work => ("consumers", ended.map(|()| "they ended".to_owned())),
            ended = &mut self.jobs => ("jobs", ended.map(|()| "they ended".to_owned())),
            ended = &mut self.relay => ("relay", ended.map(|()| "it ended".to_owned())),
            ended = &mut self.member => ("membership of the fleet", ended.map(|()| "it ended".to_owned())),
        };
        let how = ended.unwrap_or_else(|error| error.to_string());
        anyhow::anyhow!("a part of the host has failed, so the host ends: {part}: {how}")
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
        // Its heart beats to the end: what is under way must still be kept.
        let _ = self.stop_replica.send(true);
        let _ = tokio::time::timeout(FAREWELL, self.member).await;
        if public.is_err() || work.is_err() {
            tracing::warn!("work under way did not end within {:?} and is rolled back", self.grace);
        }
        match work {
            Ok(Err(error)) => Err(anyhow::anyhow!("the consumers failed: {error}")),
            _ => Ok(()),
        }
    }
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
