//! `tidemill dev`: the whole product on this machine, from one command.

use super::host::{Claim, Host, Setup, Signals};
use super::plan::Plan;
use super::token;
use super::watch::{self, Swap, Watched};
use crate::config::{Config, KafkaAccess};
use crate::embedded::{Broker, Postgres};
use crate::fleet::Administration;
use crate::kafka::topics::{Cluster, Plan as TopicsPlan, Topics};
use crate::store::{AppPlan, Consent, MigrationOptions, Migrator};
use anyhow::Context;
use clap::{Arg, ArgAction};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The login of the host on its private PostgreSQL.
const LOGIN: &str = "tidemill_host";

/// The flag `--watch`.
pub(super) const WATCH: &str = "watch";

pub(super) fn watch_flag() -> Arg {
    Arg::new(WATCH)
        .long(WATCH)
        .action(ArgAction::SetTrue)
        .help("Build the handlers first, and build and swap them whenever one of their files is saved")
}

pub(super) async fn run(config: Config, watching: bool) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut signals = Signals::listen()?;
    let Some((plan, watched)) = first(&config, watching, &mut signals).await? else { return Ok(()) };
    let data = config.data_dir();
    std::fs::create_dir_all(data).with_context(|| format!("cannot make the data folder {}", data.display()))?;
    let broker = EmbeddedBroker::start(data, config.kafka_addr()).await?;
    let postgres = Postgres::start_with(data, config.postgres_bin()).await?;
    let parts = Parts { config: &config, broker: &broker, postgres: &postgres, started };
    let ran = parts.run(plan, watched, &mut signals).await;
    let broker_ended = broker.stop().await;
    let postgres_ended = postgres.stop().await;
    ran.and(broker_ended).and(postgres_ended)
}

/// The handlers to begin with, built first if they are watched; then what is wrong with them is said, and what is saved next is waited for.
/// None if the process is told to stop.
async fn first(config: &Config, watching: bool, signals: &mut Signals) -> anyhow::Result<Option<(Plan, Option<Watched>)>> {
    if !watching {
        return Ok(Some((Plan::load(config.handlers()?, config.installation())?, None)));
    }
    let mut watched = Watched::begin(config)?;
    let built = async {
        match watch::once(&watched, config).await {
            Ok(plan) => plan,
            Err(error) => watch::until_mended(&mut watched, config, error).await,
        }
    };
    let plan = tokio::select! {
        plan = built => plan,
        () = signals.wait() => return Ok(None),
    };
    Ok(Some((plan, Some(watched))))
}

/// What a host of `dev` runs on.
struct Parts<'a> {
    config: &'a Config,
    broker: &'a EmbeddedBroker,
    postgres: &'a Postgres,
    started: Instant,
}

impl Parts<'_> {
    async fn run(&self, plan: Plan, watched: Option<Watched>, signals: &mut Signals) -> anyhow::Result<()> {
        let administration = self.administration();
        let kafka = KafkaAccess::plaintext(self.broker.addr.to_string());
        // The host's own tables, which it looks into as soon as it starts.
        migrate(&administration, &[]).await?;
        let host = Host::start(self.config, self.setup(&kafka)?).await?;
        let ran = self.with_host(&host, plan, watched, administration, kafka, signals).await;
        ran.and(host.stop().await)
    }

    async fn with_host(
        &self,
        host: &Host,
        mut plan: Plan,
        mut watched: Option<Watched>,
        administration: Administration,
        kafka: KafkaAccess,
        signals: &mut Signals,
    ) -> anyhow::Result<()> {
        loop {
            let error = match self.begin(host, &plan, &administration, &kafka, signals).await {
                Ok(true) => break,
                Ok(false) => return Ok(()),
                Err(error) => with_way_out(error, self.config.data_dir()),
            };
            let Some(watched) = &mut watched else { return Err(error) };
            plan = tokio::select! {
                plan = watch::until_mended(watched, self.config, error) => plan,
                () = signals.wait() => return Ok(()),
            };
        }
        self.show(host, &plan);
        let swap = Swap::new(self.config, host.deployer(), administration, kafka, &plan)?;
        match watched {
            None => signals.wait().await,
            Some(watched) => tokio::select! {
                () = signals.wait() => {}
                () = watch::run(watched, swap) => {}
            },
        }
        Ok(())
    }

    /// Brings the database, the broker and the fleet to what the folder asks for; false if the process is told to stop first.
    async fn begin(
        &self,
        host: &Host,
        plan: &Plan,
        administration: &Administration,
        kafka: &KafkaAccess,
        signals: &mut Signals,
    ) -> anyhow::Result<bool> {
        let bundles = plan.bundles(self.config.revision_size())?;
        migrate(administration, &plan.apps()?).await?;
        create_missing_topics(kafka, &plan.topics()?.on_one_broker()).await?;
        // The database is this folder's own: what was deployed from it and is not in it any more has left.
        host.begin(&bundles, Claim::Whole, Some(administration), signals).await
    }

    fn administration(&self) -> Administration {
        // Nothing runs beside what is being written, so the log only says what a database in use would refuse.
        let options = MigrationOptions { consent: Consent::in_development(), lock_timeout: self.config.migration_lock_timeout() };
        Administration { admin_url: self.postgres.admin_url(), runtime_url: self.postgres.runtime_url(LOGIN), options }
    }

    fn setup(&self, kafka: &KafkaAccess) -> anyhow::Result<Setup> {
        let config = self.config;
        let key = match config.jwt_hs256_key_if_given() {
            Some(key) => key.clone(),
            None => token::development_key(config.data_dir())?,
        };
        let admin_token = match config.admin_token() {
            Some(token) => token.clone(),
            None => token::development_admin_token(config.data_dir())?,
        };
        let database_url = self.postgres.runtime_url(LOGIN);
        Ok(Setup { database_url, kafka: kafka.clone(), key, admin_token: Some(admin_token) })
    }

    fn show(&self, host: &Host, plan: &Plan) {
        let names: Vec<String> = plan.handlers.iter().map(|handler| handler.manifest.name.clone()).collect();
        println!("{}", screen(self.config, host, self.broker.addr, self.postgres, &names, &tries(plan)));
        let (http, admin, kafka, after) = (host.http, host.admin, self.broker.addr, self.started.elapsed());
        println!("ready http=http://{http} admin=http://{admin} kafka={kafka} after {after:.1?}");
    }
}

