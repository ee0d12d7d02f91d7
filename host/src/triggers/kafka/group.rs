//! The receive loop of one consumer, and its end.

use super::assign::{GroupContext, Held, Lane, Turn, assigned};
use super::places::{Gone, Place, Places, positions};
use super::pump::Pump;
use super::queue::Queue;
use super::runner::{Cut, Runner};
use super::worker::Worker;
use super::{CUT, Group, KafkaTrigger};
use crate::kafka::KafkaContext;
use crate::kafka::offsets::{TopicPartition, list};
use crate::store::{Consumer as Consuming, Order, Scope, Scopes};
use futures_util::StreamExt;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::Offset;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

/// How long the last offsets may take to be committed, and the group to be left.
const PARTING: Duration = Duration::from_secs(4);
/// Between two tries to ask a broker or a database that is away.
const AGAIN: Duration = Duration::from_millis(500);
/// How long to wait for a pump whose queue is closed.
const SOON: Duration = Duration::from_millis(5);
/// How often one and the same error is logged.
const SAY: Duration = Duration::from_secs(10);
/// How often paused partitions are put onto the board again.
const SHOW: Duration = Duration::from_secs(2);
/// How often partitions are looked at that may be read at a place outside their log without a word: librdkafka forgets what it had to say of a
/// partition that is paused at that moment, and does not read it again.
const LOOK: Duration = Duration::from_secs(10);

/// A consumer: one generation of a group in this process.
pub(super) struct Reader {
    runner: Arc<Runner>,
    group: Arc<Group>,
    scope: Scope,
    client: Arc<StreamConsumer<GroupContext>>,
    held: Arc<Held>,
    places: Places,
    stop: watch::Receiver<bool>,
    /// Of its workers alone: it may end while all others go on.
    cut: Cut,
    /// The workers and pumps of its partitions.
    workers: JoinSet<()>,
    /// The pump that was begun last of each partition.
    pumps: HashMap<TopicPartition, AbortHandle>,
    /// What librdkafka says of single partitions instead of a record.
    errors: (mpsc::Sender<KafkaError>, mpsc::Receiver<KafkaError>),
    errands: JoinSet<Errand>,
    looking: bool,
    checking: bool,
    /// The error that was logged last.
    said: Option<(KafkaError, Instant)>,
}

/// What was asked beside the loop, and is put into effect in it.
enum Errand {
    /// Partitions may begin, or not.
    Placed(Vec<(Turn, Place)>),
    /// Partitions turned out to be read at a place that is gone.
    Looked(Vec<(Turn, Gone)>),
    /// The same, without a word of librdkafka's before.
    Checked(Vec<(Turn, Gone)>),
    /// It came to nothing.
    Nothing,
}

