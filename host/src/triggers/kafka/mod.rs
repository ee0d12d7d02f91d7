//! Kafka topics: one consumer for each consumer group, one worker for each of its partitions.
//!
//! - `record`: a record, detached from librdkafka
//! - `cloudevent`: record → CloudEvent, structured or binary
//! - `queue`: what a partition has read and not yet handled, bounded by pausing it
//! - `worker`: batches of one partition, one at a time, into the handler
//! - `solve`: from a batch that fails to the event at fault
//! - `retries`: events that wait in the database, when their time has come
//! - `runner`: what both share: running a handler, and writing a failure down
//! - `gate`, `breaker`: waiting while the host's own parts, or a whole revision, fail
//! - `care`: after a process ended in the middle of its work
//!
//! Offsets are stored after the commit, so losing one costs reading twice, never an effect twice: the inbox row of each event is in the
//! unit that handles it.

mod breaker;
mod care;
mod cloudevent;
mod gate;
mod queue;
mod record;
mod retries;
mod runner;
mod solve;
mod worker;

use crate::engine::{Engine, Registry};
use crate::kafka::{KafkaContext, client_config};
use crate::manifest::Start;
use crate::store::{Consumer as Consuming, Inbox, Presence, Scope};
use crate::telemetry::{Board, Metrics, lock};
use queue::Queue;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use runner::Runner;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use worker::Worker;

/// How far back the inbox keeps days ready, and how far ahead.
const INBOX_DAYS: (i32, i32) = (9, 2);

/// What the consumers need.
#[derive(Debug, Clone)]
pub struct KafkaTrigger {
    /// Runs the handlers.
    pub engine: Arc<Engine>,
    /// Says which handler is active.
    pub registry: Arc<Registry>,
    /// The brokers.
    pub brokers: Arc<str>,
    /// Says what is paused.
    pub board: Arc<Board>,
    /// Counts events.
    pub metrics: Arc<Metrics>,
}

/// A group and what it reads.
#[derive(Debug, Clone)]
struct Group {
    name: Arc<str>,
    handler: Arc<str>,
    /// Topic → the event types that the handler wants (all, if none are named).
    topics: BTreeMap<String, Option<Vec<String>>>,
    start: Start,
}

impl KafkaTrigger {
    /// Runs all consumer groups of the active handlers until `stop` turns true, and ends what is under way within `grace`.
    pub async fn run(self, stop: watch::Receiver<bool>, grace: Duration) -> anyhow::Result<()> {
        let groups = self.groups()?;
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_inbox_ready(Inbox::new(self.engine.pool().clone()), stop.clone()));
        let runner = Arc::new(Runner::new(self.clone()));
        tokio::spawn(Presence::new(self.engine.pool().clone(), runner.journal.owner()).hold());
        tasks.spawn(retries::run(runner.clone(), stop.clone(), grace));
        for group in groups {
            tasks.spawn(self.clone().consume(runner.clone(), group, stop.clone(), grace));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    fn groups(&self) -> anyhow::Result<Vec<Group>> {
        let mut groups: BTreeMap<String, Group> = BTreeMap::new();
        for handler in self.registry.handlers() {
            for topic in &handler.manifest.topics {
                let group = groups.entry(topic.group.clone()).or_insert_with(|| Group {
                    name: topic.group.as_str().into(),
                    handler: handler.name.clone(),
                    topics: BTreeMap::new(),
                    start: topic.start,
                });
                anyhow::ensure!(
                    group.start == topic.start,
                    "handler `{}`: the topics of group `{}` start differently; a group has one `start`",
                    handler.name,
                    topic.group
                );
                group.topics.insert(topic.name.clone(), topic.types.clone());
            }
        }
        Ok(groups.into_values().collect())
    }

    async fn consume(self, runner: Arc<Runner>, group: Group, mut stop: watch::Receiver<bool>, grace: Duration) {
        let Some(scope) = self.scope(&group.name, &mut stop).await else {
            return;
        };
        let partitions = Arc::new(Partitions::default());
        let consumer = match self.subscribe(&group, &partitions) {
            Ok(consumer) => Arc::new(consumer),
            Err(error) => {
                tracing::error!(group = &*group.name, %error, "the consumer cannot be made");
                return;
            }
        };
        let consuming = Consuming { scope, group: group.name.clone(), handler: group.handler.clone() };
        let group = Arc::new(group);
        let mut workers = JoinSet::new();
        while !*stop.borrow() {
            tokio::select! {
                read = consumer.recv() => match read {
                    Ok(message) => {
                        let key = (message.topic().to_owned(), message.partition());
                        let queue = partitions.queue(&key, || {
                            let queue = Arc::new(Queue::new(consumer.clone(), key.0.clone(), key.1));
                            let worker = Worker::new(runner.clone(), group.clone(), consuming.clone(), queue.clone());
                            workers.spawn(worker.run());
                            queue
                        });
                        queue.push(record::detach(&message));
                    }
                    Err(error) => self.read_failed(&group, &error, &mut stop).await,
                },
                Some(_) = workers.join_next() => {}
                _ = stop.changed() => {}
            }
        }
        partitions.close_all();
        let ended = tokio::time::timeout(grace, async { while workers.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(group = &*group.name, "batches under way did not end in time; they are rolled back and run again");
        }
        // Blocking, and the offsets that are stored would be read again at worst.
        let _ = tokio::task::spawn_blocking(move || consumer.commit_consumer_state(CommitMode::Sync)).await;
    }

    /// The group's scope in the inbox; waits for the database, `None` when stopped first.
    async fn scope(&self, group: &str, stop: &mut watch::Receiver<bool>) -> Option<Scope> {
        let inbox = Inbox::new(self.engine.pool().clone());
        while !*stop.borrow() {
            match inbox.scope(group).await {
                Ok(scope) => return Some(scope),
                Err(error) => {
                    tracing::warn!(group, %error, "the consumer waits for the database");
                    let _ = tokio::time::timeout(Duration::from_secs(1), stop.changed()).await;
                }
            }
        }
        None
    }

    fn subscribe(&self, group: &Group, partitions: &Arc<Partitions>) -> Result<StreamConsumer<GroupContext>, KafkaError> {
        let mut config = client_config(&self.brokers);
        config
            .set("group.id", &*group.name)
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("auto.offset.reset", if group.start == Start::Latest { "latest" } else { "earliest" })
            .set("enable.auto.commit", "true")
            .set("auto.commit.interval.ms", "1000")
            .set("enable.auto.offset.store", "false")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "2000")
            // What librdkafka reads ahead of us: bounded by bytes, whatever the record's size.
            .set("queued.min.messages", "2000")
            .set("queued.max.messages.kbytes", "8192")
            .set("fetch.message.max.bytes", "2097152")
            .set("fetch.wait.max.ms", "500");
        let kafka = KafkaContext { name: "consumers", board: self.board.clone(), brokers: self.brokers.clone() };
        let context = GroupContext { kafka, group: group.name.clone(), partitions: partitions.clone() };
        let consumer: StreamConsumer<GroupContext> = config.create_with_context(context)?;
        consumer.subscribe(&group.topics.keys().map(String::as_str).collect::<Vec<_>>())?;
        Ok(consumer)
    }

    async fn read_failed(&self, group: &Group, error: &KafkaError, stop: &mut watch::Receiver<bool>) {
        let group = &*group.name;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                tracing::warn!(group, %error, "a topic does not exist yet; `tidemill topics apply` makes the topics of the manifests");
            }
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::AllBrokersDown) => {}
            _ => tracing::warn!(group, %error, "reading failed; trying again"),
        }
        let _ = tokio::time::timeout(Duration::from_millis(500), stop.changed()).await;
    }
}

