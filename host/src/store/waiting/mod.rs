//! Events that wait in the database: those that failed and run again, and the later ones of their keys behind them (promises 6 and 8).
//!
//! - `park`: rows written at the end of a unit, behind an event of their key that waits already
//! - `journal`: what became of an attempt, and which rows may run now
//!
//! The inbox row of an event and its waiting row are written in one transaction, so an event is either a record that nobody has handled, or a
//! row, or done. Rows of a key run one by one in the order of their numbers: only the first has a `due`. Adding a row and taking one away both
//! hold the key's lock ([`waiting_bucket`]), so that the row behind the one that goes never misses its turn.

mod journal;
mod park;

pub use journal::{Attempt, Journal, Outcome};
pub(super) use journal::{CLAIM, FAIL, NEXT};
pub(super) use park::{PARK, ParkColumns, locks};

use super::outbox::key_bucket;
use super::{Identity, Record, Scope};
use std::sync::Arc;

/// The group that an event belongs to, and who handles it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// The inbox scope: one generation of the group.
    pub scope: Scope,
    /// The consumer group.
    pub group: Arc<str>,
    /// The handler.
    pub handler: Arc<str>,
}

/// An event on its way into the table.
#[derive(Debug, Clone)]
pub struct Parked {
    /// The record that it came in.
    pub record: Arc<Record>,
    /// Its identity.
    pub identity: Identity,
    /// CloudEvents `type`; empty for bytes that are no event.
    pub type_: String,
}

/// The right to run a waiting row, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The row.
    pub id: i64,
    /// This run.
    pub token: uuid::Uuid,
    /// The scope of its group.
    pub scope: Scope,
    /// Its topic.
    pub topic: String,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Where it replays a dead letter of another generation: what the current one, which may come to the same event, must know it by.
    pub anew: Option<Identity>,
}

/// A waiting row that may run now.
#[derive(Debug, Clone)]
pub struct Due {
    /// The right to run it.
    pub claim: Claim,
    /// Its group.
    pub group: String,
    /// The record.
    pub record: Arc<Record>,
    /// Its identity.
    pub identity: Identity,
    /// CloudEvents `type`.
    pub type_: String,
    /// How often it has failed alone.
    pub attempts: i32,
    /// How many processes have ended while they ran it.
    pub deaths: i32,
    /// A process has ended, or lost its claim, while it ran it.
    pub suspect: bool,
    /// How late it is.
    pub late: std::time::Duration,
    /// It is a dead letter that somebody replays.
    pub replays: bool,
}

/// The lock bucket (class 7001) of a key that waits. SQL computes it as `key_bucket('waiting/' || scope || '/' || topic, key)`.
pub fn waiting_bucket(scope: Scope, topic: &str, key: &[u8]) -> i16 {
    key_bucket(&format!("waiting/{}/{topic}", scope.0), Some(key))
}

/// The locks for adding, ending or burying a row of this topic and key, sorted: the waiting key's and that of the dead-letter topic's.
fn burial_locks(scope: Scope, topic: &str, key: Option<&[u8]>) -> Vec<i32> {
    let Some(key) = key else { return Vec::new() };
    let mut locks = vec![i32::from(waiting_bucket(scope, topic, key)), i32::from(key_bucket(&format!("{topic}.dlq"), Some(key)))];
    locks.sort_unstable();
    locks.dedup();
    locks
}