async fn migrate(administration: &Administration, apps: &[AppPlan]) -> anyhow::Result<()> {
    let Administration { admin_url, runtime_url, options } = administration;
    let mut migrator = Migrator::connect(admin_url).await?.with(options.clone());
    migrator.run(runtime_url, apps).await?.iter().for_each(|line| tracing::info!("{line}"));
    Ok(())
}

/// The error with a way out that only a database has in which nothing matters.
pub(super) fn with_way_out(error: anyhow::Error, data: &Path) -> anyhow::Error {
    match format!("{error:#}").contains("was changed after it was applied") {
        true => anyhow::anyhow!("{error:#}; or begin anew: stop `tidemill dev` and delete {}", data.display()),
        false => error,
    }
}

/// Makes the topics that are missing; those that exist stay as they are, for in development a topic's own history is worth more.
pub(super) async fn create_missing_topics(kafka: &KafkaAccess, topics: &Topics) -> anyhow::Result<()> {
    let cluster = Cluster::connect(kafka)?;
    let missing = TopicsPlan::new(topics, &cluster.describe(&topics.names()).await?, false).creations();
    for made in cluster.apply(&missing).await? {
        anyhow::ensure!(made.outcome.is_good(), "topic `{}` cannot be made: {:?}", made.topic, made.outcome);
    }
    Ok(())
}

/// The commands that the manifests give to try, in the handlers' order.
fn tries(plan: &Plan) -> Vec<String> {
    plan.handlers.iter().flat_map(|handler| handler.manifest.dev_try.clone()).collect()
}

fn screen(config: &Config, host: &Host, kafka: SocketAddr, postgres: &Postgres, names: &[String], tries: &[String]) -> String {
    let url = format!("http://{}", host.http);
    let program = std::env::current_exe().ok().and_then(|path| {
        let here = std::env::current_dir().ok()?;
        Some(path.strip_prefix(here).map(Path::to_owned).unwrap_or(path).display().to_string())
    });
    let program = program.unwrap_or_else(|| "tidemill".to_owned());
    let mut lines = vec![
        String::new(),
        "Tidemill runs. Stop it with Ctrl-C; what it stored stays.".to_owned(),
        String::new(),
        format!("  requests    {url}"),
        format!("  admin       http://{}/readyz, /livez, /metrics", host.admin),
        format!("  kafka       {kafka} (embedded broker, development only)"),
        format!("  postgres    {}", postgres.psql_command()),
        format!("  data        {}", config.data_dir().display()),
        format!("  handlers    {}", names.join(", ")),
        format!("  operate     export TIDEMILL_DATABASE_URL='{}'; {program} dlq list", postgres.runtime_url(LOGIN)),
        match config.admin_token() {
            None => format!(
                "  admin API   curl -H \"authorization: Bearer $(cat {})\" http://{}/v1/dead-letters",
                config.data_dir().join(token::ADMIN_TOKEN_FILE).display(),
                host.admin
            ),
            Some(_) => format!("  admin API   http://{}/v1/dead-letters, with the token of TIDEMILL_ADMIN_TOKEN", host.admin),
        },
        String::new(),
        "Try, in another terminal:".to_owned(),
        String::new(),
        match config.jwt_hs256_key_if_given() {
            None => format!("  TOKEN=$({program} token --user ann --data-dir {})", config.data_dir().display()),
            Some(_) => format!("  TOKEN=$({program} token --user ann)    # with the same TIDEMILL_JWT_HS256_KEY as this host"),
        },
    ];
    lines.extend(tries.iter().map(|line| {
        let line = line.replace("{{url}}", &url).replace("{{token}}", "$TOKEN").replace("{{kafka}}", &kafka.to_string());
        format!("  {line}")
    }));
    lines.push(String::new());
    lines.join("\n")
}

/// The broker in this process, on a task of its own.
struct EmbeddedBroker {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<anyhow::Result<()>>,
}

impl EmbeddedBroker {
    async fn start(data: &Path, addr: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(addr).await.with_context(|| {
            format!(
                "cannot listen on {addr} for the embedded broker; another process may have it: end that one, or set TIDEMILL_KAFKA_ADDR to another address"
            )
        })?;
        let addr = listener.local_addr()?;
        let broker = Broker::open(&data.join("kafka")).await?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(broker.serve(listener, async {
            let _ = stopped.await;
        }));
        Ok(Self { addr, stop, serving })
    }

    async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        match tokio::time::timeout(Duration::from_secs(5), self.serving).await {
            Ok(Ok(ended)) => ended.context("the embedded broker failed"),
            Ok(Err(error)) => Err(anyhow::anyhow!("the embedded broker failed: {error}")),
            Err(_) => Err(anyhow::anyhow!("the embedded broker did not stop in time")),
        }
    }
}
