//! The inbox: which events a consumer group has handled. Written first in the unit, it is the fence against every second effect.

use super::Pool;
use super::error::{Unavailable, describe};

/// A generation of a consumer group, as the inbox knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(pub i32);

/// An event's identity, and the day of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `id`.
    pub id: String,
    /// The record's timestamp as a day, see [`bucket_of`].
    pub bucket: i32,
}

/// The inbox bucket of a record timestamp: days since 1970-01-01 UTC. Absurd timestamps keep their absurd day.
pub fn bucket_of(timestamp_ms: i64) -> i32 {
    i32::try_from(timestamp_ms.div_euclid(86_400_000)).unwrap_or(i32::MAX)
}

/// Notes the identities of a batch (each once), in offset order, and returns those that are new.
///
/// A concurrent unit that has noted the same one makes this wait for its end. The other days are looked at as well, since a copy
/// of an event may carry another timestamp; `OFFSET 0` keeps that a probe per event, where a join would read the whole inbox.
pub(super) const NOTE: &str = "\
    INSERT INTO tidemill.inbox (scope, bucket, source, id) \
    SELECT $1, g.bucket, g.source, g.id \
    FROM unnest($2::int4[], $3::text[], $4::text[]) WITH ORDINALITY AS g(bucket, source, id, n) \
    WHERE NOT EXISTS (SELECT 1 FROM tidemill.inbox i \
                      WHERE i.scope = $1 AND i.source = g.source AND i.id = g.id AND i.bucket <> g.bucket OFFSET 0) \
    ORDER BY g.n \
    ON CONFLICT DO NOTHING \
    RETURNING source, id";

/// Which keys of a batch may not run with it: those with waiting rows (counted up to the limit), and those with single attempts. A statement of
/// its own after [`NOTE`], which may have waited for the unit that parked them.
pub(super) const HELD: &str = "\
    SELECT k.key, \
           (SELECT count(*) FROM (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND w.key = k.key LIMIT $4) c), \
           EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND s.key = k.key) \
    FROM unnest($3::bytea[]) AS k(key) \
    WHERE EXISTS (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND w.key = k.key) \
       OR EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND s.key = k.key)";

/// Housekeeping of the inbox, outside any unit.
#[derive(Debug, Clone)]
pub struct Inbox {
    pool: Pool,
}

impl Inbox {
    /// The inbox of the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// The current scope of a consumer group, made at its first use.
    pub async fn scope(&self, group: &str) -> Result<Scope, Unavailable> {
        let sql = "WITH made AS (INSERT INTO tidemill.scopes (consumer_group) \
                                 SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM tidemill.scopes WHERE consumer_group = $1) \
                                 ON CONFLICT DO NOTHING RETURNING scope) \
                   SELECT scope FROM made UNION ALL \
                   (SELECT scope FROM tidemill.scopes WHERE consumer_group = $1 ORDER BY generation DESC LIMIT 1)";
        let mut lease = self.pool.lend().await?;
        // Two replicas that start together: one of them sees neither row in its first snapshot, but does in its second.
        for _ in 0..3 {
            let row = lease.client().query_opt(sql, &[&group]).await.map_err(|error| Unavailable(describe(&error)))?;
            if let Some(row) = row {
                lease.give_back();
                return Ok(Scope(row.get(0)));
            }
        }
        Err(Unavailable(format!("the inbox scope of consumer group `{group}` could not be made")))
    }

    /// Makes the partitions for the days around today that are missing.
    pub async fn prepare(&self, days_back: i32, days_ahead: i32) -> Result<(), Unavailable> {
        let today = bucket_of(jiff::Timestamp::now().as_millisecond());
        let mut lease = self.pool.lend().await?;
        let sql = "SELECT tidemill.inbox_prepare($1, $2)";
        lease
            .client()
            .execute(sql, &[&(today - days_back), &(today + days_ahead)])
            .await
            .map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::bucket_of;

    #[test]
    fn a_bucket_is_a_day_and_absurd_times_have_one_too() {
        assert_eq!(bucket_of(0), 0);
        assert_eq!(bucket_of(86_399_999), 0);
        assert_eq!(bucket_of(86_400_000), 1);
        assert_eq!(bucket_of(-1), -1);
        assert_eq!(bucket_of(i64::MAX), i32::MAX);
    }
}
