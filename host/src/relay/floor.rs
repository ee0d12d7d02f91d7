//! From which number on the relay must read.
//!
//! Numbers are drawn before the commit, so a row may become visible long after higher ones. Reading above the highest number seen would lose
//! it; reading a fixed distance below would only make that rare, and could send a later row of its key first. So the relay reads above
//! the *floor*: the number up to which every writer has ended. Whoever may still hold a number takes a `RowExclusiveLock` on the table before
//! drawing it and gives it back after its rows have become visible, so the writers are named by the lock table. Once all that were
//! there when a number was the highest drawn are gone, the next read sees everything up to that number: it is *settled*. The floor follows
//! what has been read, as far as that is settled.
//!
//! The number is the sequence's own: rows of other slices count as well, also when they are gone, or a relay whose slices are quiet would
//! step over all of them with every read.
//!
//! Without a floor each read would step over all rows that are deleted and, because of a long transaction beside it, not vacuumed.

use crate::store::{Outbox, Unavailable};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Stepping over this many numbers costs less than raising the floor.
const SLACK: i64 = 512;
/// The shortest time between two looks at the lock table.
const PAUSE: Duration = Duration::from_millis(20);
/// The same while this relay has no rows: those of other slices pile up above the floor as well.
const REST: Duration = Duration::from_secs(1);

/// The number up to which everything is known, and how it is raised.
#[derive(Debug, Default)]
pub(super) struct Floor {
    value: i64,
    settled: i64,
    /// A number, and who was writing when it was the highest that had been drawn.
    watched: Option<(i64, HashSet<String>)>,
    last: Option<Instant>,
}

impl Floor {
    /// Reads begin above this number.
    pub(super) fn value(&self) -> i64 {
        self.value
    }

    /// Reads begin at the start of the table again. What is settled stays so.
    pub(super) fn reset(&mut self) {
        self.value = 0;
    }

    /// The number up to which a read that begins now sees everything.
    pub(super) fn settled(&self) -> i64 {
        self.settled
    }

    /// Looks, now and then, whether more is settled. `highest` is the highest number seen.
    pub(super) async fn look(&mut self, outbox: &Outbox, highest: i64) -> Result<(), Unavailable> {
        let above = self.watched.as_ref().map_or(highest, |(number, _)| highest.max(*number)) - self.settled;
        let pause = if above > SLACK { PAUSE } else { REST };
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return Ok(());
        }
        self.last = Some(Instant::now());
        // In this order: who draws a higher number afterwards is of no interest.
        let drawn = outbox.drawn().await?;
        let writers = outbox.writers().await?;
        match &self.watched {
            Some((_, then)) if !then.is_disjoint(&writers) => {}
            watched => {
                self.settled = watched.as_ref().map_or(self.settled, |(number, _)| self.settled.max(*number));
                self.watched = Some((drawn, writers));
            }
        }
        Ok(())
    }

    /// Raises the floor: everything up to `number` has been read, after it was settled.
    pub(super) fn raise(&mut self, number: i64) {
        self.value = self.value.max(number);
    }
}
