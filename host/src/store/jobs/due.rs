//! Firing: what is due becomes outbox rows. Any number of replicas do it side by side; what one has claimed, the others step over.

use super::{Micros, Repeats};
use crate::calendar::{Missed, Repeat};
use crate::store::Pool;
use crate::store::error::{Unavailable, describe};
use tokio_postgres::{Client, GenericClient, Row, Statement};

/// Statistics from when the table was nearly empty must not decide how a million due jobs are found. The timeouts end what a frozen replica
/// has left open.
const PINNED: &str = "SET enable_bitmapscan = off; SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
     SET statement_timeout = '60s'; SET idle_in_transaction_session_timeout = '10s'; SET tcp_user_timeout = '10s'; SET application_name = 'tidemill jobs'";

const FIRE: &str = "SELECT late, moment, next_single, next_repeating FROM tidemill.fire_jobs($1, $2)";

const CLAIM_REPEATING: &str = "\
    SELECT app, name, due, period, cron, time_zone, missed, now(), octet_length(event) AS size FROM tidemill.jobs \
    WHERE repeats AND due <= now() ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED";

/// Publishes events of jobs that this transaction has locked, and moves the jobs on.
pub(in crate::store) const FIRE_LOCKED: &str = "SELECT tidemill.fire_locked_jobs($1, $2, $3, $4, $5)";

/// Repeating jobs claimed at once.
const REPEATING: i64 = 100;
/// Events of one repeating job in one transaction, when it catches up.
const CATCH_UP: usize = 500;
/// Bytes of the events of repeating jobs in one transaction, unless a single one has more: they lie in the server's memory several times over.
const BYTES: usize = 16 << 20;
/// When a job is looked at again whose next time cannot be computed, in microseconds.
const SPOILT_WAITS: i64 = 60 * 1_000_000;

/// What one round of firing did. Times in microseconds since 1970, by the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Fired {
    /// How late each fired job was, in seconds.
    pub late: Vec<f64>,
    /// When the database looked.
    pub moment: i64,
    /// When the next single job is due, among those that were looked at; others may have it in hand.
    pub next_single: Option<i64>,
    /// When the next repeating job is due.
    pub next_repeating: Option<i64>,
}

/// A repeating job whose next time cannot be computed: it waits, and fires when a host comes that can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spoilt {
    /// Its app.
    pub app: String,
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: String,
}

/// A connection that fires jobs.
pub struct JobsDue {
    client: Client,
    fire: Statement,
    claim: Statement,
    fire_locked: Statement,
}

impl JobsDue {
    /// Opens the connection.
    pub async fn open(pool: &Pool) -> Result<Self, Unavailable> {
        let client = pool.dedicated(PINNED).await?;
        let fire = client.prepare(FIRE).await.map_err(unavailable)?;
        let claim = client.prepare(CLAIM_REPEATING).await.map_err(unavailable)?;
        let fire_locked = client.prepare(FIRE_LOCKED).await.map_err(unavailable)?;
        Ok(Self { client, fire, claim, fire_locked })
    }

    /// Fires up to `most` single jobs that are due, of those whose time is not before `since` (microseconds since 1970; none: all).
    pub async fn fire(&self, most: i32, since: Option<i64>) -> Result<Fired, Unavailable> {
        let row = self.client.query_one(&self.fire, &[&most, &Micros(since.unwrap_or(i64::MIN))]).await.map_err(unavailable)?;
        let time = |column: usize| row.get::<_, Option<Micros>>(column).map(|time| time.0);
        Ok(Fired {
            late: row.get::<_, Option<Vec<f64>>>(0).unwrap_or_default(),
            moment: time(1).unwrap_or_default(),
            next_single: time(2),
            next_repeating: time(3),
        })
    }

    /// Fires repeating jobs that are due, some of them; how late each event was in seconds, and the jobs whose next time cannot be computed.
    pub async fn fire_repeating(&self) -> Result<(Vec<f64>, Vec<Spoilt>), Unavailable> {
        self.client.batch_execute("BEGIN").await.map_err(unavailable)?;
        let fired = async {
            let rows = self.client.query(&self.claim, &[&REPEATING]).await?;
            let mut round = Round::default();
            rows.iter().map(Claimed::read).for_each(|job| round.add(job));
            round.write(&self.client, &self.fire_locked).await?;
            self.client.batch_execute("COMMIT").await?;
            Ok((round.late, round.spoilt))
        };
        let fired = fired.await;
        if fired.is_err() && !self.client.is_closed() {
            let _ = self.client.batch_execute("ROLLBACK").await;
        }
        fired.map_err(unavailable)
    }

    /// How many jobs wait, counted up to 10,000.
    pub async fn waiting(&self) -> Result<i64, Unavailable> {
        let sql = "SELECT count(*) FROM (SELECT FROM tidemill.jobs ORDER BY app, name LIMIT 10000) j";
        Ok(self.client.query_one(sql, &[]).await.map_err(unavailable)?.get(0))
    }
}

