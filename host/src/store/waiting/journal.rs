//! What became of an attempt, and which rows may run now.

use super::{Claim, Consumer, Due, PARK, ParkColumns, Parked, burial_locks};
use crate::store::error::{Unavailable, describe};
use crate::store::outbox::KEY_LOCKS;
use crate::store::presence::gone;
use crate::store::{Identity, Pool, Record, Scope, bucket_of, inbox};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// How much of an error's text is kept.
const REASON: usize = 4_000;

/// A failed attempt at one event.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The kind of failure, such as `trap`.
    pub class: &'static str,
    /// What failed, for people.
    pub reason: String,
    /// The revision that failed.
    pub revision: String,
    /// How long to wait for the next attempt.
    pub delay: Duration,
    /// There is no next attempt.
    pub exhausted: bool,
}

impl Attempt {
    /// One after which there is no other.
    pub fn last(class: &'static str, reason: String, revision: String) -> Self {
        Self { class, reason, revision, delay: Duration::ZERO, exhausted: true }
    }
}

/// What became of an event after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It waits for its next attempt.
    Retry,
    /// It is a dead letter.
    Dead,
    /// Nobody handles it: the active revision does not want it.
    Skipped,
    /// Somebody else has handled it, or runs it now.
    Gone,
}

/// The table's housekeeping, outside any unit.
#[derive(Debug, Clone)]
pub struct Journal {
    pool: Pool,
    /// This process, so that a run which ended with its process can be told from one that ended with its connection.
    owner: Uuid,
}

const CLAIM: &str = concat!(
    "UPDATE tidemill.waiting w \
       SET deaths = CASE WHEN w.claim IS NOT NULL AND w.owner <> $1 AND ",
    gone!("w.owner"),
    " THEN w.deaths + 1 ELSE w.deaths END, \
           claim = gen_random_uuid(), owner = $1, due = clock_timestamp() + $2 * interval '1 millisecond' \
      FROM (SELECT id, due FROM tidemill.waiting \
             WHERE due <= clock_timestamp() AND handler = $3 \
               AND consumer_group || '/' || topic = ANY($5) \
             ORDER BY due LIMIT $4 FOR UPDATE SKIP LOCKED) d \
     WHERE w.id = d.id \
    RETURNING w.id, w.claim, w.scope, w.topic, w.key, w.consumer_group, w.partition, w.record_offset, w.record_time, w.value, \
              w.header_names, w.header_values, w.source, w.event_id, w.type, w.attempts, w.deaths, \
              (extract(epoch FROM clock_timestamp() - d.due) * 1000)::int8, w.dead_letter IS NOT NULL"
);

impl Journal {
    /// The journal of one process.
    pub fn new(pool: Pool) -> Self {
        Self { pool, owner: Uuid::new_v4() }
    }

    /// This process's name in the tables.
    pub fn owner(&self) -> Uuid {
        self.owner
    }

    /// An event has failed alone for the first time: notes it in the inbox and parks or buries it, in one transaction. [`Outcome::Gone`] if the
    /// inbox knows it already.
    pub async fn failed(&self, consumer: &Consumer, event: &Parked, attempt: &Attempt) -> Result<Outcome, Unavailable> {
        self.transaction(async |client| {
            let Identity { source, id, bucket } = &event.identity;
            let (buckets, sources, ids) = (vec![*bucket], vec![source], vec![id]);
            client.query_one(inbox::ENTER, &[&consumer.scope.0, bucket, bucket]).await?;
            if client.query(inbox::NOTE, &[&consumer.scope.0, &buckets, &sources, &ids]).await?.is_empty() {
                return Ok(Outcome::Gone);
            }
            let locks = burial_locks(consumer.scope, &event.record.topic, event.record.key.as_deref());
            client.query(KEY_LOCKS, &[&locks]).await?;
            let columns = ParkColumns::new(consumer, std::slice::from_ref(event));
            let row: i64 = client.query_one(PARK, &columns.params()).await?.get(0);
            fail(client, row, None, attempt).await
        })
        .await
    }

