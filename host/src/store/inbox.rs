//! The inbox: which events a consumer group has handled. Written first in the unit, it is the fence against every second effect.

use bytestring::ByteString;

/// A generation of a consumer group, as the inbox knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope(pub i32);

/// An event's identity, and the day of its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// CloudEvents `source`.
    pub source: ByteString,
    /// CloudEvents `id`.
    pub id: ByteString,
    /// The record's timestamp as a day, see [`bucket_of`].
    pub bucket: i32,
}

/// The inbox bucket of a record timestamp: days since 1970-01-01 UTC. Absurd timestamps keep their absurd day.
pub fn bucket_of(timestamp_ms: i64) -> i32 {
    i32::try_from(timestamp_ms.div_euclid(86_400_000)).unwrap_or(i32::MAX)
}

/// Notes the identities of a batch in offset order and returns those that are new, each once. Copies may be among them, but only of one day.
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

/// Said before [`NOTE`], with the first and the last day of the batch. The transaction's id travels back with it: it must be known before COMMIT is
/// sent, and [`NOTE`] will draw one.
pub(super) const ENTER: &str = "SELECT tidemill.enter_day($1, $2, $3), pg_current_xact_id()::text";

/// Which keys of a batch, by their hashes, may not run with it: their positions, from 1; how many rows of them wait, counted up to the limit; and
/// whether they have single attempts. A statement of its own after [`NOTE`], which may have waited for the unit that parked them.
///
/// `OFFSET 0` keeps that a probe of the index for each key, where reading all that waits in the topic looks cheaper while it is little.
pub(super) const HELD: &str = "\
    SELECT k.n, \
           (SELECT count(*) FROM (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND sha256(w.key) = k.hash LIMIT $4) c), \
           EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND sha256(s.key) = k.hash OFFSET 0) \
    FROM unnest($3::bytea[]) WITH ORDINALITY AS k(hash, n) \
    WHERE EXISTS (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $2 AND sha256(w.key) = k.hash OFFSET 0) \
       OR EXISTS (SELECT 1 FROM tidemill.single_attempts s WHERE s.scope = $1 AND s.topic = $2 AND sha256(s.key) = k.hash OFFSET 0)";

/// The positions, from 1, of identities that are noted already.
pub(super) const KNOWN: &str = "\
    SELECT g.n FROM unnest($2::int4[], $3::text[], $4::text[]) WITH ORDINALITY AS g(bucket, source, id, n) \
    WHERE EXISTS (SELECT 1 FROM tidemill.inbox i WHERE i.scope = $1 AND i.bucket = g.bucket AND i.source = g.source AND i.id = g.id)";

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
