//! Apache Kafka, one node in KRaft mode, from the jars that `scripts/bench` fetches; and full topics on it.

use crate::report::target;
use crate::site::{free_address, run};
use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tidemill::config::KafkaAccess;
use tidemill::kafka::client_config;
use tokio::process::{Child, Command};

const CLUSTER_ID: &str = "dGlkZW1pbGwtYmVuY2hlcw";
/// How long the broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// The partitions of every topic that is measured.
pub(crate) const PARTITIONS: i32 = 3;
/// So many keys share a full topic, in turn.
pub(crate) const KEYS: u64 = 1_000;

/// A broker of Apache Kafka. Dropping it kills it.
pub(crate) struct Apache {
    pub(crate) addr: String,
    server: Child,
}

impl Apache {
    /// Starts a new broker on a folder and waits until it answers.
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let addr = free_address()?;
        let file = folder.join("server.properties");
        std::fs::write(&file, settings(&addr, &free_address()?, &folder.join("data")))?;
        let mut tool = Command::new("java");
        tool.args(["-Xmx128m", "-cp", &class_path()?, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c"]);
        tool.arg(&file).stdin(Stdio::null());
        run(tool).await.context("Apache Kafka cannot format its folder")?;
        let mut server = Command::new("java");
        server.args(["-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-cp", &class_path()?, "kafka.Kafka"]).arg(&file);
        let log = std::fs::File::create(folder.join("log"))?;
        let server = server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?;
        let at = addr.clone();
        tokio::task::spawn_blocking(move || answers(&at)).await??;
        Ok(Self { addr, server })
    }

    /// The broker's process.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.server.id().context("Apache Kafka has ended")
    }

    /// Puts so many events into a topic: structured CloudEvents of about 400 bytes, [`KEYS`] keys in turn, of the types that `type_of` says.
    pub(crate) async fn fill(&self, topic: &'static str, count: u64, type_of: fn(u64) -> &'static str) -> anyhow::Result<()> {
        let addr = self.addr.clone();
        let filled = tokio::task::spawn_blocking(move || {
            produce(&addr, topic, count, type_of)?;
            records(&addr, topic)
        });
        let there = filled.await??;
        anyhow::ensure!(there == count, "`{topic}` has {there} records, not {count}");
        Ok(())
    }

    /// Ends it at once: its data are not wanted any more.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.server.kill().await?)
    }
}

/// How many records a topic has.
pub(crate) fn records(brokers: &str, topic: &str) -> anyhow::Result<u64> {
    let client: BaseConsumer = client_config(&KafkaAccess::plaintext(brokers)).create()?;
    let mut sum = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = client.fetch_watermarks(topic, partition, Duration::from_secs(10))?;
        sum += u64::try_from(high - low)?;
    }
    Ok(sum)
}

/// The key of the n-th event.
pub(crate) fn key(n: u64) -> String {
    format!("user{}", n % KEYS)
}

fn produce(brokers: &str, topic: &str, count: u64, type_of: fn(u64) -> &'static str) -> anyhow::Result<()> {
    let mut config = client_config(&KafkaAccess::plaintext(brokers));
    config.set("linger.ms", "20").set("batch.size", "262144").set("enable.idempotence", "true");
    let producer: BaseProducer = config.create()?;
    for n in 0..count {
        let (key, value) = (key(n), event(n, type_of(n)));
        let content_type = Header { key: "content-type", value: Some("application/cloudevents+json; charset=UTF-8") };
        let headers = OwnedHeaders::new().insert(content_type);
        let mut record = BaseRecord::to(topic).key(&key).payload(&value).headers(headers);
        while let Err((error, refused)) = producer.send(record) {
            match error {
                KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) => producer.poll(Duration::from_millis(10)),
                error => return Err(error.into()),
            }
            record = refused;
        }
        if n % 1_000 == 0 {
            producer.poll(Duration::ZERO);
        }
    }
    Ok(producer.flush(PATIENCE)?)
}

fn event(n: u64, type_: &str) -> String {
    let (id, task, user) = (uuid::Uuid::now_v7(), uuid::Uuid::now_v7(), key(n));
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"bench\",\"type\":\"{type_}\",\"time\":\"{:.6}\",\
         \"datacontenttype\":\"application/json\",\"correlationid\":\"{id}\",\
         \"data\":{{\"task_id\":\"{task}\",\"user_id\":\"{user}\",\"title\":\"{}\"}}}}",
        jiff::Timestamp::now(),
        "x".repeat(100),
    )
}

fn answers(brokers: &str) -> anyhow::Result<()> {
    let client: BaseConsumer = client_config(&KafkaAccess::plaintext(brokers)).create()?;
    let started = Instant::now();
    while client.fetch_metadata(None, Duration::from_secs(1)).is_err() {
        anyhow::ensure!(started.elapsed() < PATIENCE, "Apache Kafka does not answer within {PATIENCE:?}");
    }
    Ok(())
}

fn settings(addr: &str, controller: &str, data: &Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@{controller}\n\
         listeners=PLAINTEXT://{addr},CONTROLLER://{controller}\n\
         advertised.listeners=PLAINTEXT://{addr}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n\
         auto.create.topics.enable=false\n",
        data.display()
    )
}

fn class_path() -> anyhow::Result<String> {
    let libs = std::env::var_os("TIDEMILL_TEST_KAFKA_LIBS").map_or_else(|| target().join("kafka/libs"), PathBuf::from);
    if !libs.is_dir() {
        bail!("Apache Kafka's jars are not in {}; `scripts/bench` fetches them", libs.display());
    }
    Ok(format!("{}/*", libs.display()))
}
