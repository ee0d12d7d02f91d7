//! Rows that go alone: the first one of a blocked key or topic, when its time has come or a person has dealt with it.

use super::flight::Flight;
use crate::store::{Outbox, Unavailable};
use std::time::{Duration, Instant};

/// How often the relay looks what was done to stuck rows.
const LOOK: Duration = Duration::from_millis(500);

impl Flight<'_> {
    /// Sends the first row of a blocked key or topic whose time has come, alone.
    pub(super) async fn probe(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        // One at a time: a failure ends the producer, and with it every other try.
        let Some(target) = self.blocked.due() else { return Ok(()) };
        let Some(row) = outbox.first_of(target.topic(), target.key(), target.row(), self.slices).await? else {
            self.blocked.gone(&target, &self.relay.board, &self.relay.metrics);
            self.floor.reset();
            return Ok(());
        };
        self.blocked.probing(&target, row.id);
        self.send_alone(outbox, row).await
    }

    /// A stuck row that is gone, or no longer marked as stuck, was dealt with: what waits behind it is tried at once.
    pub(super) async fn look_after_stuck(&mut self, outbox: &Outbox) -> Result<(), Unavailable> {
        if Instant::now() < self.next_stuck {
            return Ok(());
        }
        let shown = self.blocked.shown();
        if !shown.is_empty() {
            let stuck = outbox.still_stuck(&shown).await?;
            self.blocked.dealt_with(|id| !stuck.contains(&id));
        }
        self.next_stuck = Instant::now() + LOOK;
        Ok(())
    }
}
