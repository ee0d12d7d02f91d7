//! What became of an attempt, and which rows may run now.

use super::{Claim, Consumer, Due, ParkColumns, Parked, burial_locks};
use crate::store::error::{Unavailable, describe};
use crate::store::pool::Connection;
use crate::store::presence::gone;
use crate::store::{Identity, InboxDays, Pool, Record, Scope, bucket_of};
use bytes::Bytes;
use futures_util::future;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
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

/// An SQL condition: a process has ended while it ran the row, or one that is not this expression has lost its claim. It may be what ends processes.
macro_rules! suspect {
    ($owner:literal) => {
        concat!("(deaths > 0 OR (claim IS NOT NULL AND owner <> ", $owner, "))")
    };
}

/// Rows that may run now, suspects apart. By group and topic, which one handler reads: the one that parked them may have had another name.
pub(in crate::store) const CLAIM: &str = concat!(
    "WITH plain AS (SELECT id, due FROM tidemill.waiting \
                     WHERE due <= clock_timestamp() AND consumer_group || '/' || topic = ANY($4) \
                       AND NOT ",
    suspect!("$1"),
    "                ORDER BY due LIMIT $3 FOR UPDATE SKIP LOCKED), \
        suspect AS (SELECT id, due FROM tidemill.waiting \
                     WHERE due <= clock_timestamp() AND consumer_group || '/' || topic = ANY($4) \
                       AND ",
    suspect!("$1"),
    "                ORDER BY due LIMIT $5 FOR UPDATE SKIP LOCKED) \
     UPDATE tidemill.waiting w \
       SET deaths = CASE WHEN w.claim IS NOT NULL AND w.owner <> $1 AND ",
    gone!("w.owner"),
    " THEN w.deaths + 1 ELSE w.deaths END, \
           claim = gen_random_uuid(), owner = $1, due = clock_timestamp() + $2 * interval '1 millisecond' \
      FROM (SELECT id, due, false AS suspect FROM plain UNION ALL SELECT id, due, true FROM suspect) d \
     WHERE w.id = d.id \
    RETURNING w.id, w.claim, w.scope, w.topic, w.key, w.consumer_group, w.partition, w.record_offset, w.record_time, w.value, \
              w.header_names, w.header_values, w.source, w.event_id, w.type, w.attempts, w.deaths, \
              (extract(epoch FROM clock_timestamp() - d.due) * 1000)::int8, w.dead_letter IS NOT NULL, d.suspect, \
              EXISTS (SELECT 1 FROM tidemill.dead_letters l WHERE l.id = w.dead_letter AND l.scope <> w.scope)"
);

/// How long until the next row of these groups and topics may run.
pub(in crate::store) const NEXT: &str = concat!(
    "SELECT (extract(epoch FROM min(due) - clock_timestamp()) * 1000)::int8 FROM tidemill.waiting \
    WHERE due IS NOT NULL AND consumer_group || '/' || topic = ANY($1) \
       AND ($3 OR due > clock_timestamp() OR NOT ",
    suspect!("$2"),
    ")"
);

