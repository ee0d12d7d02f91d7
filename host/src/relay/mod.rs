//! Outbox → Kafka (promise 11): sends every row in the order of its key, forgets it only when the broker has acknowledged it, and never
//! gives up on one.
//!
//! - `lease`, `share`, `desk`, `clock`: which slices of the outbox this replica works on, and for how long
//! - `flight`, `pages`: reads rows, sends them, forgets them
//! - `sender`, `lanes`: the idempotent producers, and what their first rows in a partition must wait for
//! - `blocked`, `probe`: keys and topics whose first row the broker refuses
//! - `silent`: topics of which it says nothing
//! - `floor`: from which number on to read
//!
//! **Order.** Rows are sent by number, which per key is the order of the commits. Nothing of a key is sent while an earlier row of it has
//! failed: any error ends the producer (what is in flight is sent again, same id, same timestamp), and the failed row goes alone through a
//! second producer until the broker takes it; the rest of its key waits behind it.
//!
//! **Many relays.** Each holds slices of the keys, so in normal operation no row is sent by two. But the order does not depend on that, nor on
//! any clock, and it could not: what a frozen process has handed to librdkafka leaves when it thaws, before a line of ours can run. It rests on
//! what every producer keeps by itself:
//!
//! 1. When a producer is handed a row, each earlier row of its key has been acknowledged (a row is deleted only after that, and a page
//!    has every earlier row that is not), or was handed to the same producer before it.
//! 2. A producer appends what it was handed of a key in that order and without gaps: after the first failure it makes no further request
//!    (`enable.gapless.guarantee`), and the broker refuses those on their way by their sequence, if it knows the producer in that partition,
//!    see `lanes`. So what it has appended is always a beginning of what it was handed.
//!
//! So whenever a row gets into the topic, from whichever producer and however late, all earlier ones of its key are there already: first
//! appearances are in order, and whatever a thawed relay still sends either continues them or repeats what another has sent (same id, same
//! timestamp). What the lease adds is that repeating is rare: a holder that is late stops, with nothing left in its
//! producers, before another may take over; one that was frozen repeats at most what it had in flight. `message.timeout.ms` would
//! bound that further, but librdkafka does not count messages that time out as gaps: it would send the next one of the key ahead of it.
//!
//! **Reading.** Numbers of different keys become visible out of order, so a bare `id > last` would lose rows. The relay reads above a floor,
//! see `floor`, leaving out what it has in flight. It steps over the rows of other slices; an index for each slice would cost every unit of work
//! more than that. While a page is sent, the next one is read already, where no row can be missing between the two.

mod blocked;
mod clock;
mod desk;
mod flight;
mod floor;
mod lanes;
mod lease;
mod pages;
mod probe;
mod sender;
mod share;
mod silent;

use crate::config::KafkaAccess;
use crate::store::{Outbox, Pool, Unavailable};
use crate::telemetry::{Board, Metrics};
use clock::Clock;
use desk::Desk;
use flight::Flight;
use lease::Lease;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// The relay of this process.
pub struct Relay {
    /// The database.
    pub pool: Pool,
    /// Where Kafka is and how to get in.
    pub kafka: Arc<KafkaAccess>,
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
            let ended = self.session(&mut stop).await;
            self.metrics.relay_slices.set(0);
            if *stop.borrow() {
                break;
            }
            if let Err(error) = ended {
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

    /// One life of the lease. Whatever ends first ends all: the producers with what they have in flight, then the locks.
    async fn session(&self, stop: &mut watch::Receiver<bool>) -> Result<(), Unavailable> {
        let (desk, heard) = (Desk::default(), Arc::new(Notify::new()));
        let lease = Lease::open(self, heard.clone()).await?;
        let (rows, news) = (Notify::new(), Notify::new());
        tokio::select! {
            // First what may end the rest.
            biased;
            ended = lease.keep(&desk, stop) => ended,
            Err(error) = lease.ring(&desk, &news) => Err(error),
            () = self.listen(&heard, &rows, &news) => Ok(()),
            Err(error) = self.work(&desk, &lease.clock, &rows) => Err(error),
        }
    }

    /// Wakes the flight when there are rows: `rows` for those of any process, `news` for those of this one. Never ends.
    async fn listen(&self, heard: &Notify, rows: &Notify, news: &Notify) {
        loop {
            tokio::select! {
                () = self.bell.notified() => news.notify_one(),
                () = heard.notified() => {}
            }
            rows.notify_one();
        }
    }

    /// Flies while there are slices to work on. Ends only with an error.
    async fn work(&self, desk: &Desk, clock: &Clock, rows: &Notify) -> Result<Infallible, Unavailable> {
        loop {
            while desk.wanted().is_empty() {
                desk.lease_moved().await;
            }
            let outbox = Outbox::open(&self.pool).await?;
            self.board.clear("outbox");
            Flight::new(self, clock)?.fly(&outbox, desk, rows).await?;
        }
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("kafka", &self.kafka).finish_non_exhaustive()
    }
}
