//! The inbox's days: a partition for each, made ahead of time, dropped when no topic can still hold a record of it.
//!
//! A record of a forgotten day may have been handled, and nobody can tell: it is not run but reported as expired. What a process knows of
//! the forgotten days may be late. That is safe, because the database refuses to note an event of such a day
//! (constraint [`FORGOTTEN`]): the unit fails, and is tried again with what is known by then.

use super::Pool;
use super::error::{Unavailable, describe};
use super::inbox::bucket_of;
use crate::telemetry::lock;
use std::sync::{Arc, Mutex};

/// The constraint that an event of a forgotten day violates.
pub(super) const FORGOTTEN: &str = "inbox_forgotten";

/// The days that have been forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InboxSpan {
    /// The first day that ever had a partition.
    pub low: Option<i32>,
    /// The first day after the forgotten ones; none: nothing was forgotten yet.
    pub forgotten_below: Option<i32>,
}

impl InboxSpan {
    /// Whether what was handled on this day is forgotten. Days that never had a partition are remembered for good.
    pub fn forgets(&self, day: i32) -> bool {
        matches!((self.low, self.forgotten_below), (Some(low), Some(below)) if (low..below).contains(&day))
    }
}

/// The upkeep of the days, and what this process knows of them. Cheap to clone; clones share.
#[derive(Debug, Clone)]
pub struct InboxDays {
    pool: Pool,
    span: Arc<Mutex<InboxSpan>>,
}

impl InboxDays {
    /// The days of the inbox in the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool, span: Arc::default() }
    }

    /// The current day.
    pub fn today() -> i32 {
        bucket_of(jiff::Timestamp::now().as_millisecond())
    }

    /// Whether a record is so old that the inbox cannot tell any more whether its event was handled; by the last [`InboxDays::refresh`].
    pub fn expired(&self, timestamp_ms: i64) -> bool {
        lock(&self.span).forgets(bucket_of(timestamp_ms))
    }

    /// Makes the missing partitions from one day to another, both included.
    pub async fn prepare(&self, first: i32, last: i32) -> Result<(), Unavailable> {
        let mut lease = self.pool.lend().await?;
        let prepared = lease.client().execute("SELECT tidemill.inbox_prepare($1, $2)", &[&first, &last]).await;
        prepared.map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(())
    }

    /// Forgets the oldest day below `before` and returns it; none if there is none. Waits for its locks only a moment: an error may mean that
    /// others had them.
    pub async fn forget(&self, before: i32) -> Result<Option<i32>, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let row = lease.client().query_one("SELECT tidemill.inbox_forget($1)", &[&before]).await;
        let day = row.map_err(|error| Unavailable(describe(&error)))?.get(0);
        lease.give_back();
        Ok(day)
    }

    /// Learns which days are forgotten.
    pub async fn refresh(&self) -> Result<InboxSpan, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let row = lease.client().query_opt("SELECT low, forgotten_below FROM tidemill.inbox_span", &[]).await;
        let row = row.map_err(|error| Unavailable(describe(&error)))?;
        let span = row.map(|row| InboxSpan { low: row.get(0), forgotten_below: row.get(1) }).unwrap_or_default();
        lease.give_back();
        *lock(&self.span) = span;
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_days_that_had_a_partition_are_forgotten() {
        let span = InboxSpan { low: Some(100), forgotten_below: Some(103) };
        assert_eq!([99, 100, 102, 103].map(|day| span.forgets(day)), [false, true, true, false]);
        assert!(!InboxSpan { low: Some(100), forgotten_below: None }.forgets(100));
        assert!(!InboxSpan::default().forgets(0));
    }
}
