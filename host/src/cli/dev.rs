//! `tidemill dev`: the whole product on this machine, from one command.

use super::host::{Host, Setup, Signals};
use super::plan::Plan;
use super::token;
use super::watch::{self, Swap};
use crate::config::{Config, KafkaAccess};
use crate::embedded::{Broker, Postgres};
use crate::fleet::Administration;
use crate::kafka::topics::{Cluster, Plan as TopicsPlan, Topics};
use crate::store::{Consent, MigrationOptions, Migrator};
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
    if watching {
        watch::build_all(config.handlers()?).await?;
    }
    let plan = Plan::load(config.handlers()?, config.installation())?;
    let data = config.data_dir();
    std::fs::create_dir_all(data).with_context(|| format!("cannot make the data folder {}", data.display()))?;
    let broker = EmbeddedBroker::start(data, config.kafka_addr()).await?;
    let postgres = Postgres::start_with(data, config.postgres_bin()).await?;
    let ran = with_parts(&config, plan, &broker, &postgres, &mut signals, started, watching).await;
    let broker_ended = broker.stop().await;
    let postgres_ended = postgres.stop().await;
    ran.and(broker_ended).and(postgres_ended)
}

async fn with_parts(
    config: &Config,
    plan: Plan,
    broker: &EmbeddedBroker,
    postgres: &Postgres,
    signals: &mut Signals,
    started: Instant,
    watching: bool,
) -> anyhow::Result<()> {
    let database_url = postgres.runtime_url(LOGIN);
    // Nothing runs beside what is being written, so the log only says what a database in use would refuse.
    let options = MigrationOptions { consent: Consent::in_development(), lock_timeout: config.migration_lock_timeout() };
    let mut migrator = Migrator::connect(&postgres.admin_url()).await?.with(options.clone());
    for line in migrator.run(&database_url, &plan.apps()?).await? {
        tracing::info!("{line}");
    }
    let kafka = KafkaAccess::plaintext(broker.addr.to_string());
    create_missing_topics(&kafka, &plan.topics()?.on_one_broker()).await?;
    let tries = tries(&plan);
    let names: Vec<String> = plan.handlers.iter().map(|handler| handler.manifest.name.clone()).collect();
    let key = match config.jwt_hs256_key_if_given() {
        Some(key) => key.clone(),
        None => token::development_key(config.data_dir())?,
    };
    let admin_token = match config.admin_token() {
        Some(token) => token.clone(),
        None => token::development_admin_token(config.data_dir())?,
    };
    let bundles = plan.bundles(config.revision_size())?;
    let administration = Administration { admin_url: postgres.admin_url(), runtime_url: database_url.clone(), options };
    let setup = Setup { database_url, kafka: kafka.clone(), key, admin_token: Some(admin_token) };
    let host = Host::start(config, setup).await?;
    let begun = host.begin(&bundles, Some(&administration), signals).await;
    if let Ok(true) = begun {
        println!("{}", screen(config, &host, broker.addr, postgres, &names, &tries));
        println!(
            "ready http=http://{} admin=http://{} kafka={} after {:.1?}",
            host.http,
            host.admin,
            broker.addr,
            started.elapsed()
        );
        let swap = Swap::new(config, host.deployer(), administration, kafka, &plan)?;
        tokio::select! {
            () = signals.wait() => {}
            () = watch::run(swap), if watching => {}
        }
    }
    begun.map(drop).and(host.stop().await)
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
