//! The lease on slices: beats, looks around, takes and gives up.
//!
//! One statement a second is the beat and the look-around. Its answer, counted from when it was sent, keeps the lease for 6.5 s by the holder's
//! clocks, while the server keeps the locks for 10 s after it: whoever is frozen or cut off has stopped before another takes over, or stops
//! at its first step after it.

use super::Relay;
use super::clock::{Clock, Moment, late};
use super::desk::Desk;
use super::share::{plan, share};
use crate::store::{SliceLocks, Slices, Unavailable};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Between two beats.
const BEAT: Duration = Duration::from_secs(1);
/// The same while slices are on their way from one relay to another.
const SOON: Duration = Duration::from_millis(200);
/// Between two rings: each is a small transaction.
const COALESCE: Duration = Duration::from_millis(20);

/// This relay's part of the outbox.
pub(super) struct Lease<'a> {
    relay: &'a Relay,
    locks: SliceLocks,
    /// Until when it may be used.
    pub(super) clock: Clock,
}

impl<'a> Lease<'a> {
    /// Says that this relay is there; `heard` rings when another process has left rows.
    pub(super) async fn open(relay: &'a Relay, heard: Arc<Notify>) -> Result<Self, Unavailable> {
        let opened = Moment::now();
        let locks = SliceLocks::open(&relay.pool, heard).await?;
        Ok(Self { relay, locks, clock: Clock::new(opened) })
    }

    /// Holds the share of slices that is this relay's. Ends with an error when the lease is lost, or after `stop` when all is given up.
    pub(super) async fn keep(&self, desk: &Desk, stop: &mut watch::Receiver<bool>) -> Result<(), Unavailable> {
        loop {
            let stopping = *stop.borrow_and_update();
            let (held, pause) = self.turn(desk, stopping).await?;
            self.relay.metrics.relay_slices.set(held.len() as i64);
            if stopping && held.is_empty() {
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = desk.flight_moved() => {}
                changed = stop.changed() => if changed.is_err() { return Ok(()) },
            }
        }
    }

    /// One look around and what follows from it. Returns what is held, and when to look again.
    async fn turn(&self, desk: &Desk, stopping: bool) -> Result<(Slices, Duration), Unavailable> {
        let sent = Moment::now();
        let census = self.answer(self.locks.census()).await?;
        self.clock.beat(sent);
        let share = if stopping { 0 } else { share(census.relays, census.rank) };
        if share == 0 {
            // Nobody else says that the database is back.
            self.relay.board.clear("outbox");
        }
        let plan = plan(&census, desk.wanted(), share);
        desk.want(plan.keep);
        let done = desk.done(census.mine);
        if !done.is_empty() {
            self.answer(self.locks.give_up(done)).await?;
            tracing::debug!(?done, "gave slices of the outbox up");
        }
        let taken = match plan.take.is_empty() {
            true => Slices::default(),
            false => self.answer(self.locks.take(plan.take)).await?,
        };
        if !taken.is_empty() {
            tracing::debug!(?taken, relays = census.relays, "took slices of the outbox");
            desk.want(plan.keep.with(taken));
        }
        let held = census.mine.without(done).with(taken);
        let settled = held.len() == share && census.free.without(taken).is_empty();
        Ok((held, if settled { BEAT } else { SOON }))
    }

    /// An answer of the server, or an error once the beat is late.
    async fn answer<T>(&self, asking: impl Future<Output = Result<T, Unavailable>>) -> Result<T, Unavailable> {
        self.clock.check()?;
        let answer = tokio::time::timeout(self.clock.left(), asking).await.map_err(|_| late())??;
        // Whoever was frozen in between has the answer and no lease.
        self.clock.check()?;
        Ok(answer)
    }

    /// Rings for the other relays after `news`, if they have slices.
    pub(super) async fn ring(&self, desk: &Desk, news: &Notify) -> Result<Infallible, Unavailable> {
        loop {
            news.notified().await;
            if desk.wanted() != Slices::ALL {
                self.answer(self.locks.ring()).await?;
                tokio::time::sleep(COALESCE).await;
            }
        }
    }
}
