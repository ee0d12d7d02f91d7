//! The relay's side of the outbox: what waits to be sent.

use super::error::{Unavailable, describe};
use super::slices::Slices;
use std::collections::HashSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

/// A row that waits to be sent.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Its number: per key, the order of the commits.
    pub id: i64,
    /// The slice that its key belongs to.
    pub slice: i16,
    /// Where to.
    pub topic: String,
    /// The record key.
    pub key: Option<Vec<u8>>,
    /// The record value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The record headers in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The record's timestamp, milliseconds since 1970.
    pub timestamp: i64,
}

impl OutboxRow {
    /// What the row counts in bytes; the statements below count the same.
    pub fn size(&self) -> usize {
        self.value.as_ref().map_or(0, Vec::len) + self.key.as_ref().map_or(0, Vec::len) + 100
    }
}

/// Which rows to read.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// Those above this number.
    pub after: i64,
    /// Not these.
    pub known: &'a [i64],
    /// Of these slices.
    pub slices: Slices,
    /// So many at most.
    pub rows: i64,
    /// No further row once those before it have this many bytes.
    pub bytes: i64,
}

/// Topics and keys (`key_topics[i]` beside `keys[i]`) to leave out.
#[derive(Debug, Clone, Default)]
pub struct Beside<'a> {
    /// Whole topics.
    pub topics: Vec<&'a str>,
    /// The topics of the keys.
    pub key_topics: Vec<&'a str>,
    /// The keys.
    pub keys: Vec<&'a [u8]>,
}

/// The relay's side of the outbox: a connection of its own whose plans are pinned.
pub struct Outbox {
    client: Client,
    fetch: Statement,
    delete: Statement,
}

/// Statistics taken while the table is nearly empty make the planner read every dead row; the relay knows better. Custom plans, because
/// only a constant list of known rows is hashed. The timeouts end what a frozen relay has left open, also in the middle of an answer.
const PINNED: &str = "SET enable_bitmapscan = off; SET enable_seqscan = off; SET enable_sort = off; SET plan_cache_mode = force_custom_plan; \
     SET statement_timeout = '60s'; SET idle_session_timeout = '10s'; SET tcp_user_timeout = '10s'; SET application_name = 'tidemill relay'";

/// The rows above $1 by number, without the known ones ($2), of slices ($5), up to $3 rows and $4 bytes. The sum is made of the lengths alone: a
/// value that is too much is never read.
macro_rules! fetch {
    ($beside:literal) => {
        concat!(
            "SELECT id, bucket >> 9, topic, key, value, header_names, header_values, (extract(epoch FROM created_at) * 1000)::int8 \
             FROM (SELECT *, sum(coalesce(octet_length(value), 0) + coalesce(octet_length(key), 0) + 100) \
                             OVER (ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before \
                   FROM tidemill.outbox o WHERE id > $1 AND id <> ALL($2::int8[]) AND (bucket >> 9) = ANY($5::int2[])",
            $beside,
            " ORDER BY id LIMIT $3) page WHERE coalesce(before, 0) < $4 ORDER BY id"
        )
    };
}

const FETCH: &str = fetch!("");

/// The same without blocked topics and keys. `OFFSET 0` keeps the index order that a join would lose.
const FETCH_BESIDE: &str = fetch!(
    " AND topic <> ALL($6::text[]) \
      AND NOT EXISTS (SELECT 1 FROM unnest($7::text[], $8::bytea[]) AS b(topic, key) WHERE b.topic = o.topic AND b.key = o.key OFFSET 0)"
);

const FIRST: &str = "\
    SELECT id, bucket >> 9, topic, key, value, header_names, header_values, (extract(epoch FROM created_at) * 1000)::int8 \
    FROM tidemill.outbox WHERE topic = $1 AND ($2::bytea IS NULL OR key = $2) AND ($3::int8 IS NULL OR id = $3) \
      AND (bucket >> 9) = ANY($4::int2[]) ORDER BY id LIMIT 1";

/// A row that somebody works on is left alone: waiting for his lock would hold up all others, and beats.
const MARK_STUCK: &str = "\
    UPDATE tidemill.outbox SET stuck_since = coalesce(stuck_since, clock_timestamp()), stuck_reason = $2 \
    WHERE id = (SELECT id FROM tidemill.outbox WHERE id = $1 FOR UPDATE SKIP LOCKED)";

impl Outbox {
    /// Opens the connection.
    pub async fn open(pool: &super::Pool) -> Result<Self, Unavailable> {
        let client = pool.dedicated(PINNED).await?;
        let fetch = client.prepare(FETCH).await.map_err(unavailable)?;
        let delete = client.prepare("DELETE FROM tidemill.outbox WHERE id = ANY($1::int8[])").await.map_err(unavailable)?;
        Ok(Self { client, fetch, delete })
    }

