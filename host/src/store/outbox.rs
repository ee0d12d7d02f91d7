//! The outbox: the one way to send an event, and what the relay reads.

use super::error::{Unavailable, describe};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// The class of the advisory locks that order a key's rows (`pg_advisory_xact_lock(7001, bucket)`).
pub(super) const KEY_LOCKS: &str = "SELECT pg_advisory_xact_lock(7001, b) FROM unnest($1::int4[]) AS b";

/// Adds the rows of one unit, in the order given.
pub(super) const INSERT: &str = "\
    INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, correlation_id, traceparent) \
    SELECT bucket, topic, key, value, ARRAY['content-type'], ARRAY[convert_to(content_type, 'UTF8')], event_id, correlation_id, traceparent \
    FROM unnest($1::int2[], $2::text[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::text[]) \
         WITH ORDINALITY AS r(bucket, topic, key, value, content_type, event_id, correlation_id, traceparent, n) \
    ORDER BY n";

/// An event on its way into the outbox, complete as it will be sent.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Where to.
    pub topic: String,
    /// The record key.
    pub key: Option<Vec<u8>>,
    /// The record value.
    pub value: Vec<u8>,
    /// The record's `content-type` header.
    pub content_type: &'static str,
    /// CloudEvents `id`, for people who look into the table.
    pub event_id: String,
    /// The correlation id, for the same people.
    pub correlation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// The lock bucket of a key within its topic; the SQL function `tidemill.key_bucket` computes the same.
pub fn key_bucket(topic: &str, key: Option<&[u8]>) -> i16 {
    let mut hash = Sha256::new();
    hash.update(topic.as_bytes());
    hash.update([0]);
    hash.update(key.unwrap_or_default());
    let digest = hash.finalize();
    (i16::from(digest[0]) << 4) | i16::from(digest[1] >> 4)
}

/// The rows of a unit as the columns of [`INSERT`], with the locks that they need, sorted.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) locks: Vec<i32>,
    buckets: Vec<i16>,
    topics: Vec<&'a str>,
    keys: Vec<Option<&'a [u8]>>,
    values: Vec<&'a [u8]>,
    content_types: Vec<&'a str>,
    ids: Vec<&'a str>,
    correlations: Vec<Option<&'a str>>,
    traces: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(events: &'a [Envelope]) -> Self {
        let mut columns = Self::default();
        for event in events {
            let bucket = key_bucket(&event.topic, event.key.as_deref());
            // Without a key there is no order to keep.
            if event.key.is_some() {
                columns.locks.push(i32::from(bucket));
            }
            columns.buckets.push(bucket);
            columns.topics.push(&event.topic);
            columns.keys.push(event.key.as_deref());
            columns.values.push(&event.value);
            columns.content_types.push(event.content_type);
            columns.ids.push(&event.event_id);
            columns.correlations.push(event.correlation_id.as_deref());
            columns.traces.push(event.traceparent.as_deref());
        }
        // One order for all units, or two of them deadlock.
        columns.locks.sort_unstable();
        columns.locks.dedup();
        columns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 8] {
        [&self.buckets, &self.topics, &self.keys, &self.values, &self.content_types, &self.ids, &self.correlations, &self.traces]
    }
}

/// A row that waits to be sent.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Its number: per key, the order of the commits.
    pub id: i64,
    /// Where to.
    pub topic: String,
    /// The record key.
    pub key: Option<Vec<u8>>,
    /// The record value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The record's timestamp, milliseconds since 1970.
    pub timestamp: i64,
}

/// The relay's side of the outbox: a connection of its own whose plans are pinned.
pub struct Outbox {
    client: Client,
    fetch: Statement,
    delete: Statement,
}

/// The relay is one at a time: whoever holds this session lock.
const SLICE_LOCK: &str = "SELECT pg_try_advisory_lock(7003, 0)";

/// A relay whose machine is gone gives the slice up after `idle_session_timeout`; a living one asks something every few seconds.
/// Statistics taken while the table is nearly empty make the planner read every dead row; the relay knows better. Custom plans, because
/// only a constant list of known rows is hashed.
const PINNED: &str = "SET enable_bitmapscan = off; SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_custom_plan; \
     SET statement_timeout = '60s'; SET idle_session_timeout = '10s'; SET application_name = 'tidemill relay'";

const FETCH: &str = "\
    SELECT id, topic, key, value, header_names, header_values, (extract(epoch FROM created_at) * 1000)::int8 \
    FROM tidemill.outbox WHERE id > $1 AND id <> ALL($2::int8[]) ORDER BY id LIMIT $3";

/// The same without blocked topics and keys. `OFFSET 0` keeps the index order that a join would lose.
const FETCH_BESIDE: &str = "\
    SELECT id, topic, key, value, header_names, header_values, (extract(epoch FROM created_at) * 1000)::int8 \
    FROM tidemill.outbox o WHERE id > $1 AND id <> ALL($2::int8[]) AND topic <> ALL($4::text[]) \
      AND NOT EXISTS (SELECT 1 FROM unnest($5::text[], $6::bytea[]) AS b(topic, key) WHERE b.topic = o.topic AND b.key = o.key OFFSET 0) \
    ORDER BY id LIMIT $3";

