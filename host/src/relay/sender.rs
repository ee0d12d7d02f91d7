//! The relay's producers: one for the flow, one for rows that go alone.

use super::Relay;
use super::lanes::{Lanes, Murmur2};
use crate::kafka::KafkaContext;
use crate::store::OutboxRow;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;

/// What the broker said to a row.
pub(super) struct Delivery {
    pub(super) id: i64,
    pub(super) alone: bool,
    pub(super) generation: u64,
    /// The partition that has it, or why none has.
    pub(super) result: Result<i32, Refusal>,
}

/// Why a row did not get through.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) reason: String,
    /// Another row's failure took this one with it.
    pub(super) collateral: bool,
    /// All rows of the topic would fail in the same way.
    pub(super) whole_topic: bool,
    /// The local queue is full; nothing is wrong.
    pub(super) full: bool,
    /// The topic takes no batch of that size.
    pub(super) too_large: bool,
}

struct Deliveries {
    context: KafkaContext,
    murmur2: Murmur2,
    alone: bool,
    generation: u64,
    to: UnboundedSender<Delivery>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.context.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.context.stats_raw(statistics);
    }
}

impl ProducerContext<Murmur2> for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let result = match result {
            Ok(message) => Ok(message.partition()),
            Err((error, message)) => Err(refusal(error, message.topic())),
        };
        // The receiver is gone only when the flight has ended.
        let _ = self.to.send(Delivery { id: id as i64, alone: self.alone, generation: self.generation, result });
    }

    fn get_custom_partitioner(&self) -> Option<&Murmur2> {
        Some(&self.murmur2)
    }
}

/// Bytes of a batch at most, to begin with; as librdkafka has it.
const BATCH: usize = 1_000_000;

/// How long a producer is listened to in one go. The client waits for whole milliseconds, and then looks without a pause until the rest of one is
/// over; so that rest is as little as a wait is late. (rdkafka's own `ThreadedProducer` leaves nearly a millisecond of each tenth of a second: a
/// hundredth of a core, on a host that has nothing to do.)
const LISTEN: Duration = Duration::from_micros(100_050);

/// A producer, with the thread that hears what became of its rows.
struct Client {
    producer: Arc<BaseProducer<Deliveries, Murmur2>>,
    stop: Arc<AtomicBool>,
    listener: Option<thread::JoinHandle<()>>,
}

impl Client {
    fn new(producer: BaseProducer<Deliveries, Murmur2>) -> KafkaResult<Self> {
        let (producer, stop) = (Arc::new(producer), Arc::new(AtomicBool::new(false)));
        let (heard, stopped) = (producer.clone(), stop.clone());
        let listener = thread::Builder::new().name("relay listener".to_owned()).spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                heard.poll(LISTEN);
            }
        });
        let listener = listener.map_err(|error| KafkaError::ClientCreation(format!("no thread for it: {error}")))?;
        Ok(Self { producer, stop, listener: Some(listener) })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// A producer that may end at any time. Dropping it purges it: what it has not sent by then, it never will.
struct Mortal(Option<Client>);

impl Mortal {
    /// Ends the producer where it may block: it flushes for a while, though nothing is left in it.
    fn end(mut self) -> Option<JoinHandle<()>> {
        self.0.take().map(end)
    }
}

impl Drop for Mortal {
    fn drop(&mut self) {
        if let Some(client) = self.0.take() {
            end(client);
        }
    }
}

fn end(client: Client) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        client.producer.purge(PurgeConfig::default().queue().inflight());
        drop(client);
    })
}

/// Both producers. A restarted one ignores what its predecessor still says.
pub(super) struct Sender {
    flow: Mortal,
    flow_generation: u64,
    lone: Option<Mortal>,
    lone_generation: u64,
    murmur2: Murmur2,
    /// Of the flow.
    lanes: Lanes,
    /// Bytes of a batch of the flow at most.
    batch: usize,
    to: UnboundedSender<Delivery>,
    /// Those that were ended last.
    ending: Vec<JoinHandle<()>>,
}

impl Sender {
    pub(super) fn new(relay: &Relay, to: UnboundedSender<Delivery>) -> KafkaResult<Self> {
        let murmur2 = Murmur2::default();
        let flow = client(relay, &to, &murmur2, Kind::Flow(BATCH), 0)?;
        let lanes = Lanes::default();
        Ok(Self {
            flow,
            flow_generation: 0,
            lone: None,
            lone_generation: 0,
            murmur2,
            lanes,
            batch: BATCH,
            to,
            ending: Vec::new(),
        })
    }

    pub(super) fn generation(&self, alone: bool) -> u64 {
        if alone { self.lone_generation } else { self.flow_generation }
    }

    /// Ends a producer; what it has not sent, it never will.
    pub(super) fn restart(&mut self, relay: &Relay, alone: bool) -> KafkaResult<()> {
        let last = match alone {
            false => {
                self.flow_generation += 1;
                self.lanes.clear();
                let next = client(relay, &self.to, &self.murmur2, Kind::Flow(self.batch), self.flow_generation)?;
                Some(std::mem::replace(&mut self.flow, next))
            }
            true => {
                self.lone_generation += 1;
                self.lone.take()
            }
        };
        self.ending.retain(|ending| !ending.is_finished());
        self.ending.extend(last.and_then(Mortal::end));
        Ok(())
    }