    /// Reads a page of rows by number. Statements run in the order in which their futures are polled first.
    pub async fn fetch(&self, page: &Page<'_>) -> Result<Vec<OutboxRow>, Unavailable> {
        let Page { after, known, slices, rows, bytes } = page;
        let found = self.client.query(&self.fetch, &[after, known, rows, bytes, &slices.numbers()]).await;
        Ok(found.map_err(unavailable)?.iter().map(waiting).collect())
    }

    /// The same, leaving out topics and keys.
    pub async fn fetch_beside(&self, page: &Page<'_>, beside: &Beside<'_>) -> Result<Vec<OutboxRow>, Unavailable> {
        let Page { after, known, slices, rows, bytes } = page;
        let slices = slices.numbers();
        let params: [&(dyn ToSql + Sync); 8] =
            [after, known, rows, bytes, &slices, &beside.topics, &beside.key_topics, &beside.keys];
        let found = self.client.query(FETCH_BESIDE, &params).await;
        Ok(found.map_err(unavailable)?.iter().map(waiting).collect())
    }

    /// The first row of a topic, of a key of it, or one row, if it is in these slices.
    pub async fn first_of(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        id: Option<i64>,
        slices: Slices,
    ) -> Result<Option<OutboxRow>, Unavailable> {
        let row = self.client.query_opt(FIRST, &[&topic, &key, &id, &slices.numbers()]).await;
        Ok(row.map_err(unavailable)?.as_ref().map(waiting))
    }

    /// The highest number drawn so far. A new sequence names its first number before anybody has drawn it. (Sessions must not draw numbers in
    /// advance: the identity column has no cache.)
    pub async fn drawn(&self) -> Result<i64, Unavailable> {
        let sql = "SELECT CASE WHEN is_called THEN last_value ELSE last_value - 1 END FROM tidemill.outbox_id_seq";
        let row = self.client.query_one(sql, &[]).await;
        Ok(row.map_err(unavailable)?.get(0))
    }

    /// The transactions, this connection aside, that may hold numbers of rows that nobody can see yet.
    pub async fn writers(&self) -> Result<HashSet<String>, Unavailable> {
        let sql = "SELECT virtualtransaction FROM pg_catalog.pg_locks \
                   WHERE locktype = 'relation' AND relation = 'tidemill.outbox'::regclass AND mode = 'RowExclusiveLock' AND granted \
                     AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
                     AND pid IS DISTINCT FROM pg_backend_pid()";
        let rows = self.client.query(sql, &[]).await.map_err(unavailable)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Forgets rows that the broker has acknowledged.
    pub async fn delete(&self, ids: &[i64]) -> Result<(), Unavailable> {
        if ids.is_empty() {
            return Ok(());
        }
        self.client.execute(&self.delete, &[&ids]).await.map(drop).map_err(unavailable)
    }

    /// Notes that the broker refuses a row.
    pub async fn mark_stuck(&self, id: i64, reason: &str) -> Result<(), Unavailable> {
        self.client.execute(MARK_STUCK, &[&id, &reason]).await.map(drop).map_err(unavailable)
    }

    /// Which of these rows are there and marked as stuck.
    pub async fn still_stuck(&self, ids: &[i64]) -> Result<HashSet<i64>, Unavailable> {
        let sql = "SELECT id FROM tidemill.outbox WHERE id = ANY($1::int8[]) AND stuck_since IS NOT NULL";
        let rows = self.client.query(sql, &[&ids]).await.map_err(unavailable)?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How many rows of these slices wait above `after` (exclusive), among the first 100,000 of all slices there. Rows below it are the
    /// caller's to count: looking for them would step over everything that is deleted and not yet vacuumed.
    pub async fn waiting_above(&self, after: i64, slices: Slices) -> Result<i64, Unavailable> {
        let sql = "SELECT count(*) FROM (SELECT bucket FROM tidemill.outbox WHERE id > $1 ORDER BY id LIMIT 100000) o \
                   WHERE (bucket >> 9) = ANY($2::int2[])";
        let row = self.client.query_one(sql, &[&after, &slices.numbers()]).await.map_err(unavailable)?;
        Ok(row.get(0))
    }
}

fn unavailable(error: tokio_postgres::Error) -> Unavailable {
    Unavailable(describe(&error))
}

fn waiting(row: &tokio_postgres::Row) -> OutboxRow {
    let names: Vec<String> = row.get(5);
    let values: Vec<Option<Vec<u8>>> = row.get(6);
    OutboxRow {
        id: row.get(0),
        slice: row.get(1),
        topic: row.get(2),
        key: row.get(3),
        value: row.get(4),
        headers: names.into_iter().zip(values).collect(),
        timestamp: row.get(7),
    }
}
