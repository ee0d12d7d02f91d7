//! Consumer groups of the classic protocol: who is in a group (in memory) and what it has committed (on disk).
//!
//! As in Kafka the members decide who reads what: generation, member ids, metadata and the leader's assignment pass through
//! untouched, so eager and cooperative assignors work alike. After a restart the members join again by themselves.

pub(super) mod commits;
mod group;
pub(super) mod members;
mod offsets;
pub(super) mod overview;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

use kafka_protocol::protocol::StrBytes;

use super::{locked, now};
use group::Group;
use offsets::Offsets;

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    /// Groups with members, or with members about to join. A group that only has offsets is not here.
    active: Mutex<HashMap<StrBytes, Group>>,
    offsets: Mutex<Offsets>,
}

impl Groups {
    /// Reads the committed offsets of the folder.
    pub(super) fn open(folder: &Path) -> io::Result<Groups> {
        Ok(Groups { active: Mutex::default(), offsets: Mutex::new(Offsets::open(&folder.join("offsets.log"), now())?) })
    }

    /// Removes members that are overdue, completes rebalances that have waited long enough, and forgets empty groups.
    pub(super) fn tick(&self, now: Instant) {
        locked(&self.active).retain(|_, group| {
            group.tick(now);
            !group.is_unused()
        });
    }

    /// Drops what groups have committed for a topic that is gone.
    pub(super) fn forget_topic(&self, topic: &str) {
        if let Err(error) = locked(&self.offsets).forget_topic(topic, now()) {
            tracing::error!(topic, %error, "offsets of a deleted topic could not be removed");
        }
    }

    /// Forgets what groups have committed that have had no members for long. It blocks.
    pub(super) fn expire(&self, now: i64) {
        let active = locked(&self.active);
        let alive = |group: &str| active.get(group.as_bytes()).is_some_and(|group| !group.is_unused());
        if let Err(error) = locked(&self.offsets).expire(alive, now) {
            tracing::error!(%error, "offsets of old groups stay for now");
        }
    }

    /// Writes committed offsets to the disk. It blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        let Some(file) = locked(&self.offsets).take_dirty() else { return Ok(()) };
        file.sync_data().inspect_err(|_| locked(&self.offsets).still_dirty())
    }
}