    /// A waiting row has failed once more.
    pub async fn failed_again(&self, claim: &Claim, attempt: &Attempt) -> Result<Outcome, Unavailable> {
        self.transaction(async |client| {
            let locks = burial_locks(claim.scope, &claim.topic, claim.key.as_deref());
            client.query(KEY_LOCKS, &[&locks]).await?;
            fail(client, claim.id, Some(claim.token), attempt).await
        })
        .await
    }

    /// Gives a claim back without an attempt having been made.
    pub async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), Unavailable> {
        let sql = "UPDATE tidemill.waiting SET claim = NULL, owner = NULL, due = clock_timestamp() + $3 * interval '1 millisecond' \
                   WHERE id = $1 AND claim = $2";
        let delay = delay.as_millis() as f64;
        self.once(async |client| client.execute(sql, &[&claim.id, &claim.token, &delay]).await.map(drop)).await
    }

    /// Takes a waiting row away that nobody is to handle; the next one of its key may run. False if the claim is not valid any more.
    pub async fn skip(&self, claim: &Claim) -> Result<bool, Unavailable> {
        let outcome = self.transaction(async |client| {
            let locks = burial_locks(claim.scope, &claim.topic, claim.key.as_deref());
            client.query(KEY_LOCKS, &[&locks]).await?;
            let gone = "DELETE FROM tidemill.waiting WHERE id = $1 AND claim = $2 AND dead_letter IS NULL";
            if client.execute(gone, &[&claim.id, &claim.token]).await? == 0 {
                return Ok(Outcome::Gone);
            }
            if let Some(key) = &claim.key {
                client.query_one("SELECT tidemill.promote($1, $2, $3)", &[&claim.scope.0, &claim.topic, key]).await?;
            }
            Ok(Outcome::Skipped)
        });
        Ok(outcome.await? == Outcome::Skipped)
    }

    /// Up to `limit` rows of a handler that may run now, of the groups and topics that it reads; they are this process's for `lease`. Among
    /// replicas each row is one's.
    pub async fn claim(
        &self,
        handler: &str,
        read: &[(&str, &str)],
        lease: Duration,
        limit: i64,
    ) -> Result<Vec<Due>, Unavailable> {
        let lease = lease.as_millis() as f64;
        let read: Vec<String> = read.iter().map(|(group, topic)| format!("{group}/{topic}")).collect();
        let params: [&(dyn ToSql + Sync); 5] = [&self.owner, &lease, &handler, &limit, &read];
        let rows = self.once(async |client| client.query(CLAIM, &params).await).await?;
        Ok(rows.iter().map(due).collect())
    }

    /// Lets rows run again whose run has ended with its process, before their time is over. Only of processes that were gone at the last look,
    /// too (`before`): a sign of life is lost for a moment with its connection, or with the server. Returns those that are gone now.
    pub async fn free(&self, before: &HashSet<Uuid>) -> Result<HashSet<Uuid>, Unavailable> {
        let look =
            concat!("SELECT DISTINCT owner FROM tidemill.waiting WHERE claim IS NOT NULL AND owner <> $1 AND ", gone!("owner"));
        let free = "UPDATE tidemill.waiting w SET due = clock_timestamp() \
            FROM (SELECT id FROM tidemill.waiting WHERE claim IS NOT NULL AND owner = ANY($1) AND due > clock_timestamp() FOR UPDATE SKIP LOCKED) l \
            WHERE w.id = l.id";
        self.once(async |client| {
            let gone: HashSet<Uuid> = client.query(look, &[&self.owner]).await?.iter().map(|row| row.get(0)).collect();
            let both: Vec<Uuid> = gone.intersection(before).copied().collect();
            if !both.is_empty() {
                client.execute(free, &[&both]).await?;
            }
            Ok(gone)
        })
        .await
    }

    /// How long until the next row of these handlers, groups and topics may run; `None` if none waits.
    pub async fn next(&self, read: &[(&str, &str, &str)]) -> Result<Option<Duration>, Unavailable> {
        let sql = "SELECT (extract(epoch FROM min(due) - clock_timestamp()) * 1000)::int8 FROM tidemill.waiting \
                   WHERE due IS NOT NULL AND handler || '/' || consumer_group || '/' || topic = ANY($1)";
        let read: Vec<String> = read.iter().map(|(handler, group, topic)| format!("{handler}/{group}/{topic}")).collect();
        let row = self.once(async |client| client.query_one(sql, &[&read]).await).await?;
        Ok(row.get::<_, Option<i64>>(0).map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// Per handler, counted up to 10,000: how many events wait, and how many are dead.
    pub async fn counts(&self) -> Result<Vec<(String, i64, i64)>, Unavailable> {
        let sql = "SELECT handler, sum(waiting)::int8, sum(dead)::int8 FROM ( \
                     SELECT handler, count(*) AS waiting, 0 AS dead FROM (SELECT handler FROM tidemill.waiting LIMIT 10000) w GROUP BY handler \
                     UNION ALL \
                     SELECT handler, 0, count(*) FROM (SELECT handler FROM tidemill.dead_letters WHERE state = 'dead' LIMIT 10000) d \
                      GROUP BY handler) c GROUP BY handler ORDER BY handler";
        let rows = self.once(async |client| client.query(sql, &[]).await).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Per handler, group and topic, counted up to 10,000: how many events wait.
    pub async fn by_topic(&self) -> Result<Vec<(String, String, String, i64)>, Unavailable> {
        let sql = "SELECT handler, consumer_group, topic, count(*) \
                   FROM (SELECT handler, consumer_group, topic FROM tidemill.waiting LIMIT 10000) w GROUP BY 1, 2, 3 ORDER BY 1, 2, 3";
        let rows = self.once(async |client| client.query(sql, &[]).await).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect())
    }

    async fn once<T>(&self, work: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>) -> Result<T, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let patience = self.pool.patience();
        let done = tokio::time::timeout(patience, work(lease.client())).await;
        let done = done.map_err(|_| Unavailable(format!("the database did not answer within {patience:?}")))?;
        let done = done.map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(done)
    }

    /// A transaction that commits unless its work says that there is nothing to keep. If its end is not known it is an error: the caller's next
    /// try finds out from the rows.
    async fn transaction(
        &self,
        work: impl AsyncFnOnce(&Client) -> Result<Outcome, tokio_postgres::Error>,
    ) -> Result<Outcome, Unavailable> {
        self.once(async |client| {
            client.batch_execute("BEGIN").await?;
            let outcome = work(client).await?;
            client.batch_execute(if outcome == Outcome::Gone { "ROLLBACK" } else { "COMMIT" }).await?;
            Ok(outcome)
        })
        .await
    }
}