/// Makes the inbox's partitions ahead of time.
async fn keep_inbox_ready(inbox: Inbox, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let wait = match inbox.prepare(INBOX_DAYS.0, INBOX_DAYS.1).await {
            Ok(()) => Duration::from_secs(3_600),
            Err(error) => {
                tracing::warn!(%error, "the inbox's days cannot be prepared; trying again");
                Duration::from_secs(5)
            }
        };
        let _ = tokio::time::timeout(wait, stop.changed()).await;
    }
}

/// The partitions that this consumer has, with their queues.
#[derive(Default)]
struct Partitions {
    queues: Mutex<HashMap<(String, i32), Arc<Queue>>>,
}

impl Partitions {
    fn queue(&self, key: &(String, i32), make: impl FnOnce() -> Arc<Queue>) -> Arc<Queue> {
        lock(&self.queues).entry(key.clone()).or_insert_with(make).clone()
    }

    fn close(&self, topic: &str, partition: i32) {
        if let Some(queue) = lock(&self.queues).remove(&(topic.to_owned(), partition)) {
            queue.close();
        }
    }

    fn close_all(&self) {
        lock(&self.queues).drain().for_each(|(_, queue)| queue.close());
    }
}

struct GroupContext {
    kafka: KafkaContext,
    group: Arc<str>,
    partitions: Arc<Partitions>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.kafka.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let list = |partitions: &rdkafka::TopicPartitionList| {
            partitions.elements().iter().map(|e| format!("{}[{}]", e.topic(), e.partition())).collect::<Vec<_>>().join(" ")
        };
        match rebalance {
            Rebalance::Assign(partitions) => {
                // librdkafka keeps an application's pause over a revoke; what comes back begins unpaused.
                let _ = consumer.resume(partitions);
                self.kafka.board.clear("consumers");
                tracing::info!(group = &*self.group, partitions = list(partitions), "partitions assigned");
            }
            Rebalance::Revoke(partitions) => {
                tracing::info!(group = &*self.group, partitions = list(partitions), "partitions revoked");
                for element in partitions.elements() {
                    self.partitions.close(element.topic(), element.partition());
                    self.kafka.board.resume(&self.group, element.topic(), element.partition());
                }
            }
            Rebalance::Error(error) => tracing::warn!(group = &*self.group, %error, "a rebalance failed"),
        }
    }
}
