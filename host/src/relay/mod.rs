//! Outbox → Kafka (promise 11): sends every row in the order of its key, forgets it only when the broker has acknowledged it, and never
//! gives up on one.
//!
//! - `sender`: the idempotent producers
//! - `blocked`: keys and topics whose first row the broker refuses
//! - `floor`: from which number on to read
//!
//! **Order.** Rows are sent by number, which per key is the order of the commits. Nothing of a key is sent while an earlier row of it has
//! failed: any error ends the producer (what is in flight is sent again, same id, same timestamp), and the failed row goes alone through a
//! second producer until the broker takes it; the rest of its key waits behind it.
//!
//! **Reading.** Numbers of different keys become visible out of order, so a bare `id > last` would lose rows. The relay reads above a floor,
//! see `floor`, leaving out what it has in flight.

mod blocked;
mod floor;
mod sender;

use crate::store::{Outbox, OutboxRow, Pool, Unavailable};
use crate::telemetry::{Board, Metrics, TopicLabels};
use blocked::Blocked;
use floor::Floor;
use sender::{Delivery, Refusal, Sender};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc, watch};

/// Rows of one fetch.
const FETCH: usize = 1_000;
/// Rows on their way to the broker at once.
const IN_FLIGHT: usize = 10_000;
/// Bytes on their way to the broker at once.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// How long the relay sleeps when nobody rings: other processes, and SQL, add rows as well.
const POLL: Duration = Duration::from_millis(250);
/// How often the waiting rows are counted.
const COUNT: Duration = Duration::from_secs(5);
/// While another relay has the slice.
const STANDBY: Duration = Duration::from_secs(1);
/// After this many producers in a row that got nothing through, the relay slows down and says so.
const PATIENCE: u32 = 3;
/// How long a stopping relay waits for acknowledgements.
const DRAIN: Duration = Duration::from_secs(5);

/// The relay of this process.
pub struct Relay {
    /// The database.
    pub pool: Pool,
    /// The brokers.
    pub brokers: Arc<str>,
    /// Rings after each commit that left rows.
    pub bell: Arc<Notify>,
    /// Counts what left.
    pub metrics: Arc<Metrics>,
    /// Says what is stuck.
    pub board: Arc<Board>,
}

