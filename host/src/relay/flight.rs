//! What is on its way: rows are sent, and forgotten once they are acknowledged.

use super::Relay;
use super::blocked::Blocked;
use super::clock::Clock;
use super::desk::Desk;
use super::floor::Floor;
use super::pages::Ahead;
use super::sender::{Delivery, Refusal, Sender};
use super::silent::{self, Silent};
use crate::store::{Beside, Outbox, OutboxRow, Slices, Unavailable};
use crate::telemetry::TopicLabels;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

/// Rows on their way to the broker at once.
const IN_FLIGHT: usize = 10_000;
/// Bytes on their way to the broker at once, up to the one row that reaches it.
const IN_FLIGHT_BYTES: usize = 64 << 20;
/// The same with those of silent topics.
const ALL: usize = 4 * IN_FLIGHT;
const ALL_BYTES: usize = 2 * IN_FLIGHT_BYTES;
/// How long the relay sleeps when nobody rings: SQL adds rows as well.
const POLL: Duration = Duration::from_millis(250);
/// How often the waiting rows are counted.
const COUNT: Duration = Duration::from_secs(5);
/// After this many producers in a row that got nothing through, the relay slows down and says so.
const PATIENCE: u32 = 3;
/// How long a slice that is given up may wait for acknowledgements; then its producer ends.
const DRAIN: Duration = Duration::from_secs(5);

/// How long a row may be on its way before somebody should know.
const SILENCE: Duration = Duration::from_secs(30);
/// The note on the board about it.
const SILENT: &str = "relay: no acknowledgement";

/// A row on its way. Its value is with the producer alone.
pub(super) struct Sent {
    pub(super) row: OutboxRow,
    pub(super) size: usize,
    pub(super) alone: bool,
    pub(super) since: Instant,
}

/// What became of a row of a page.
pub(super) enum Sending {
    /// It is on its way.
    Done,
    /// It and the rest of the page must be read again.
    ReadAgain,
    /// The same, after a delivery.
    Wait,
}

/// What is known while slices are worked on.
pub(super) struct Flight<'a> {
    pub(super) relay: &'a Relay,
    pub(super) clock: &'a Clock,
    pub(super) slices: Slices,
    sender: Sender,
    deliveries: mpsc::UnboundedReceiver<Delivery>,
    pub(super) in_flight: BTreeMap<i64, Sent>,
    bytes: usize,
    pub(super) acknowledged: Vec<i64>,
    pub(super) blocked: Blocked,
    pub(super) silent: Silent,
    pub(super) highest: i64,
    pub(super) floor: Floor,
    pub(super) ahead: Option<Ahead>,
    /// The next row waits for a delivery: new rows change nothing, and reading for each of them would cost a page while the broker is away.
    pub(super) held_up: bool,
    /// When anything was acknowledged last.
    heard: Option<Instant>,
    /// Producers that ended since the last acknowledgement.
    restarts: u32,
    next_count: Instant,
    pub(super) next_stuck: Instant,
    /// When waiting for what is on its way in slices that are given up ends.
    drained_by: Option<Instant>,
}

impl<'a> Flight<'a> {
    pub(super) fn new(relay: &'a Relay, clock: &'a Clock) -> Result<Self, Unavailable> {
        let (tx, deliveries) = mpsc::unbounded_channel();
        let sender = Sender::new(relay, tx).map_err(no_producer)?;
        let now = Instant::now();
        Ok(Self {
            relay,
            clock,
            slices: Slices::default(),
            sender,
            deliveries,
            in_flight: BTreeMap::new(),
            bytes: 0,
            acknowledged: Vec::new(),
            blocked: Blocked::default(),
            silent: Silent::default(),
            highest: 0,
            floor: Floor::default(),
            ahead: None,
            held_up: false,
            heard: None,
            restarts: 0,
            next_count: now,
            next_stuck: now,
            drained_by: None,
        })
    }

    /// Flies until nothing is wanted and nothing is on its way. `rows` rings when there are new ones.
    pub(super) async fn fly(&mut self, outbox: &Outbox, desk: &Desk, rows: &Notify) -> Result<(), Unavailable> {
        loop {
            while let Ok(delivery) = self.deliveries.try_recv() {
                self.delivered(outbox, delivery).await?;
            }
            if self.hand_over(outbox, desk).await? {
                return Ok(());
            }
            if self.silent.look(self.in_flight.values(), |row| self.sender.heard(row)) {
                self.floor.reset();
            }
            let more = self.turn_page(outbox).await?;
            self.forget(outbox).await?;
            self.look_after_stuck(outbox).await?;
            self.probe(outbox).await?;
            self.count(outbox).await?;
            self.slow_down(desk).await;
            if !more {
                let room = self.has_room() && !self.held_up && !self.is_cut_off();
                tokio::select! {
                    Some(delivery) = self.deliveries.recv() => self.delivered(outbox, delivery).await?,
                    () = rows.notified(), if room => {}
                    () = tokio::time::sleep(POLL) => {}
                    () = desk.lease_moved() => {}
                }
            }
        }
    }

