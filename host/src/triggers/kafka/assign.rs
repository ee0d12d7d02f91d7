//! The partitions that a consumer has, and rebalances.
//!
//! librdkafka gets a partition only when it is known where to begin: the callback of a rebalance takes note of what was assigned, assigns
//! nothing yet and returns at once, so that no broker is waited for in it. A partition that cannot begin stays the group's all the same,
//! and the others go on. All changes to the assignment happen in the task of the receive loop, in which the callback runs too.

use super::places::Gone;
use super::queue::Queue;
use crate::kafka::KafkaContext;
use crate::kafka::offsets::{TopicPartition, list};
use crate::telemetry::{Board, Metrics, PartitionLabels, PausedPartition, lock};
use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::topic_partition_list::Offset;
use rdkafka::types::RDKafkaRespErr;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, oneshot};

/// The partitions of one consumer.
pub(super) struct Held {
    group: Arc<str>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Rung when partitions were assigned.
    pub(super) assigned: Notify,
}

#[derive(Default)]
struct State {
    partitions: HashMap<TopicPartition, Partition>,
    /// Counts what happened to partitions, so that what was asked before can be told from what is now.
    turns: u64,
}

struct Partition {
    turn: u64,
    stage: Stage,
    lane: Option<Lane>,
}

enum Stage {
    /// Assigned; nobody has asked yet where it begins.
    New,
    /// Somebody asks.
    Asked,
    /// It is read, from this offset on.
    Read(i64),
    /// Its place is not in the log any more.
    Gone(PausedPartition),
}

/// A queue with its worker.
pub(super) struct Lane {
    pub(super) queue: Arc<Queue>,
    /// Closes when the worker has ended.
    pub(super) ended: oneshot::Receiver<()>,
}

/// A partition at a moment: whether it is still the same is asked with [`Held::is`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) partition: TopicPartition,
    turn: u64,
}

impl Held {
    pub(super) fn new(group: Arc<str>, board: Arc<Board>, metrics: Arc<Metrics>) -> Self {
        Self { group, board, metrics, state: Mutex::default(), assigned: Notify::new() }
    }

    /// Takes the new partitions, to ask where they begin.
    pub(super) fn take_new(&self) -> Vec<Turn> {
        let mut state = lock(&self.state);
        let new = state.partitions.iter_mut().filter(|(_, partition)| matches!(partition.stage, Stage::New));
        new.map(|(name, partition)| {
            partition.stage = Stage::Asked;
            Turn { partition: name.clone(), turn: partition.turn }
        })
        .collect()
    }

    /// Whether nothing has happened to the partition since.
    pub(super) fn is(&self, turn: &Turn) -> bool {
        lock(&self.state).partitions.get(&turn.partition).is_some_and(|partition| partition.turn == turn.turn)
    }

    /// The partition is read from here on, by its new worker.
    pub(super) fn open(&self, turn: &Turn, begin: i64, lane: Lane) {
        self.stage(turn, Stage::Read(begin));
        match lock(&self.state).partitions.get_mut(&turn.partition).filter(|partition| partition.turn == turn.turn) {
            Some(partition) => partition.lane = Some(lane),
            None => lane.queue.close(),
        }
    }

    /// The partition is read from here on.
    pub(super) fn read(&self, turn: &Turn, begin: i64) {
        self.stage(turn, Stage::Read(begin));
    }

    /// The partition's place is not in the log; says so wherever a person may look.
    pub(super) fn gone(&self, turn: &Turn, gone: &Gone) {
        let (topic, partition) = &turn.partition;
        let reason = gone.reason(&self.group, topic, *partition);
        tracing::error!(
            group = &*self.group,
            topic,
            partition,
            offset = gone.offset,
            missed = gone.missed(),
            "the partition is paused: {reason}"
        );
        let entry = PausedPartition {
            group: self.group.to_string(),
            topic: topic.clone(),
            partition: *partition,
            offset: gone.offset,
            reason,
            since: format!("{:.3}", jiff::Timestamp::now()),
            failures: 1,
            retry_in_ms: 0,
        };
        self.stage(turn, Stage::Gone(entry));
        let labels = self.labels(&turn.partition);
        self.metrics.records_missed.get_or_create(&labels).set(gone.missed());
        self.show_gone();
    }

    /// Puts the partitions whose place is gone onto the board; a worker that ends its queue may have taken one down.
    pub(super) fn show_gone(&self) {
        for (name, partition) in &lock(&self.state).partitions {
            if let Stage::Gone(entry) = &partition.stage {
                self.metrics.partition_paused.get_or_create(&self.labels(name)).set(1);
                self.board.pause(entry.clone());
            }
        }
    }

    /// Whether a partition waits for a word.
    pub(super) fn any_gone(&self) -> bool {
        lock(&self.state).partitions.values().any(|partition| matches!(partition.stage, Stage::Gone(_)))
    }

    fn stage(&self, turn: &Turn, stage: Stage) {
        if let Some(partition) = lock(&self.state).partitions.get_mut(&turn.partition)
            && partition.turn == turn.turn
        {
            if matches!(partition.stage, Stage::Gone(_)) {
                self.take_down(&turn.partition);
            }
            partition.stage = stage;
        }
    }