async fn fail(client: &Client, row: i64, token: Option<Uuid>, attempt: &Attempt) -> Result<Outcome, tokio_postgres::Error> {
    let reason = readable(&attempt.reason);
    let delay = i64::try_from(attempt.delay.as_millis()).unwrap_or(i64::MAX);
    let sql = "SELECT tidemill.fail($1, $2, $3, $4, $5, $6, $7)";
    let row =
        client.query_one(sql, &[&row, &token, &attempt.class, &reason, &attempt.revision, &delay, &attempt.exhausted]).await?;
    Ok(match row.get::<_, &str>(0) {
        "retry" => Outcome::Retry,
        "dead" => Outcome::Dead,
        _ => Outcome::Gone,
    })
}

/// What PostgreSQL takes as text, and not too much of it.
fn readable(reason: &str) -> String {
    let clean = reason.replace('\0', "\u{fffd}");
    match clean.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

fn due(row: &Row) -> Due {
    let names: Vec<String> = row.get(10);
    let values: Vec<Option<Vec<u8>>> = row.get(11);
    let (topic, key): (String, Option<Vec<u8>>) = (row.get(3), row.get(4));
    let timestamp = row.get(8);
    Due {
        claim: Claim { id: row.get(0), token: row.get(1), scope: Scope(row.get(2)), topic: topic.clone(), key: key.clone() },
        group: row.get(5),
        record: Arc::new(Record {
            topic: topic.into(),
            partition: row.get(6),
            offset: row.get(7),
            key,
            value: row.get(9),
            headers: names.into_iter().zip(values).collect(),
            timestamp,
        }),
        identity: Identity { source: row.get(12), id: row.get(13), bucket: bucket_of(timestamp) },
        type_: row.get(14),
        attempts: row.get(15),
        deaths: row.get(16),
        late: Duration::from_millis(u64::try_from(row.get::<_, i64>(17)).unwrap_or(0)),
        replays: row.get(18),
    }
}