/// Whatever ends a reader, a panic as well: what its partitions hold of the consumer is let go, or the group would wait for it.
struct Finish(Arc<Held>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl Reader {
    /// Makes the consumer; it connects by itself, whenever there is a broker.
    pub(super) fn new(runner: Arc<Runner>, group: Group, scope: Scope, stop: watch::Receiver<bool>) -> Result<Self, KafkaError> {
        let group = Arc::new(group);
        let trigger = &runner.trigger;
        let held = Arc::new(Held::new(group.id.clone(), trigger.board.clone(), trigger.metrics.clone()));
        let client = Arc::new(subscribe(trigger, &group, &held)?);
        let scopes = Scopes::new(trigger.engine.pool().clone());
        let places = Places { client: client.clone(), scopes, scope, group: group.clone(), held: held.clone() };
        let (workers, pumps, errands) = (JoinSet::new(), HashMap::new(), JoinSet::new());
        let (cut, errors) = (Cut::new(), mpsc::channel(1));
        let (looking, checking, said) = (false, false, None);
        Ok(Self {
            runner,
            group,
            scope,
            client,
            held,
            places,
            stop,
            cut,
            workers,
            pumps,
            errors,
            errands,
            looking,
            checking,
            said,
        })
    }

    /// Reads until told to stop; what is under way then ends within `grace` or is rolled back.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>, grace: Duration) {
        let (client, held, mut stop) = (self.client.clone(), self.held.clone(), self.stop.clone());
        let _whatever = Finish(held.clone());
        let mut show = tokio::time::interval(SHOW);
        let mut look = tokio::time::interval(LOOK);
        let mut records = client.stream();
        while !*stop.borrow() {
            tokio::select! {
                Some(read) = records.next() => match read {
                    Ok(message) => self.astray((message.topic().to_owned(), message.partition())),
                    Err(error) => self.failed(&error),
                },
                Some(error) = self.errors.1.recv() => self.failed(&error),
                () = held.assigned.notified() => self.begin(),
                Some(done) = self.errands.join_next() => self.settle(done.unwrap_or(Errand::Nothing)),
                Some(ended) = self.workers.join_next() => if let Err(error) = ended {
                    // Its partition would stand still, or stay unread: the whole group begins anew.
                    tracing::error!(group = &*self.group.id, %error, "the worker of a partition has failed");
                    break;
                },
                Some(order) = orders.recv() => self.obey(order),
                _ = show.tick() => held.show_gone(),
                _ = look.tick() => self.check(),
                changed = stop.changed() => if changed.is_err() {
                    // Whoever would say it is gone.
                    break;
                },
            }
        }
        drop(records);
        drop((client, held));
        self.end(grace).await;
    }

    /// Begins to hand over what librdkafka reads of a partition.
    fn open(&mut self, of: &TopicPartition, source: StreamPartitionQueue<GroupContext>) -> Lane {
        let queue = Arc::new(Queue::new(self.client.clone(), of.0.as_str().into(), of.1));
        let Group { name, handler, .. } = &*self.group;
        let consuming = Consuming { scope: self.scope, group: name.clone(), handler: handler.clone() };
        let worker = Worker::new(self.runner.clone(), self.group.clone(), consuming, queue.clone(), self.cut.clone());
        let pump = Pump { runner: self.runner.clone(), source, queue: queue.clone(), errors: self.errors.0.clone() };
        self.pumps.insert(of.clone(), self.workers.spawn(pump.run()));
        let (end, ended) = oneshot::channel();
        let lane = Lane { queue: queue.clone(), ended };
        self.workers.spawn(async move {
            if queue.begun().await {
                worker.run().await;
            }
            drop(end);
        });
        lane
    }

    /// Asks where new partitions begin, for as long as they are ours.
    fn begin(&mut self) {
        self.errands.spawn(begin(self.places.clone(), self.stop.clone(), self.held.take_new()));
    }

    /// Takes a partition away from its worker and lets it go on where an operator says.
    fn obey(&mut self, order: Order) {
        let Some((turn, lane)) = self.take_back((order.topic.clone(), order.partition)) else { return };
        let (places, stop) = (self.places.clone(), self.stop.clone());
        self.errands.spawn(async move {
            if let Some(lane) = lane {
                // Its batch under way ends before the partition goes on.
                let _ = lane.ended.await;
            }
            while places.held.is(&turn) && !*stop.borrow() {
                match places.obey(&turn, &order).await {
                    Ok(Some(place)) => {
                        let (topic, partition, to, by) = (&order.topic, order.partition, order.target, &order.by);
                        tracing::info!(group = &*places.group.id, topic, partition, %to, by, "told where to go on");
                        return Errand::Placed(vec![(turn, place)]);
                    }
                    // Another word has come meanwhile: as if it were assigned anew, until that is heard.
                    Ok(None) => return begin(places, stop, vec![turn]).await,
                    Err(error) => wait(&places.group, &error).await,
                }
            }
            Errand::Nothing
        });
    }

    /// A record that has not come by its partition's own queue: librdkafka has made a new one. As if the partition were assigned anew.
    fn astray(&mut self, of: TopicPartition) {
        tracing::info!(group = &*self.group.id, topic = of.0, partition = of.1, "the client's queue of a partition was replaced");
        let Some((turn, lane)) = self.take_back(of) else { return };
        let (places, stop) = (self.places.clone(), self.stop.clone());
        self.errands.spawn(async move {
            if let Some(lane) = lane {
                let _ = lane.ended.await;
            }
            begin(places, stop, vec![turn]).await
        });
    }

    /// Takes a partition from librdkafka and from its worker, whose batch under way ends.
    fn take_back(&self, of: TopicPartition) -> Option<(Turn, Option<Lane>)> {
        let taken = self.held.turn(&of)?;
        if let Err(error) = assigned(&*self.client, &[of]).and_then(|list| self.client.incremental_unassign(&list)) {
            tracing::warn!(group = &*self.group.id, %error, "a partition cannot be taken back");
        }
        Some(taken)
    }

    fn settle(&mut self, errand: Errand) {
        match errand {
            Errand::Placed(placed) => {
                for (turn, place) in placed {
                    match place {
                        _ if !self.held.is(&turn) => {}
                        Place::There(offset) => self.read(&turn, offset),
                        Place::Gone(gone) => self.held.gone(&turn, &gone),
                    }
                }
            }
            Errand::Looked(gone) => {
                self.looking = false;
                if gone.is_empty() {
                    self.restart();
                }
                self.gone(&gone);
            }
            Errand::Checked(gone) => {
                self.checking = false;
                self.gone(&gone);
            }
            Errand::Nothing => {}
        }
    }

    /// librdkafka does not read them; they stay assigned, so that what is in their queues can store its offsets.
    fn gone(&self, gone: &[(Turn, Gone)]) {
        gone.iter().filter(|(turn, _)| self.held.is(turn)).for_each(|(turn, gone)| self.held.gone(turn, gone));
    }

    /// Gives a partition to librdkafka; if it is not taken, once more after a while.
    fn read(&mut self, turn: &Turn, offset: i64) {
        let again = vec![(turn.clone(), Place::There(offset))];
        if self.pumps.get(&turn.partition).is_some_and(|pump| !pump.is_finished()) {
            // Its queue is closed. It has to let go of librdkafka's before another takes that.
            self.errands.spawn(async move {
                tokio::time::sleep(SOON).await;
                Errand::Placed(again)
            });
            return;
        }
        // librdkafka keeps a pause over a revoke; what comes back begins unpaused.
        let _ = list(std::slice::from_ref(&turn.partition), |_| Offset::Invalid).and_then(|list| self.client.resume(&list));
        let (topic, partition) = &turn.partition;
        // The queue first: what is read before would come by the consumer's own.
        let none = || KafkaError::Subscription("the client has no queue for it".to_owned());
        let begun = self.client.split_partition_queue(topic, *partition).ok_or_else(none).and_then(|source| {
            let list = list(std::slice::from_ref(&turn.partition), |_| Offset::Offset(offset))?;
            self.client.incremental_assign(&list).map(|()| source)
        });
        match begun {
            Ok(source) => {
                let lane = self.open(&turn.partition, source);
                self.held.open(turn, offset, lane);
                tracing::debug!(group = &*self.group.id, topic, partition, offset, "reading");
            }
            Err(error) => {
                tracing::error!(group = &*self.group.id, topic, partition, %error, "the partition cannot be read; trying again");
                self.errands.spawn(async move {
                    tokio::time::sleep(AGAIN).await;
                    Errand::Placed(again)
                });
            }
        }
    }

    /// Never waits: while brokers are away errors come faster than any wait would let them go, and what the brokers say when they are back stands
    /// behind them.
    fn failed(&mut self, error: &KafkaError) {
        let group = &*self.group.id;
        let known = self.said.as_ref().is_some_and(|(said, at)| said == error && at.elapsed() < SAY);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset) => return self.look(),
            _ if known => return,
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {
                tracing::warn!(group, %error, "a topic does not exist yet; `tidemill topics apply` makes the topics of the manifests");
            }
            // Said by the client's context.
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SSL,
            ) => return,
            _ => tracing::warn!(group, %error, "reading failed; trying again"),
        }
        self.said = Some((error.clone(), Instant::now()));
    }

    /// Looks whether a partition is read at a place that is gone.
    fn check(&mut self) {
        if !std::mem::replace(&mut self.checking, true) {
            let places = self.places.clone();
            // A broker that is away is said elsewhere.
            self.errands.spawn(async move { Errand::Checked(places.check().await.unwrap_or_default()) });
        }
    }

    /// librdkafka has stopped reading a partition whose place is gone, and does not say which.
    fn look(&mut self) {
        if std::mem::replace(&mut self.looking, true) {
            return;
        }
        let (places, stop) = (self.places.clone(), self.stop.clone());
        self.errands.spawn(async move {
            while !*stop.borrow() {
                match places.look().await {
                    Ok(gone) => return Errand::Looked(gone),
                    Err(error) => wait(&places.group, &error).await,
                }
            }
            Errand::Nothing
        });
    }

    /// Every partition is at a place within its log, and one of them is not read any more: the log was cut off and written anew behind the
    /// reader, or the broker has changed its mind; or it is one that is known to be gone. All go on where they are.
    fn restart(&self) {
        if !self.held.any_gone() {
            tracing::error!(
                group = &*self.group.id,
                "a broker refused an offset that is in its log: a log may have been cut off and written anew behind the group; it reads on"
            );
        }
        let restarted = positions(&self.client, &self.held).and_then(|all| {
            let names: Vec<TopicPartition> = all.iter().map(|(turn, _)| turn.partition.clone()).collect();
            self.client.incremental_unassign(&list(&names, |_| Offset::Invalid)?)?;
            let mut again = TopicPartitionList::new();
            for (turn, offset) in &all {
                again.add_partition_offset(&turn.partition.0, turn.partition.1, Offset::Offset(*offset))?;
            }
            self.client.incremental_assign(&again)?;
            // Until a record of it has come, librdkafka does not know again where it is.
            all.iter().for_each(|(turn, offset)| self.held.read(turn, *offset));
            Ok(())
        });
        if let Err(error) = restarted {
            tracing::error!(group = &*self.group.id, %error, "the partitions cannot be read again");
        }
    }

    /// No more work; what is under way ends, its offsets are committed, and the group is left.
    async fn end(self, grace: Duration) {
        let Self { group, client, held, places, cut, errors, mut workers, mut errands, .. } = self;
        held.finish();
        drop((places, errors));
        let mut over = async || while workers.join_next().await.is_some() {};
        if tokio::time::timeout(grace, over()).await.is_err() {
            tracing::warn!(group = &*group.id, "batches under way did not end in time; they are rolled back and run again");
            cut.now();
            let _ = tokio::time::timeout(CUT, over()).await;
        }
        drop(workers);
        let parting = async {
            while errands.join_next().await.is_some() {}
            // Dropping the last one leaves the group, which blocks like the commit.
            tokio::task::spawn_blocking(move || commit_and_leave(client)).await
        };
        match tokio::time::timeout(PARTING, parting).await {
            Ok(Ok(Ok(()))) => tracing::info!(group = &*group.id, "left the group; all offsets are committed"),
            Ok(Ok(Err(error))) => {
                tracing::warn!(group = &*group.id, %error, "the last offsets are not committed; some events are read again")
            }
            _ => tracing::warn!(group = &*group.id, "the last offsets may not be committed; some events may be read again"),
        }
    }
}

