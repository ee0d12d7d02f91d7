//! The operator's hands: events that wait, dead letters and stuck outbox rows can be looked at, and it can be decided what becomes of them.
//!
//! - `waiting`, `dead_letters`, `outbox`, `jobs`: one table each: list, show, change
//! - `replays`: what became of the replays that were ordered
//! - `actions`: who did what; every change writes there in its own transaction
//! - `filter`: which rows; `change`: the way that all changes go; `view`: how bytes and times are shown
//!
//! **Locks.** A change takes the locks of its keys first, sorted, in one statement, and after that waits for nothing: a row that somebody
//! else has locked is left alone and said so. So no change is ever part of a deadlock, and the order of a key is kept.

mod actions;
mod change;
mod dead_letters;
mod filter;
mod jobs;
mod outbox;
mod replays;
mod view;
mod waiting;

pub(super) use actions::record_all;
pub use actions::{Action, ActionFilter, Actor, Via};
pub use change::{Order, Outcome, Report};
pub use dead_letters::{DeadLetter, Discard, Replay};
pub use filter::{Filter, Page, parse_when};
pub use jobs::{CancelJobs, Job, JobCursor, JobFilter, JobId, RunJobs};
pub use outbox::{OutboxDiscard, OutboxEntry, OutboxRetry};
pub use replays::ReplayState;
pub use view::{Bytes, Detail, Header, Time};
pub use waiting::{DeadLetterNow, Retry, WaitingEvent};

use super::error::{Unavailable, describe};
use super::inbox::Scope;
use super::outbox::KEY_LOCKS;
use super::pool::Pool;
use super::waiting::waiting_bucket;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, Transaction};

/// Why an operator's call did not do what it should.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OperateError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such row.
    #[error("{0}")]
    Missing(String),
    /// The database did not do it.
    #[error("{0}")]
    Unavailable(String),
}

impl From<Unavailable> for OperateError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.0)
    }
}

impl From<tokio_postgres::Error> for OperateError {
    fn from(error: tokio_postgres::Error) -> Self {
        let unprepared = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::UNDEFINED_FUNCTION,
            SqlState::INVALID_SCHEMA_NAME,
            SqlState::INSUFFICIENT_PRIVILEGE,
        ];
        let text = describe(&error);
        Self::Unavailable(match error.code() {
            Some(code) if unprepared.contains(code) => {
                format!("{text}: the database is not prepared for this version; run `tidemill migrate`")
            }
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
                format!("{text}: a transaction holds one of the keys for long; try again")
            }
            _ => text,
        })
    }
}

/// Opens [`Session`]s. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Operator {
    pool: Pool,
}

impl Operator {
    /// For the database of this pool.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// A connection of its own: whoever repairs something must not wait for the units of work that have all others.
    pub async fn open(&self) -> Result<Session, OperateError> {
        let setup = format!("SET application_name = '{APPLICATION}'; SET statement_timeout = '30s'");
        Ok(Session { client: self.pool.dedicated(&setup).await? })
    }
}

/// How a session appears in `pg_stat_activity`, so that it is not taken for a host.
const APPLICATION: &str = "tidemill operate";

/// An operator's connection.
pub struct Session {
    client: Client,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Takes the locks of these buckets for the transaction, in the order that all transactions take them in.
async fn lock_keys(transaction: &Transaction<'_>, buckets: impl Iterator<Item = i16>) -> Result<(), OperateError> {
    let mut buckets: Vec<i32> = buckets.map(i32::from).collect();
    buckets.sort_unstable();
    buckets.dedup();
    transaction.execute(KEY_LOCKS, &[&buckets]).await?;
    Ok(())
}

/// The numbers that `sql` finds among `ids`.
async fn numbers(client: &impl GenericClient, sql: &str, ids: &[i64]) -> Result<Vec<i64>, OperateError> {
    Ok(client.query(sql, &[&ids]).await?.iter().map(|row| row.get(0)).collect())
}

/// The lock of a key's waiting events. Records without a key share one, so that two orders for one row find each other there.
fn key_lock(scope: i32, topic: &str, key: Option<&[u8]>) -> i16 {
    waiting_bucket(Scope(scope), topic, key.unwrap_or_default())
}