    /// Waits, bounded, until the producers that were ended are gone.
    pub(super) async fn ended(&mut self) {
        let ending = futures_util::future::join_all(self.ending.drain(..));
        let _ = tokio::time::timeout(Duration::from_secs(2), ending).await;
    }

    /// A batch with a row of this size was too large for its topic: if it was not the row by itself, the next producer makes smaller ones.
    pub(super) fn too_large(&mut self, row: usize) {
        if row < self.batch / 2 {
            self.batch /= 2;
            tracing::info!(bytes = self.batch, "a topic takes no batch of the usual size; the relay makes smaller ones");
        }
    }

    /// Whether the flow may have the row now; if not, the next delivery may change that.
    pub(super) fn admits(&mut self, row: &OutboxRow) -> bool {
        self.lanes.admit(&self.murmur2, row)
    }

    /// The flow has got the row into the partition.
    pub(super) fn acknowledged(&mut self, row: &OutboxRow, partition: i32) {
        self.lanes.acknowledged(row, partition);
    }

    /// When the partition of a row has last acknowledged another one of the flow.
    pub(super) fn heard(&self, row: &OutboxRow) -> Option<Instant> {
        self.lanes.heard(&self.murmur2, row)
    }

    /// Hands a row to the flow, or alone.
    pub(super) fn send(&mut self, row: &OutboxRow, alone: bool) -> Result<(), Refusal> {
        let mortal = if alone { self.lone.as_ref() } else { Some(&self.flow) };
        let Some(client) = mortal.and_then(|mortal| mortal.0.as_ref()) else {
            return Err(Refusal {
                reason: "the producer is being made".to_owned(),
                collateral: false,
                whole_topic: false,
                full: true,
                too_large: false,
            });
        };
        let mut headers = OwnedHeaders::new_with_capacity(row.headers.len());
        for (key, value) in &row.headers {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(&row.topic, row.id as usize).timestamp(row.timestamp).headers(headers);
        record.key = row.key.as_deref();
        record.payload = row.value.as_deref();
        client.producer.send(record).map_err(|(error, _)| {
            if !alone {
                self.lanes.withdraw(row);
            }
            refusal(&error, &row.topic)
        })
    }

    /// Makes the producer for lone rows, if it is not there.
    pub(super) fn ready_alone(&mut self, relay: &Relay) -> KafkaResult<()> {
        if self.lone.is_none() {
            self.lone = Some(client(relay, &self.to, &self.murmur2, Kind::Lone, self.lone_generation)?);
        }
        Ok(())
    }
}

/// Which of the two producers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// With so many bytes in a batch at most.
    Flow(usize),
    Lone,
}

fn client(relay: &Relay, to: &UnboundedSender<Delivery>, murmur2: &Murmur2, kind: Kind, generation: u64) -> KafkaResult<Mortal> {
    let context = KafkaContext::new("relay", relay.board.clone(), relay.kafka.clone());
    let mut config = context.client_config();
    config
        .set("acks", "all")
        .set("enable.idempotence", "true")
        // An error that would leave a gap in the sequence ends the producer, instead of sending what comes behind it.
        .set("enable.gapless.guarantee", "true")
        // Never give up on a row: what waits here waits in the database as well. (And messages that time out are no gaps to librdkafka:
        // it would go on with the next one of the key.)
        .set("message.timeout.ms", "0")
        .set("linger.ms", "0")
        // The broker's own limit is what counts, not a guess of the client.
        .set("message.max.bytes", "104857600")
        .set("topic.metadata.propagation.max.ms", "3000")
        .set("queue.buffering.max.kbytes", "131072");
    match kind {
        Kind::Flow(batch) => config.set("batch.size", batch.to_string()),
        Kind::Lone => config.set("batch.num.messages", "1"),
    };
    let deliveries = Deliveries { context, murmur2: murmur2.clone(), alone: kind == Kind::Lone, generation, to: to.clone() };
    config.create_with_context(deliveries).and_then(Client::new).map(|client| Mortal(Some(client)))
}

fn refusal(error: &KafkaError, topic: &str) -> Refusal {
    let code = error.rdkafka_error_code();
    let collateral = matches!(
        code,
        Some(
            Code::Fatal
                | Code::GaplessGuarantee
                | Code::PurgeQueue
                | Code::PurgeInflight
                | Code::OutOfOrderSequenceNumber
                | Code::UnknownProducerId
                | Code::InvalidProducerEpoch
        )
    );
    let whole_topic = matches!(
        code,
        Some(
            Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed
                | Code::InvalidTopic
        )
    );
    let reason = match code {
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => {
            format!("topic `{topic}` does not exist; `tidemill topics apply` makes the topics of the manifests")
        }
        Some(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
            format!("the record is larger than topic `{topic}` takes; raise its max.message.bytes")
        }
        Some(Code::TopicAuthorizationFailed) => format!("this login may not write to topic `{topic}`"),
        _ => format!("the broker refuses it: {error}"),
    };
    let too_large = code == Some(Code::MessageSizeTooLarge);
    Refusal { reason, collateral, whole_topic, full: code == Some(Code::QueueFull), too_large }
}