fn commit_and_leave(client: Arc<StreamConsumer<GroupContext>>) -> KafkaResult<()> {
    match client.commit_consumer_state(CommitMode::Sync) {
        // All of them are.
        Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset) => Ok(()),
        done => done,
    }
}

async fn begin(places: Places, stop: watch::Receiver<bool>, mut turns: Vec<Turn>) -> Errand {
    while !turns.is_empty() && !*stop.borrow() {
        match places.begin(&turns).await {
            Ok(placed) => return Errand::Placed(placed),
            Err(error) => wait(&places.group, &error).await,
        }
        turns.retain(|turn| places.held.is(turn));
    }
    Errand::Nothing
}

async fn wait(group: &Group, error: &str) {
    tracing::warn!(group = &*group.id, error, "the consumer cannot ask where to read; trying again");
    tokio::time::sleep(AGAIN).await;
}

fn subscribe(trigger: &KafkaTrigger, group: &Group, held: &Arc<Held>) -> Result<StreamConsumer<GroupContext>, KafkaError> {
    let kafka = KafkaContext::new("consumers", trigger.board.clone(), trigger.kafka.clone());
    let mut config = kafka.client_config();
    config
        .set("group.id", &*group.id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // Nothing is skipped silently: partitions begin at an explicit offset, and one that is gone is an error.
        .set("auto.offset.reset", "error")
        .set("enable.auto.commit", "true")
        .set("auto.commit.interval.ms", "1000")
        .set("enable.auto.offset.store", "false")
        .set("session.timeout.ms", "6000")
        .set("heartbeat.interval.ms", "2000")
        // What librdkafka reads ahead of us in each partition: not much, and bounded by bytes. It looks again soon after it had enough: by default it
        // would rest for a second, and the worker with it.
        .set("queued.min.messages", "100")
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.message.max.bytes", "3145728")
        // A record that waits in librdkafka keeps the whole answer in memory that it came in, with those of other partitions.
        .set("fetch.max.bytes", "3145728")
        // One request at a time is on its way to a broker. One for idle partitions alone holds up a partition that has had enough for a while.
        .set("fetch.wait.max.ms", "100");
    let context = GroupContext { kafka, group: group.id.clone(), held: held.clone() };
    let consumer: StreamConsumer<GroupContext> = config.create_with_context(context)?;
    consumer.subscribe(&group.topics.keys().map(String::as_str).collect::<Vec<_>>())?;
    Ok(consumer)
}