    /// Takes a partition from its worker, to go on elsewhere: its new turn, and the lane that ends. None while somebody asks where it begins,
    /// and for one that is not ours.
    pub(super) fn turn(&self, of: &TopicPartition) -> Option<(Turn, Option<Lane>)> {
        let mut state = lock(&self.state);
        state.turns += 1;
        let turn = state.turns;
        let partition = state.partitions.get_mut(of).filter(|p| matches!(p.stage, Stage::Read(_) | Stage::Gone(_)))?;
        if matches!(partition.stage, Stage::Gone(_)) {
            self.take_down(of);
        }
        partition.turn = turn;
        partition.stage = Stage::Asked;
        let lane = partition.lane.take();
        if let Some(lane) = &lane {
            lane.queue.close();
        }
        Some((Turn { partition: of.clone(), turn }, lane))
    }

    /// Whether records of the partition that nobody has taken yet may be in memory.
    pub(super) fn is_full(&self, turn: &Turn) -> bool {
        let state = lock(&self.state);
        state
            .partitions
            .get(&turn.partition)
            .and_then(|partition| partition.lane.as_ref())
            .is_some_and(|lane| lane.queue.is_full())
    }

    /// The partitions that are read, with the offset at which each was begun.
    pub(super) fn all_read(&self) -> Vec<(Turn, i64)> {
        let state = lock(&self.state);
        let read = state.partitions.iter().filter_map(|(name, partition)| match partition.stage {
            Stage::Read(begin) => Some((Turn { partition: name.clone(), turn: partition.turn }, begin)),
            _ => None,
        });
        read.collect()
    }

    /// The host stops: nothing more is handed out, but what is under way may store its offset.
    pub(super) fn finish(&self) {
        let partitions = std::mem::take(&mut lock(&self.state).partitions);
        for (name, partition) in partitions {
            if let Some(lane) = partition.lane {
                lane.queue.finish();
            }
            self.take_down(&name);
        }
    }

    fn assign(&self, partitions: &TopicPartitionList) {
        let mut state = lock(&self.state);
        for name in names(partitions) {
            state.turns += 1;
            let partition = Partition { turn: state.turns, stage: Stage::New, lane: None };
            if let Some(lane) = state.partitions.insert(name, partition).and_then(|before| before.lane) {
                lane.queue.close();
            }
        }
        drop(state);
        self.assigned.notify_one();
    }

    fn revoke(&self, partitions: &TopicPartitionList) {
        for name in names(partitions) {
            let gone = lock(&self.state).partitions.remove(&name);
            if let Some(lane) = gone.and_then(|partition| partition.lane) {
                lane.queue.close();
            }
            self.take_down(&name);
        }
    }

    /// It is not for us any more to say that the partition is paused.
    fn take_down(&self, of: &TopicPartition) {
        self.board.resume(&self.group, &of.0, of.1);
        let labels = self.labels(of);
        self.metrics.partition_paused.get_or_create(&labels).set(0);
        self.metrics.records_missed.get_or_create(&labels).set(0);
    }

    fn labels(&self, of: &TopicPartition) -> PartitionLabels {
        PartitionLabels { group: self.group.to_string(), topic: of.0.clone(), partition: of.1 }
    }
}

fn names(partitions: &TopicPartitionList) -> Vec<TopicPartition> {
    partitions.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// What librdkafka calls for one consumer.
pub(super) struct GroupContext {
    pub(super) kafka: KafkaContext,
    pub(super) group: Arc<str>,
    pub(super) held: Arc<Held>,
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.kafka.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.kafka.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.kafka.stats_raw(statistics);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let shown =
            names(partitions).iter().map(|(topic, partition)| format!("{topic}[{partition}]")).collect::<Vec<_>>().join(" ");
        let done = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                tracing::info!(group = &*self.group, partitions = shown, "partitions assigned");
                self.kafka.board.clear("consumers");
                self.held.assign(partitions);
                accept(consumer)
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                tracing::info!(group = &*self.group, partitions = shown, "partitions revoked");
                self.held.revoke(partitions);
                give_up(consumer, partitions)
            }
            _ => give_up(consumer, partitions),
        };
        if let Err(error) = done {
            tracing::warn!(group = &*self.group, %error, "a rebalance failed");
        }
    }
}

/// Lets the group go on, with no partition more than before.
fn accept(consumer: &BaseConsumer<GroupContext>) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_assign(&TopicPartitionList::new()),
        _ => consumer.assign(&TopicPartitionList::new()),
    }
}

/// Takes partitions back from librdkafka, which may not have been given all of them.
fn give_up(consumer: &BaseConsumer<GroupContext>, partitions: &TopicPartitionList) -> KafkaResult<()> {
    match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => consumer.incremental_unassign(&assigned(consumer, &names(partitions))?),
        _ => consumer.unassign(),
    }
}

/// Those of the partitions that librdkafka has.
pub(super) fn assigned(consumer: &impl Consumer<GroupContext>, of: &[TopicPartition]) -> KafkaResult<TopicPartitionList> {
    let has: BTreeSet<TopicPartition> = names(&consumer.assignment()?).into_iter().collect();
    let both: Vec<TopicPartition> = of.iter().filter(|partition| has.contains(*partition)).cloned().collect();
    list(&both, |_| Offset::Invalid)
}