/// What becomes of a row whose attempt failed.
pub(in crate::store) const FAIL: &str = "SELECT tidemill.fail($1, $2, $3, $4, $5, $6, $7)";

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
        self.transaction(async |Connection { client, host, .. }| {
            if !host.note_one(client, consumer.scope, &event.identity).await? {
                return Ok(Outcome::Gone);
            }
            let locks = burial_locks(consumer.scope, &event.record.topic, event.record.key.as_deref());
            client.query(&host.locks, &[&locks]).await?;
            let columns = ParkColumns::new(consumer, std::slice::from_ref(event));
            let row = client.query_one(&host.park, &columns.params()).await?.get(0);
            client.query_one(&host.fail, &Fail::of(row, None, attempt).params()).await.map(|row| outcome(&row))
        })
        .await
    }

    /// A waiting row has failed once more. One trip: a key that keeps failing has an attempt, and this, for each of its events.
    pub async fn failed_again(&self, claim: &Claim, attempt: &Attempt) -> Result<Outcome, Unavailable> {
        let locks = burial_locks(claim.scope, &claim.topic, claim.key.as_deref());
        let fail = Fail::of(claim.id, Some(claim.token), attempt);
        self.once(async |Connection { client, host, .. }| {
            let (locks, fail) = ([&locks as &(dyn ToSql + Sync)], fail.params());
            let (begun, locked, failed, committed) = future::join4(
                client.batch_execute("BEGIN"),
                client.query(&host.locks, &locks),
                client.query_one(&host.fail, &fail),
                client.batch_execute("COMMIT"),
            )
            .await;
            // After an error COMMIT is a rollback, and answers as if nothing were wrong.
            begun.and(locked.map(drop))?;
            let row = failed?;
            committed.map(|()| outcome(&row))
        })
        .await
    }

    /// Gives a claim back without an attempt having been made.
    pub async fn release(&self, claim: &Claim, delay: Duration) -> Result<(), Unavailable> {
        let sql = "UPDATE tidemill.waiting SET claim = NULL, owner = NULL, due = clock_timestamp() + $3 * interval '1 millisecond' \
                   WHERE id = $1 AND claim = $2";
        let delay = delay.as_millis() as f64;
        self.once(async |connection| connection.client.execute(sql, &[&claim.id, &claim.token, &delay]).await.map(drop)).await
    }

    /// Takes a waiting row away that nobody is to handle; the next one of its key may run. False if the claim is not valid any more.
    pub async fn skip(&self, claim: &Claim) -> Result<bool, Unavailable> {
        let outcome = self.transaction(async |Connection { client, host, .. }| {
            let locks = burial_locks(claim.scope, &claim.topic, claim.key.as_deref());
            client.query(&host.locks, &[&locks]).await?;
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

    /// Up to `limit` rows of these groups and topics that may run now, and `suspects` of those that may end this process; they are its own for
    /// `lease`. Among replicas each row is one's.
    pub async fn claim(
        &self,
        read: &[(&str, &str)],
        lease: Duration,
        limit: i64,
        suspects: i64,
    ) -> Result<Vec<Due>, Unavailable> {
        let lease = lease.as_millis() as f64;
        let read = joined(read);
        let params: [&(dyn ToSql + Sync); 5] = [&self.owner, &lease, &limit, &read, &suspects];
        let rows = self.once(async |Connection { client, host, .. }| client.query(&host.claim, &params).await).await?;
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
        self.once(async |Connection { client, .. }| {
            let gone: HashSet<Uuid> = client.query(look, &[&self.owner]).await?.iter().map(|row| row.get(0)).collect();
            let both: Vec<Uuid> = gone.intersection(before).copied().collect();
            if !both.is_empty() {
                client.execute(free, &[&both]).await?;
            }
            Ok(gone)
        })
        .await
    }

    /// How long until the next row of these groups and topics may run; `None` if none waits. `suspects`: also one that may end this process.
    pub async fn next(&self, read: &[(&str, &str)], suspects: bool) -> Result<Option<Duration>, Unavailable> {
        let read = joined(read);
        let params: [&(dyn ToSql + Sync); 3] = [&read, &self.owner, &suspects];
        let row = self.once(async |Connection { client, host, .. }| client.query_one(&host.next, &params).await).await?;
        Ok(row.get::<_, Option<i64>>(0).map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// Tells all replicas that a group has stopped on a revision, for so long; or (none) that it goes on.
    pub async fn stop(&self, scope: Scope, revision: &str, hold: Option<Duration>) -> Result<(), Unavailable> {
        let stop = "UPDATE tidemill.scopes SET stopped_on = $2, stopped_until = clock_timestamp() + $3 * interval '1 millisecond' WHERE scope = $1";
        let go_on = "UPDATE tidemill.scopes SET stopped_on = NULL, stopped_until = NULL WHERE scope = $1 AND stopped_on = $2";
        self.once(async |Connection { client, .. }| match hold.map(|hold| hold.as_millis() as f64) {
            Some(hold) => client.execute(stop, &[&scope.0, &revision, &hold]).await.map(drop),
            None => client.execute(go_on, &[&scope.0, &revision]).await.map(drop),
        })
        .await
    }

    /// The groups that have stopped on some replica, with the revision.
    pub async fn stopped(&self) -> Result<HashSet<(String, String)>, Unavailable> {
        let sql = "SELECT consumer_group, stopped_on FROM tidemill.scopes WHERE stopped_until > clock_timestamp() AND state <> 'retired'";
        let rows = self.once(async |Connection { client, .. }| client.query(sql, &[]).await).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Per handler, counted up to 10,000: how many events wait, and how many are dead.
    pub async fn counts(&self) -> Result<Vec<(String, i64, i64)>, Unavailable> {
        let sql = "SELECT handler, sum(waiting)::int8, sum(dead)::int8 FROM ( \
                     SELECT handler, count(*) AS waiting, 0 AS dead FROM (SELECT handler FROM tidemill.waiting LIMIT 10000) w GROUP BY handler \
                     UNION ALL \
                     SELECT handler, 0, count(*) FROM (SELECT handler FROM tidemill.dead_letters WHERE state = 'dead' LIMIT 10000) d \
                      GROUP BY handler) c GROUP BY handler ORDER BY handler";
        let rows = self.once(async |connection| connection.client.query(sql, &[]).await).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    /// Per group and topic, counted up to 10,000: how many events wait.
    pub async fn by_topic(&self) -> Result<Vec<(String, String, i64)>, Unavailable> {
        let sql = "SELECT consumer_group, topic, count(*) \
                   FROM (SELECT consumer_group, topic FROM tidemill.waiting LIMIT 10000) w GROUP BY 1, 2 ORDER BY 1, 2";
        let rows = self.once(async |connection| connection.client.query(sql, &[]).await).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
    }

    async fn once<T>(&self, work: impl AsyncFnOnce(&Connection) -> Result<T, tokio_postgres::Error>) -> Result<T, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let patience = self.pool.patience();
        let done = tokio::time::timeout(patience, work(lease.connection())).await;
        let done = done.map_err(|_| Unavailable(format!("the database did not answer within {patience:?}")))?;
        let done = done.map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(done)
    }

    /// A transaction that commits unless its work says that there is nothing to keep. If its end is not known it is an error: the caller's next
    /// try finds out from the rows.
    async fn transaction(
        &self,
        work: impl AsyncFnOnce(&Connection) -> Result<Outcome, tokio_postgres::Error>,
    ) -> Result<Outcome, Unavailable> {
        self.once(async |connection| {
            connection.client.batch_execute("BEGIN").await?;
            let outcome = work(connection).await?;
            connection.client.batch_execute(if outcome == Outcome::Gone { "ROLLBACK" } else { "COMMIT" }).await?;
            Ok(outcome)
        })
        .await
    }
}

/// Groups and topics as the statements compare them.
fn joined(read: &[(&str, &str)]) -> Vec<String> {
    read.iter().map(|(group, topic)| format!("{group}/{topic}")).collect()
}

/// The parameters of [`FAIL`].
struct Fail<'a> {
    row: i64,
    run: Option<Uuid>,
    attempt: &'a Attempt,
    reason: String,
    delay: i64,
}

impl<'a> Fail<'a> {
    fn of(row: i64, run: Option<Uuid>, attempt: &'a Attempt) -> Self {
        let delay = i64::try_from(attempt.delay.as_millis()).unwrap_or(i64::MAX);
        Self { row, run, attempt, reason: readable(&attempt.reason), delay }
    }

    fn params(&self) -> [&(dyn ToSql + Sync); 7] {
        let Attempt { class, revision, exhausted, .. } = self.attempt;
        [&self.row, &self.run, class, &self.reason, revision, &self.delay, exhausted]
    }
}

/// The answer of [`FAIL`].
fn outcome(row: &Row) -> Outcome {
    match row.get(0) {
        "retry" => Outcome::Retry,
        "dead" => Outcome::Dead,
        _ => Outcome::Gone,
    }
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
    let (source, id): (String, String) = (row.get(12), row.get(13));
    let identity = Identity { source: source.into(), id: id.into(), bucket: bucket_of(timestamp) };
    Due {
        claim: Claim {
            id: row.get(0),
            token: row.get(1),
            scope: Scope(row.get(2)),
            topic: topic.clone(),
            key: key.clone(),
            // With today's date, whatever its record's: units of another day run alone in their scope, and all days are looked at for it.
            anew: row.get::<_, bool>(20).then(|| Identity { bucket: InboxDays::today(), ..identity.clone() }),
        },
        group: row.get(5),
        record: Arc::new(Record {
            topic: topic.into(),
            partition: row.get(6),
            offset: row.get(7),
            key: key.map(Bytes::from),
            value: row.get::<_, Option<Vec<u8>>>(9).map(Bytes::from),
            headers: names.into_iter().zip(values).map(|(name, value)| (name.into(), value.map(Bytes::from))).collect(),
            timestamp,
        }),
        identity,
        type_: row.get(14),
        attempts: row.get(15),
        deaths: row.get(16),
        suspect: row.get(19),
        late: Duration::from_millis(u64::try_from(row.get::<_, i64>(17)).unwrap_or(0)),
        replays: row.get(18),
    }
}