const FIRST: &str = "\
    SELECT id, topic, key, value, header_names, header_values, (extract(epoch FROM created_at) * 1000)::int8 \
    FROM tidemill.outbox WHERE topic = $1 AND ($2::bytea IS NULL OR key = $2) AND ($3::int8 IS NULL OR id = $3) ORDER BY id LIMIT 1";

impl Outbox {
    /// Opens the relay's connection and takes the slice; `None` while another relay holds it.
    pub async fn open(pool: &super::Pool) -> Result<Option<Self>, Unavailable> {
        let client = pool.dedicated(PINNED).await?;
        let unavailable = |error: tokio_postgres::Error| Unavailable(describe(&error));
        let taken: bool = client.query_one(SLICE_LOCK, &[]).await.map_err(unavailable)?.get(0);
        if !taken {
            return Ok(None);
        }
        let fetch = client.prepare(FETCH).await.map_err(unavailable)?;
        let delete = client.prepare("DELETE FROM tidemill.outbox WHERE id = ANY($1::int8[])").await.map_err(unavailable)?;
        Ok(Some(Self { client, fetch, delete }))
    }

    /// Up to `limit` rows above `after` (exclusive), leaving out `known`, by number.
    pub async fn fetch(&self, after: i64, known: &[i64], limit: i64) -> Result<Vec<OutboxRow>, Unavailable> {
        let rows = self.client.query(&self.fetch, &[&after, &known, &limit]).await;
        Ok(rows.map_err(|error| Unavailable(describe(&error)))?.iter().map(waiting).collect())
    }

    /// Like [`Outbox::fetch`], leaving out whole topics and single keys (`key_topics[i]` beside `keys[i]`).
    pub async fn fetch_beside(
        &self,
        after: i64,
        known: &[i64],
        limit: i64,
        topics: &[&str],
        key_topics: &[&str],
        keys: &[&[u8]],
    ) -> Result<Vec<OutboxRow>, Unavailable> {
        let rows = self.client.query(FETCH_BESIDE, &[&after, &known, &limit, &topics, &key_topics, &keys]).await;
        Ok(rows.map_err(|error| Unavailable(describe(&error)))?.iter().map(waiting).collect())
    }

    /// The first row of a topic, of a key of it, or one row.
    pub async fn first_of(&self, topic: &str, key: Option<&[u8]>, id: Option<i64>) -> Result<Option<OutboxRow>, Unavailable> {
        let row = self.client.query_opt(FIRST, &[&topic, &key, &id]).await;
        Ok(row.map_err(|error| Unavailable(describe(&error)))?.as_ref().map(waiting))
    }

    /// The transactions, this connection aside, that may hold numbers of rows that nobody can see yet.
    pub async fn writers(&self) -> Result<HashSet<String>, Unavailable> {
        let sql = "SELECT virtualtransaction FROM pg_catalog.pg_locks \
                   WHERE locktype = 'relation' AND relation = 'tidemill.outbox'::regclass AND mode = 'RowExclusiveLock' AND granted \
                     AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
                     AND pid IS DISTINCT FROM pg_backend_pid()";
        let rows = self.client.query(sql, &[]).await.map_err(|error| Unavailable(describe(&error)))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Forgets rows that the broker has acknowledged.
    pub async fn delete(&self, ids: &[i64]) -> Result<(), Unavailable> {
        self.client.execute(&self.delete, &[&ids]).await.map(drop).map_err(|error| Unavailable(describe(&error)))
    }

    /// Notes that the broker refuses a row.
    pub async fn mark_stuck(&self, id: i64, reason: &str) -> Result<(), Unavailable> {
        let sql =
            "UPDATE tidemill.outbox SET stuck_since = coalesce(stuck_since, clock_timestamp()), stuck_reason = $2 WHERE id = $1";
        self.client.execute(sql, &[&id, &reason]).await.map(drop).map_err(|error| Unavailable(describe(&error)))
    }

    /// How many rows wait above `after` (exclusive), counted up to 100,000. Rows below it are the caller's to count: looking for them would
    /// step over everything that is deleted and not yet vacuumed.
    pub async fn waiting_above(&self, after: i64) -> Result<i64, Unavailable> {
        let sql = "SELECT count(*) FROM (SELECT 1 FROM tidemill.outbox WHERE id > $1 ORDER BY id LIMIT 100000) o";
        let row = self.client.query_one(sql, &[&after]).await.map_err(|error| Unavailable(describe(&error)))?;
        Ok(row.get(0))
    }
}

fn waiting(row: &tokio_postgres::Row) -> OutboxRow {
    let names: Vec<String> = row.get(4);
    let values: Vec<Vec<u8>> = row.get(5);
    OutboxRow {
        id: row.get(0),
        topic: row.get(1),
        key: row.get(2),
        value: row.get(3),
        headers: names.into_iter().zip(values).collect(),
        timestamp: row.get(6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_sorted_and_taken_once() {
        let event = |key: &str| Envelope {
            topic: "orders".into(),
            key: Some(key.into()),
            value: vec![],
            content_type: "text/plain",
            event_id: String::new(),
            correlation_id: None,
            traceparent: None,
        };
        let events: Vec<_> = ["b", "a", "b", "c"].map(event).into();
        let columns = Columns::new(&events);
        assert_eq!(columns.locks.len(), 3);
        assert!(columns.locks.is_sorted());
        assert!(columns.locks.iter().all(|l| (0..4096).contains(l)));
    }
}
