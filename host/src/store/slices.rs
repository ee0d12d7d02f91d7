//! The slices of the outbox, and the session locks that say which relay has which.
//!
//! A slice is a range of key buckets, so a key is always in one. A relay holds slices by session advisory locks on a connection that
//! does nothing else: it is idle between two beats, whatever the relay's own statements take, so `idle_session_timeout` ends it, and
//! with it the locks, when its holder is frozen or cut off; when the holder dies, the closed connection does so at once. A shared lock beside
//! them says that a relay is there, so that all know how many share.

use super::error::{Unavailable, describe};
use super::pool::Pool;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio_postgres::Client;

/// A set of slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slices(u8);

impl Slices {
    /// How many slices there are, and so how many relays can work at once.
    pub const COUNT: usize = 8;
    /// All of them.
    pub const ALL: Self = Self(u8::MAX);

    /// Whether the slice is in the set.
    pub fn contains(self, slice: i16) -> bool {
        self.iter().any(|own| own == slice)
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those of either set.
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of this set that the other has not.
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The slices in order.
    pub fn iter(self) -> impl Iterator<Item = i16> {
        (0..Self::COUNT as i16).filter(move |slice| self.0 & (1 << slice) != 0)
    }

    fn list<T: From<i16>>(self) -> Vec<T> {
        self.iter().map(T::from).collect()
    }

    /// As a parameter of `(bucket >> 9) = ANY ($n)`.
    pub(super) fn numbers(self) -> Vec<i16> {
        self.list()
    }
}

impl FromIterator<i16> for Slices {
    fn from_iter<I: IntoIterator<Item = i16>>(slices: I) -> Self {
        let known = slices.into_iter().filter(|slice| (0..Self::COUNT as i16).contains(slice));
        Self(known.fold(0, |set, slice| set | (1 << slice)))
    }
}

/// Who is there and who has what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Relays that are there, this one included.
    pub relays: usize,
    /// This one's place among them.
    pub rank: usize,
    /// The slices that this relay has locked.
    pub mine: Slices,
    /// The slices that nobody has locked.
    pub free: Slices,
}

/// The connection that holds a relay's slices.
pub struct SliceLocks {
    client: Client,
    pid: i32,
}

/// The second number of the lock that says that a relay is there; the slices' own are 0 to 7.
const PRESENCE: i64 = 100;

/// A lost holder gives up after `idle_session_timeout`. A notification needs no flush of the log: whoever misses one polls.
const SETUP: &str = "SET idle_session_timeout = '10s'; SET statement_timeout = '5s'; SET synchronous_commit = off; \
     SET application_name = 'tidemill relay lease'; LISTEN tidemill_outbox; SELECT pg_advisory_lock_shared(7003, 100)";

impl SliceLocks {
    /// Opens the connection and says that a relay is there; `heard` rings when another relay's process has left rows.
    pub async fn open(pool: &Pool, heard: Arc<Notify>) -> Result<Self, Unavailable> {
        let client = pool.dedicated_hearing(SETUP, Some(heard)).await?;
        let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.map_err(unavailable)?.get(0);
        Ok(Self { client, pid })
    }

    /// Looks around. This is also the beat that keeps the locks.
    pub async fn census(&self) -> Result<Census, Unavailable> {
        let sql = "SELECT objid::int8, pid FROM pg_catalog.pg_locks \
                   WHERE locktype = 'advisory' AND classid = 7003 AND objsubid = 2 AND granted \
                     AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())";
        let rows = self.client.query(sql, &[]).await.map_err(unavailable)?;
        Ok(census(self.pid, rows.iter().map(|row| (row.get(0), row.get(1)))))
    }

    /// Tries to lock slices, none of which this connection has; returns those that it got.
    pub async fn take(&self, slices: Slices) -> Result<Slices, Unavailable> {
        let sql = "SELECT s::int2 FROM (SELECT s, pg_try_advisory_lock(7003, s) AS taken FROM unnest($1::int4[]) AS s OFFSET 0) t WHERE taken";
        let rows = self.client.query(sql, &[&slices.list::<i32>()]).await.map_err(unavailable)?;
        Ok(rows.iter().map(|row| row.get::<_, i16>(0)).collect())
    }

    /// Unlocks slices.
    pub async fn give_up(&self, slices: Slices) -> Result<(), Unavailable> {
        let sql = "SELECT pg_advisory_unlock(7003, s) FROM unnest($1::int4[]) AS s";
        self.client.query(sql, &[&slices.list::<i32>()]).await.map(drop).map_err(unavailable)
    }

    /// Tells all relays that there are rows. Never inside a unit: a notification serialises the commits of the whole database.
    pub async fn ring(&self) -> Result<(), Unavailable> {
        self.client.batch_execute("NOTIFY tidemill_outbox").await.map_err(unavailable)
    }
}

fn unavailable(error: tokio_postgres::Error) -> Unavailable {
    Unavailable(describe(&error))
}

fn census(pid: i32, locks: impl Iterator<Item = (i64, i32)>) -> Census {
    let (mut relays, mut mine, mut locked) = (vec![pid], Vec::new(), Vec::new());
    for (number, holder) in locks {
        match i16::try_from(number) {
            _ if number == PRESENCE => relays.push(holder),
            Ok(slice) => {
                locked.push(slice);
                if holder == pid {
                    mine.push(slice);
                }
            }
            Err(_) => {}
        }
    }
    relays.sort_unstable();
    relays.dedup();
    Census {
        relays: relays.len(),
        rank: relays.iter().position(|relay| *relay == pid).unwrap_or(0),
        mine: mine.into_iter().collect(),
        free: Slices::ALL.without(locked.into_iter().collect()),
    }
}

impl std::fmt::Debug for SliceLocks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SliceLocks").field("pid", &self.pid).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_is_in_a_slice() {
        let all: Slices = (0..4096i16).map(|bucket| bucket >> 9).collect();
        assert_eq!((all, 4096 >> 9), (Slices::ALL, Slices::COUNT));
    }

    #[test]
    fn a_census_knows_who_is_there_and_what_is_free() {
        let locks = [(100, 30), (100, 10), (100, 20), (0, 30), (1, 20), (7, 20), (12_345, 10)];
        let census = census(20, locks.into_iter());
        assert_eq!((census.relays, census.rank), (3, 1));
        assert_eq!(census.mine.iter().collect::<Vec<_>>(), [1, 7]);
        assert_eq!(census.free.iter().collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
    }
}