    /// Takes up new slices, and lets go of those that are not wanted once nothing of theirs is on its way. True when none is left.
    async fn hand_over(&mut self, outbox: &Outbox, desk: &Desk) -> Result<bool, Unavailable> {
        let (wanted, leaving) = desk.take_up();
        if !wanted.without(self.slices).is_empty() {
            self.floor.reset();
        }
        self.slices = wanted;
        if leaving.is_empty() {
            self.drained_by = None;
            return Ok(wanted.is_empty());
        }
        let by = *self.drained_by.get_or_insert_with(|| Instant::now() + DRAIN);
        if Instant::now() >= by {
            for alone in [false, true] {
                self.restart(alone, "a slice is given up")?;
            }
            self.sender.ended().await;
        }
        self.forget(outbox).await?;
        let busy: Slices = self.in_flight.values().map(|sent| sent.row.slice).collect();
        let done = leaving.without(busy);
        if !done.is_empty() && !self.blocked.is_empty() {
            // What waited with a row of theirs, in slices that stay, may lie below the floor.
            self.floor.reset();
        }
        self.blocked.forget(done, &self.relay.board, &self.relay.metrics);
        desk.let_go(done);
        Ok(wanted.is_empty() && done == leaving)
    }

    /// Deletes what was acknowledged.
    pub(super) async fn forget(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        outbox.delete(&std::mem::take(&mut self.acknowledged)).await
    }

    pub(super) fn has_room(&self) -> bool {
        let rows = self.in_flight.len();
        rows.saturating_sub(self.silent.rows) < IN_FLIGHT && rows < ALL && self.room() > 0
    }

    /// Whether no broker has said anything for so long that new rows are read now and then, not for each commit.
    fn is_cut_off(&self) -> bool {
        !self.silent.is_empty() && self.heard.is_none_or(|heard| heard.elapsed() >= silent::PATIENCE)
    }

    /// How many more bytes may be on their way.
    pub(super) fn room(&self) -> usize {
        let flowing = self.bytes.saturating_sub(self.silent.bytes);
        IN_FLIGHT_BYTES.saturating_sub(flowing).min(ALL_BYTES.saturating_sub(self.bytes))
    }

    /// Whether the flow leaves rows out that nobody has sent: they may lie anywhere below the floor.
    pub(super) fn leaves_out(&self) -> bool {
        !self.blocked.is_empty() || !self.silent.is_empty()
    }