impl Relay {
    /// Runs until `stop` turns true. Faults of the database or the broker are waited out.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = Duration::from_millis(200);
        while !*stop.borrow() {
            let started = Instant::now();
            match self.session(&mut stop).await {
                Ok(()) => self.board.clear("outbox"),
                Err(error) => {
                    tracing::warn!(%error, "the relay lost its database; events wait in the outbox until it is back");
                    self.board.note("outbox", format!("the relay cannot read the outbox: {error}"));
                    if started.elapsed() > Duration::from_secs(10) {
                        pause = Duration::from_millis(200);
                    }
                    let _ = tokio::time::timeout(pause, stop.changed()).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// One life of the relay's connection and producers.
    async fn session(&self, stop: &mut watch::Receiver<bool>) -> Result<(), Unavailable> {
        let outbox = loop {
            match Outbox::open(&self.pool).await? {
                Some(outbox) => break outbox,
                None => {
                    tracing::debug!("another relay has the outbox");
                    if tokio::time::timeout(STANDBY, stop.changed()).await.is_ok() && *stop.borrow() {
                        return Ok(());
                    }
                }
            }
        };
        self.board.clear("outbox");
        let mut flight = Flight::new(self)?;
        let ended = flight.fly(&outbox, stop).await;
        flight.blocked.forget(&self.board, &self.metrics);
        ended
    }
}

/// A row on its way.
struct Sent {
    row: OutboxRow,
    alone: bool,
}

/// What one session of the relay knows.
struct Flight<'a> {
    relay: &'a Relay,
    sender: Sender,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    in_flight: BTreeMap<i64, Sent>,
    bytes: usize,
    acknowledged: Vec<i64>,
    blocked: Blocked,
    highest: i64,
    floor: Floor,
    /// The largest row of the last page, to bound the next one by bytes.
    largest: usize,
    /// Producers that ended since the last acknowledgement.
    restarts: u32,
    next_count: Instant,
}

impl<'a> Flight<'a> {
    fn new(relay: &'a Relay) -> Result<Self, Unavailable> {
        let (tx, deliveries) = mpsc::unbounded_channel();
        let sender =
            Sender::new(relay, tx).map_err(|error| Unavailable(format!("the Kafka producer cannot be made: {error}")))?;
        Ok(Self {
            relay,
            sender,
            deliveries,
            in_flight: BTreeMap::new(),
            bytes: 0,
            acknowledged: Vec::new(),
            blocked: Blocked::default(),
            highest: 0,
            floor: Floor::default(),
            largest: 0,
            restarts: 0,
            next_count: Instant::now(),
        })
    }

    async fn fly(&mut self, outbox: &Outbox, stop: &mut watch::Receiver<bool>) -> Result<(), Unavailable> {
        while !*stop.borrow() {
            self.settle(outbox).await?;
            let more = self.fetch(outbox).await?;
            self.probe(outbox).await?;
            self.count(outbox).await?;
            self.slow_down(stop).await;
            if !more && self.acknowledged.is_empty() {
                let room = self.has_room();
                tokio::select! {
                    Some(delivery) = self.deliveries.recv() => self.delivered(outbox, delivery).await?,
                    () = self.relay.bell.notified(), if room => {}
                    () = tokio::time::sleep(POLL) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        self.drain(outbox).await
    }

    /// Takes the deliveries that are there and forgets what was acknowledged.
    async fn settle(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        while let Ok(delivery) = self.deliveries.try_recv() {
            self.delivered(outbox, delivery).await?;
        }
        if !self.acknowledged.is_empty() {
            outbox.delete(&self.acknowledged).await?;
            self.acknowledged.clear();
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        self.in_flight.len() < IN_FLIGHT && self.bytes < IN_FLIGHT_BYTES
    }

    /// Reads what is new and sends it; true if there may be more.
    async fn fetch(&mut self, outbox: &Outbox) -> Result<bool, Unavailable> {
        if !self.has_room() {
            return Ok(false);
        }
        let reachable = self.floor.reachable(outbox, self.highest).await?;
        let after = self.floor.value();
        let limit = ((IN_FLIGHT_BYTES - self.bytes) / self.largest.max(1)).clamp(1, FETCH);
        let known: Vec<i64> = self.in_flight.range(after..).map(|(id, _)| *id).collect();
        let rows = match self.blocked.is_empty() {
            true => outbox.fetch(after, &known, limit as i64).await?,
            false => {
                let (topics, key_topics, keys) = self.blocked.exclusions();
                let known: Vec<i64> = known.into_iter().chain(self.blocked.rows()).collect();
                outbox.fetch_beside(after, &known, limit as i64, &topics, &key_topics, &keys).await?
            }
        };
        let more = rows.len() == limit;
        // A full page has everything up to its last row.
        let complete = rows.last().filter(|_| more).map_or(i64::MAX, |row| row.id);
        self.largest = rows.iter().map(size).max().unwrap_or(0);
        for row in rows {
            if !self.send(outbox, row).await? {
                return Ok(true);
            }
        }
        if let Some(number) = reachable {
            self.floor.raise(number.min(complete));
        }
        Ok(more)
    }

    /// Sends one row; false if the rest of the page must be read again.
    async fn send(&mut self, outbox: &Outbox, row: OutboxRow) -> Result<bool, Unavailable> {
        match self.sender.send(&row, false) {
            Ok(()) => {
                self.highest = self.highest.max(row.id);
                self.launch(row, false);
                return Ok(true);
            }
            // It goes on when deliveries have made room.
            Err(refusal) if refusal.full => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(refusal) if refusal.collateral => self.restart(false, &refusal.reason)?,
            // Nothing of this row was sent: it goes alone from now on, and the rest of the page is read again without its key.
            Err(refusal) => self.failed(outbox, row, refusal, false).await?,
        }
        Ok(false)
    }

    fn launch(&mut self, row: OutboxRow, alone: bool) {
        self.bytes += size(&row);
        self.in_flight.insert(row.id, Sent { row, alone });
    }

    async fn delivered(&mut self, outbox: &Outbox, delivery: Delivery) -> Result<(), Unavailable> {
        if delivery.generation != self.sender.generation(delivery.alone) {
            return Ok(());
        }
        let Some(sent) = self.in_flight.remove(&delivery.id) else {
            return Ok(());
        };
        self.bytes -= size(&sent.row);
        match delivery.result {
            Ok(()) => {
                self.acknowledge(sent);
                Ok(())
            }
            // Collateral of another row's failure: it is sent again.
            Err(refusal) if refusal.collateral => {
                if sent.alone {
                    self.blocked.again(&sent.row);
                }
                self.restart(sent.alone, &refusal.reason)
            }
            Err(refusal) => self.failed(outbox, sent.row, refusal, sent.alone).await,
        }
    }

    fn acknowledge(&mut self, sent: Sent) {
        let Relay { board, metrics, .. } = self.relay;
        self.restarts = 0;
        board.clear("relay");
        metrics.relay_sent.get_or_create(&TopicLabels { topic: sent.row.topic.clone() }).inc();
        let age = jiff::Timestamp::now().as_millisecond() - sent.row.timestamp;
        metrics.relay_seconds.observe(age.max(0) as f64 / 1000.0);
        self.acknowledged.push(sent.row.id);
        if sent.alone {
            self.blocked.left(&sent.row, board, metrics);
            self.floor.reset();
        }
    }

    /// A row was refused: its key (or topic) goes alone from now on. One that was alone already is stuck, and shown.
    async fn failed(&mut self, outbox: &Outbox, row: OutboxRow, refusal: Refusal, alone: bool) -> Result<(), Unavailable> {
        if alone {
            outbox.mark_stuck(row.id, &refusal.reason).await?;
        }
        self.blocked.refused(&row, &refusal, alone, &self.relay.board, &self.relay.metrics);
        self.restart(alone, &refusal.reason)
    }

    /// Ends a producer with all that it has in flight; it is read and sent again.
    fn restart(&mut self, alone: bool, reason: &str) -> Result<(), Unavailable> {
        self.sender
            .restart(self.relay, alone)
            .map_err(|error| Unavailable(format!("the Kafka producer cannot be made: {error}")))?;
        if !alone {
            self.restarts += 1;
            if self.restarts >= PATIENCE {
                tracing::warn!(reason, "the broker ends one producer after the other; events wait in the outbox");
                self.relay.board.note("relay", format!("the broker ends one producer after the other: {reason}"));
            }
        }
        let gone: Vec<i64> = self.in_flight.iter().filter(|(_, sent)| sent.alone == alone).map(|(id, _)| *id).collect();
        for id in gone {
            if let Some(sent) = self.in_flight.remove(&id) {
                self.bytes -= size(&sent.row);
                if alone {
                    self.blocked.again(&sent.row);
                }
            }
        }
        self.floor.reset();
        Ok(())
    }

    /// Waits where producers only fail: 0.2 s to 5 s, by how many did.
    async fn slow_down(&self, stop: &mut watch::Receiver<bool>) {
        if self.restarts >= PATIENCE {
            let wait = Duration::from_millis(200) * (self.restarts - PATIENCE + 1);
            let _ = tokio::time::timeout(wait.min(Duration::from_secs(5)), stop.changed()).await;
        }
    }

    /// Sends the first row of a blocked key or topic whose time has come, alone.
    async fn probe(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        // One at a time: a failure ends the producer, and with it every other try.
        let Some(target) = self.blocked.due() else { return Ok(()) };
        self.sender
            .ready_alone(self.relay)
            .map_err(|error| Unavailable(format!("the Kafka producer cannot be made: {error}")))?;
        let Some(row) = outbox.first_of(target.topic(), target.key(), target.row()).await? else {
            self.blocked.gone(&target, &self.relay.board, &self.relay.metrics);
            self.floor.reset();
            return Ok(());
        };
        self.blocked.probing(&target, row.id);
        match self.sender.send(&row, true) {
            Ok(()) => self.launch(row, true),
            Err(refusal) if refusal.full => self.blocked.again(&row),
            Err(refusal) if refusal.collateral => {
                self.blocked.again(&row);
                self.restart(true, &refusal.reason)?;
            }
            Err(refusal) => self.failed(outbox, row, refusal, true).await?,
        }
        Ok(())
    }

    async fn count(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        if Instant::now() >= self.next_count {
            let unread = outbox.waiting_above(self.highest).await?;
            self.relay.metrics.outbox_waiting.set(unread + self.in_flight.len() as i64);
            self.next_count = Instant::now() + COUNT;
        }
        Ok(())
    }

    /// Waits, bounded, for the acknowledgements of what is in flight.
    async fn drain(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        let end = tokio::time::Instant::now() + DRAIN;
        while !self.in_flight.is_empty() {
            match tokio::time::timeout_at(end, self.deliveries.recv()).await {
                Ok(Some(delivery)) => self.delivered(outbox, delivery).await?,
                _ => break,
            }
        }
        self.settle(outbox).await
    }
}

/// What a row takes of the bytes in flight.
fn size(row: &OutboxRow) -> usize {
    row.value.as_ref().map_or(0, Vec::len) + row.key.as_ref().map_or(0, Vec::len) + 100
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("brokers", &self.brokers).finish_non_exhaustive()
    }
}