/// A job that this transaction has locked.
pub(in crate::store) struct Claimed {
    app: String,
    name: String,
    due: i64,
    repeats: Option<Repeats>,
    missed: Missed,
    now: i64,
    /// Bytes of one of its events.
    size: usize,
}

impl Claimed {
    /// Of a row whose first columns are those of a claim. Without a `size`, of jobs that fire once each, theirs does not count.
    pub(in crate::store) fn read(row: &Row) -> Self {
        let (due, now): (Micros, Micros) = (row.get(2), row.get(7));
        let repeats = match (row.get::<_, Option<i64>>(3), row.get(4), row.get(5)) {
            (Some(period), _, _) => Some(Repeats::Every(period)),
            (None, Some(expression), Some(time_zone)) => Some(Repeats::Cron { expression, time_zone }),
            _ => None,
        };
        let missed = Missed::named(row.get(6)).unwrap_or(Missed::Once);
        let size = row.try_get::<_, i32>("size").ok().and_then(|size| usize::try_from(size).ok()).unwrap_or_default();
        Self { app: row.get(0), name: row.get(1), due: due.0, repeats, missed, now: now.0, size }
    }

    /// Why its next time cannot be computed, if it cannot.
    pub(in crate::store) fn spoilt(&self) -> Option<String> {
        self.repeats.as_ref().and_then(|repeats| repeats.parse().err())
    }
}

/// What a transaction fires of the jobs that it has locked.
#[derive(Default)]
pub(in crate::store) struct Round {
    apps: Vec<String>,
    names: Vec<String>,
    nexts: Vec<Option<Micros>>,
    of: Vec<i32>,
    at: Vec<Micros>,
    late: Vec<f64>,
    spoilt: Vec<Spoilt>,
    bytes: usize,
}

impl Round {
    /// Adds what a job fires now. A job that has no room any more stays as it is: it is due, so the next round takes it.
    pub(in crate::store) fn add(&mut self, job: Claimed) {
        if self.bytes >= BYTES {
            return;
        }
        let most = CATCH_UP.min((BYTES - self.bytes) / job.size.max(1));
        let planned = job.repeats.as_ref().map(Repeats::parse).transpose();
        let (fire, next) = match planned {
            Ok(Some(repeat)) => {
                let plan = repeat.plan(job.missed, job.due, job.now, most);
                (plan.fire, plan.next)
            }
            Ok(None) => (vec![job.due], None),
            Err(reason) => {
                self.spoilt.push(Spoilt { app: job.app.clone(), name: job.name.clone(), reason });
                (Vec::new(), Some(job.now + SPOILT_WAITS))
            }
        };
        self.apps.push(job.app);
        self.names.push(job.name);
        self.nexts.push(next.map(Micros));
        let number = i32::try_from(self.apps.len()).unwrap_or(i32::MAX);
        self.bytes += fire.len() * job.size;
        for time in fire {
            self.of.push(number);
            self.at.push(Micros(time));
            self.late.push((job.now - time) as f64 / 1e6);
        }
    }

    pub(in crate::store) async fn write(
        &self,
        client: &impl GenericClient,
        statement: &Statement,
    ) -> Result<(), tokio_postgres::Error> {
        if self.apps.is_empty() {
            return Ok(());
        }
        client.query_one(statement, &[&self.apps, &self.names, &self.nexts, &self.of, &self.at]).await.map(drop)
    }
}

impl Repeats {
    /// The rule, ready to compute with.
    pub(super) fn parse(&self) -> Result<Repeat, String> {
        match self {
            Self::Every(period) => Repeat::every(u64::try_from(*period).unwrap_or_default()),
            Self::Cron { expression, time_zone } => Repeat::cron(expression, time_zone),
        }
    }
}

fn unavailable(error: tokio_postgres::Error) -> Unavailable {
    Unavailable(describe(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_a_round_is_bounded_by_bytes_and_always_gets_on() {
        let job = |name: &str, size| Claimed {
            app: "a".to_owned(),
            name: name.to_owned(),
            due: 0,
            repeats: Some(Repeats::Every(1_000_000)),
            missed: Missed::All,
            now: 1_000_000_000,
            size,
        };
        let mut round = Round::default();
        ["small", "large", "late"].into_iter().zip([10, 1 << 20, 1 << 20]).for_each(|(name, size)| round.add(job(name, size)));
        assert_eq!(round.of, [vec![1; CATCH_UP], vec![2; 15], vec![3]].concat(), "as many as there is room for");
        assert_eq!(round.nexts[1], Some(Micros(15_000_000)), "the rest is due in the next round");
        // No room at all: left as it is.
        round.bytes = BYTES;
        round.add(job("later", 1));
        assert_eq!(round.names, ["small", "large", "late"]);
        let mut alone = Round::default();
        alone.add(job("huge", 2 * BYTES));
        assert_eq!((alone.at.len(), alone.nexts[0]), (1, Some(Micros(1_000_000))), "one at least");
    }
}
