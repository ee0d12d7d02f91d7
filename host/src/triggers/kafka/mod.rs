//! Kafka topics: one consumer for each generation of each consumer group, one worker for each of its partitions.
//!
//! - `record`: a record, detached from librdkafka and decoded
//! - `cloudevent`: record → CloudEvent, structured or binary
//! - `queue`: what a partition has read and not yet handled
//! - `pump`: from librdkafka's queue of a partition into ours, as long as there is room
//! - `worker`: batches of one partition, one at a time, into the handler
//! - `solve`: from a batch that fails to the event at fault
//! - `retries`: events that wait in the database, when their time has come
//! - `runner`: what both share: running a handler, and writing a failure down
//! - `gate`, `breaker`: waiting while the host's own parts, or a whole revision, fail
//! - `care`: after a process ended in the middle of its work
//! - `group`: the receive loop of a consumer, and its end
//! - `assign`: the partitions that a consumer has, and rebalances
//! - `places`: where a partition begins or goes on, and whether that place is still in the log
//! - `generations`: which consumers run; when a building generation takes over
//! - `upkeep`: the inbox's days
//! - `deliver`: records that no broker brings, for tests of handlers
//!
//! Offsets are stored after the commit, so losing one costs reading twice, never an effect twice: the inbox row of each event is in the
//! unit that handles it.

mod assign;
mod breaker;
mod care;
mod cloudevent;
mod deliver;
mod gate;
mod generations;
mod group;
mod places;
mod pump;
mod queue;
mod record;
mod retries;
mod runner;
mod solve;
mod upkeep;
mod worker;

pub use deliver::{Delivered, Delivery};

use crate::config::KafkaAccess;
use crate::engine::{Engine, Registry};
use crate::manifest::Start;
use crate::store::{Generation, InboxDays, Presence};
use crate::telemetry::{Board, Metrics, PartitionLabels};
use assign::GroupContext;
use generations::Generations;
use runner::Runner;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use upkeep::Upkeep;

/// What is cut off at the end of the grace period may take so long to give up its place or claim.
const CUT: Duration = Duration::from_secs(2);

/// What the consumers need.
#[derive(Debug, Clone)]
pub struct KafkaTrigger {
    /// Runs the handlers.
    pub engine: Arc<Engine>,
    /// Says which handler is active.
    pub registry: Arc<Registry>,
    /// Where Kafka is and how to get in.
    pub kafka: Arc<KafkaAccess>,
    /// Says what is paused.
    pub board: Arc<Board>,
    /// Counts events.
    pub metrics: Arc<Metrics>,
    /// Says which events are too old to be told from handled ones.
    pub days: InboxDays,
}

/// A generation of a group, and what it reads. Which types of events it wants is the running revision's word, each time.
#[derive(Debug, Clone)]
struct Group {
    /// As the manifest names it.
    name: Arc<str>,
    /// As the brokers know this generation.
    id: Arc<str>,
    handler: Arc<str>,
    /// Topic → where the group begins in it.
    topics: BTreeMap<String, Start>,
}

impl Group {
    /// The same group as one of its generations.
    fn generation(&self, generation: &Generation) -> Self {
        Self { id: generation.group_id().into(), ..self.clone() }
    }

    /// Whether a consumer of one can go on as the other: a deploy that leaves the topics as they are leaves the consumer alone.
    fn reads_the_same(&self, other: &Self) -> bool {
        let topics = |group: &Self| group.topics.keys().cloned().collect::<Vec<_>>();
        (&self.id, &self.handler, topics(self)) == (&other.id, &other.handler, topics(other))
    }
}

impl KafkaTrigger {
    /// Runs all consumer groups of the active handlers until `stop` turns true. What is under way then ends within `grace` or is rolled back;
    /// the offsets of all that is done are committed soon after.
    pub async fn run(self, mut stop: watch::Receiver<bool>, grace: Duration) {
        let upkeep = Upkeep::new(&self);
        // An event of a day without a partition lies in the default one for good.
        if upkeep.first(&mut stop).await {
            let runner = Arc::new(Runner::new(self));
            let pool = runner.trigger.engine.pool().clone();
            tokio::spawn(Presence::new(pool, runner.journal.owner()).hold());
            let upkeep = tokio::spawn(upkeep.run(stop.clone()));
            let retries = tokio::spawn(retries::run(runner.clone(), stop.clone(), grace));
            Generations::new(runner, grace).run(stop).await;
            let _ = tokio::join!(upkeep, retries);
        }
    }

    /// The groups of the active handlers that do not rest, as their first generation.
    fn groups(&self) -> BTreeMap<Arc<str>, Group> {
        let mut groups: BTreeMap<Arc<str>, Group> = BTreeMap::new();
        for handler in self.registry.running() {
            for topic in &handler.manifest.topics {
                let name: Arc<str> = topic.group.as_str().into();
                let group = groups.entry(name.clone()).or_insert_with(|| Group {
                    name: name.clone(),
                    id: name,
                    handler: handler.name.clone(),
                    topics: BTreeMap::new(),
                });
                group.topics.insert(topic.name.clone(), topic.start);
            }
        }
        groups
    }

    /// Says that events of a batch were not run, since the inbox has forgotten their days.
    fn report_expired(&self, labels: &PartitionLabels, count: u64) {
        if count == 0 {
            return;
        }
        let PartitionLabels { group, topic, partition } = labels;
        let total = self.metrics.events_expired.get_or_create(labels).inc_by(count) + count;
        tracing::error!(
            group,
            topic,
            partition,
            count,
            "events are so old that the inbox has forgotten whether they were handled: not run"
        );
        self.board.note(
            "expired",
            format!(
                "{total} events of {topic}[{partition}] were not run by group {group}, the last ones at {:.0}: their records are older than \
                 the inbox reaches back, so nobody can tell whether they were handled before",
                jiff::Timestamp::now()
            ),
        );
    }
}