    /// What it leaves out.
    pub(super) fn beside(&self) -> Beside<'_> {
        let mut beside = self.blocked.beside();
        beside.topics.extend(self.silent.topics());
        beside
    }

    /// Sends a row in the flow.
    pub(super) async fn send(&mut self, outbox: &Outbox, row: OutboxRow) -> Result<Sending, Unavailable> {
        self.clock.check_quickly()?;
        if !self.sender.admits(&row) {
            return Ok(Sending::Wait);
        }
        match self.sender.send(&row, false) {
            Ok(()) => {
                self.highest = self.highest.max(row.id);
                self.launch(row, false);
                return Ok(Sending::Done);
            }
            // It goes on when deliveries have made room.
            Err(refusal) if refusal.full => return Ok(Sending::Wait),
            Err(refusal) if refusal.collateral => self.restart(false, &refusal.reason)?,
            // Nothing of this row was sent: it goes alone from now on, and the rest of the page is read again without its key.
            Err(refusal) => self.failed(outbox, row, refusal, false).await?,
        }
        Ok(Sending::ReadAgain)
    }

    /// Sends one row alone.
    pub(super) async fn send_alone(&mut self, outbox: &Outbox, row: OutboxRow) -> Result<(), Unavailable> {
        self.clock.check()?;
        self.sender.ready_alone(self.relay).map_err(no_producer)?;
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

    fn launch(&mut self, mut row: OutboxRow, alone: bool) {
        let size = row.size();
        self.bytes += size;
        (row.value, row.headers) = (None, Vec::new());
        self.in_flight.insert(row.id, Sent { row, size, alone, since: Instant::now() });
    }

    async fn delivered(&mut self, outbox: &Outbox, delivery: Delivery) -> Result<(), Unavailable> {
        if delivery.generation != self.sender.generation(delivery.alone) {
            return Ok(());
        }
        let Some(sent) = self.in_flight.remove(&delivery.id) else {
            return Ok(());
        };
        self.bytes -= sent.size;
        match delivery.result {
            Ok(partition) => {
                self.acknowledge(sent, partition);
                Ok(())
            }
            // Collateral of another row's failure: it is sent again.
            Err(refusal) if refusal.collateral => {
                if sent.alone {
                    self.blocked.again(&sent.row);
                }
                self.restart(sent.alone, &refusal.reason)
            }
            Err(refusal) => {
                if refusal.too_large && !sent.alone {
                    self.sender.too_large(sent.size);
                }
                self.failed(outbox, sent.row, refusal, sent.alone).await
            }
        }
    }

    fn acknowledge(&mut self, sent: Sent, partition: i32) {
        let Relay { board, metrics, .. } = self.relay;
        (self.restarts, self.heard) = (0, Some(Instant::now()));
        board.clear("relay");
        metrics.relay_sent.get_or_create(&TopicLabels { topic: sent.row.topic.clone() }).inc();
        let age = jiff::Timestamp::now().as_millisecond() - sent.row.timestamp;
        metrics.relay_seconds.observe(age.max(0) as f64 / 1000.0);
        self.acknowledged.push(sent.row.id);
        self.silent.heard(&sent.row.topic);
        match sent.alone {
            false => self.sender.acknowledged(&sent.row, partition),
            true => {
                self.blocked.left(&sent.row, board, metrics);
                self.floor.reset();
            }
        }
    }

    /// A row was refused: its key (or topic) goes alone from now on. One that was alone already is stuck, and shown.
    async fn failed(&mut self, outbox: &Outbox, row: OutboxRow, refusal: Refusal, alone: bool) -> Result<(), Unavailable> {
        if alone {
            outbox.mark_stuck(row.id, &refusal.reason).await?;
        }
        self.blocked.refused(&row, &refusal, alone, &self.relay.board, &self.relay.metrics);
        // Nothing of a topic that goes alone stays in the flow: it would be sent twice, and its lane would never learn what became of it.
        if alone && refusal.whole_topic && self.in_flight.values().any(|sent| !sent.alone && sent.row.topic == row.topic) {
            self.restart(false, &refusal.reason)?;
        }
        self.restart(alone, &refusal.reason)
    }

    /// Ends a producer with all that it has in flight; it is read and sent again.
    fn restart(&mut self, alone: bool, reason: &str) -> Result<(), Unavailable> {
        self.sender.restart(self.relay, alone).map_err(no_producer)?;
        if !alone {
            self.restarts += 1;
            if self.restarts >= PATIENCE {
                tracing::warn!(reason, "the broker ends one producer after the other; events wait in the outbox");
                self.relay.board.note("relay", format!("the broker ends one producer after the other: {reason}"));
            }
        }
        if !alone {
            // Whatever was silent is tried anew.
            self.silent = Silent::default();
        }
        let gone = self.in_flight.extract_if(.., |_, sent| sent.alone == alone);
        for (_, sent) in gone {
            self.bytes -= sent.size;
            if alone {
                self.blocked.again(&sent.row);
            }
        }
        self.floor.reset();
        Ok(())
    }

    /// Waits where producers only fail: 0.2 s to 5 s, by how many did.
    async fn slow_down(&self, desk: &Desk) {
        if self.restarts >= PATIENCE {
            let wait = Duration::from_millis(200) * (self.restarts - PATIENCE + 1);
            let _ = tokio::time::timeout(wait.min(Duration::from_secs(5)), desk.lease_moved()).await;
        }
    }

    async fn count(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        if Instant::now() >= self.next_count {
            let floor = if self.leaves_out() { 0 } else { self.floor.value() };
            let below = self.in_flight.range(..=floor).count() as i64;
            self.relay.metrics.outbox_waiting.set(below + outbox.waiting_above(floor, self.slices).await?);
            self.show_silence();
            self.next_count = Instant::now() + COUNT;
        }
        Ok(())
    }

    /// Says on the board which topic has been silent for long.
    fn show_silence(&self) {
        let oldest = self.in_flight.values().min_by_key(|sent| sent.since);
        match oldest.filter(|sent| sent.since.elapsed() >= SILENCE) {
            None => self.relay.board.clear(SILENT),
            Some(sent) => {
                let (topic, seconds) = (&sent.row.topic, sent.since.elapsed().as_secs());
                let text = format!(
                    "an event for topic `{topic}` has waited {seconds} s for the brokers' acknowledgement, and the topic's others behind it: has each \
                     of its partitions a leader, and as many replicas in sync as `min.insync.replicas` asks for?"
                );
                self.relay.board.note(SILENT, text);
            }
        }
    }
}

/// What waited here waits for the next holder.
impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Relay { board, metrics, .. } = self.relay;
        board.clear(SILENT);
        self.blocked.forget(Slices::ALL, board, metrics);
        metrics.outbox_waiting.set(0);
    }
}

fn no_producer(error: rdkafka::error::KafkaError) -> Unavailable {
    Unavailable(format!("the Kafka producer cannot be made: {error}"))
}
