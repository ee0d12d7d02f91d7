//! The host's own statements around a handler's, and how they travel together.

use super::claim::ClaimedKey;
use super::types::{Param, Rows, UnitContext, WaitingChanges};
use crate::store::error::{StatementError, StatementErrorKind as Kind, describe};
use crate::store::idempotency::{self, Answered};
use crate::store::inbox::{self, Identity, Scope};
use crate::store::jobs::{self, JobColumns};
use crate::store::outbox::{self, Columns, Envelope};
use crate::store::pool::Connection;
use crate::store::waiting::{self, ParkColumns};
use futures_util::{StreamExt, future, pin_mut};
use std::borrow::Cow;
use std::time::Duration;
use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

/// Sets the unit's role and settings; `SET LOCAL` in a form that is prepared once.
const ASSUME: &str = "SELECT set_config('role', $1, true), set_config('search_path', $2, true), \
     set_config('tidemill.subject', $3, true), set_config('statement_timeout', $4, true), set_config('lock_timeout', $5, true), \
     set_config('plan_cache_mode', 'auto', true), set_config('enable_seqscan', $6, true)";
/// Back to the login role, for the host's own rows at the end. They have time of their own: a disk that is slow is not the handler's fault. The
/// search path goes back as well: a plan prepared under one path is made
/// anew under another, so each statement here is prepared under the path that it runs with.
pub(super) const RESUME: &str = "SELECT set_config('role', 'none', true), set_config('search_path', 'pg_catalog', true), \
     set_config('statement_timeout', '60s', true), set_config('plan_cache_mode', 'force_generic_plan', true)";
/// The fence of a waiting row: whoever holds another claim finds nothing.
const RESUME_WAITING: &str = "SELECT id FROM tidemill.waiting WHERE id = $1 AND claim = $2 FOR UPDATE";
const DONE: &str = "SELECT tidemill.done($1)";
const TRUST: &str = "DELETE FROM tidemill.single_attempts WHERE scope = $1 AND topic = $2 AND sha256(key) = sha256($3)";
pub(super) const XID: &str = "SELECT pg_current_xact_id_if_assigned()::text";
const ASSIGN_XID: &str = "SELECT pg_current_xact_id()::text";
/// The database's clock decides about jobs.
const MOMENT: &str = "SELECT clock_timestamp()";
const CONSTRAINTS: &str = "SET CONSTRAINTS ALL IMMEDIATE";

/// Runs a prepared statement and keeps its rows, up to `limit` bytes.
pub(super) async fn collect(
    client: &tokio_postgres::Client,
    statement: &Statement,
    params: &[Param],
    limit: usize,
) -> Result<Result<Rows, StatementError>, tokio_postgres::Error> {
    let stream = client.query_raw(statement, params).await?;
    pin_mut!(stream);
    let mut rows = Vec::new();
    let mut size = 0;
    while let Some(row) = stream.next().await {
        let row = row?;
        size += row.raw_size_bytes();
        if size > limit {
            let message =
                format!("the result is larger than the limit `sql_result` ({limit} bytes); select less or page through it");
            return Ok(Err(StatementError::new(Kind::Limit, message)));
        }
        rows.push(row);
    }
    let affected = stream.rows_affected().unwrap_or(rows.len() as u64);
    let columns = statement.columns().iter().map(|c| (c.name().to_owned(), c.type_().clone())).collect();
    Ok(Ok(Rows { columns, rows, affected }))
}

/// What a unit says before the handler's first statement, in the same trip.
pub(super) struct Opening {
    pub(super) begin: Option<Cow<'static, str>>,
    pub(super) assume: Option<UnitContext>,
    /// The longest wait for a lock.
    pub(super) lock_timeout: Duration,
}

impl Opening {
    pub(super) async fn send(&self, connection: &Connection) -> Result<(), StatementError> {
        let client = &connection.client;
        let begin = async {
            match &self.begin {
                Some(begin) => client.batch_execute(begin).await,
                None => Ok(()),
            }
        };
        let assume = async {
            let Some(context) = &self.assume else { return Ok(()) };
            let role: &str = &context.role;
            let path = format!("\"{}\", pg_temp", context.schema);
            let timeout = context.sql_time.as_millis().to_string();
            // Who waits for a lock is not at fault, who computes too long is: the shorter of the two timeouts tells them apart.
            let lock_timeout = (context.sql_time * 4 / 5).min(self.lock_timeout).as_millis().max(1).to_string();
            let params: [&(dyn ToSql + Sync); 6] = [&role, &path, &context.subject, &timeout, &lock_timeout, &connection.seqscan];
            client.query_one(&connection.host.assume, &params).await.map(drop).map_err(|error| (error, role))
        };
        let (begun, assumed) = future::join(begin, assume).await;
        begun?;
        assumed.map_err(|(error, role)| {
            let advice = format!("{}; `tidemill migrate` makes the role `{role}` and grants it to the login", describe(&error));
            StatementError::new(Kind::Unavailable, advice)
        })
    }
}

/// The host's own statements around a handler's, prepared when a connection is made.
pub(in crate::store) struct HostStatements {
    pub(super) enter: Statement,
    pub(super) note: Statement,
    pub(super) held: Statement,
    pub(super) claimed: Statement,
    pub(super) claim_lock: Statement,
    pub(super) claim_find: Statement,
    pub(super) claim_xid: Statement,
    pub(super) xid: Statement,
    assume: Statement,
    pub(super) constraints: Statement,
    pub(in crate::store) locks: Statement,
    insert: Statement,
    pub(in crate::store) park: Statement,
    pub(in crate::store) fail: Statement,
    pub(in crate::store) claim: Statement,
    pub(in crate::store) next: Statement,
    done: Statement,
    trust: Statement,
    keep: Statement,
    schedule: Statement,
    schedule_one: Statement,
    pub(super) cancel: Statement,
    pub(super) job: Statement,
    pub(super) moment: Statement,
}

impl HostStatements {
    pub(in crate::store) async fn prepare(client: &tokio_postgres::Client) -> Result<Self, tokio_postgres::Error> {
        let [enter, note, xid, assume, constraints, locks, insert] =
            [inbox::ENTER, inbox::NOTE, XID, ASSUME, CONSTRAINTS, outbox::KEY_LOCKS, outbox::INSERT]
                .map(|text| client.prepare(text));
        let (enter, note, xid, assume) = future::try_join4(enter, note, xid, assume).await?;
        let (constraints, locks, insert) = future::try_join3(constraints, locks, insert).await?;
        let [fail, claim, next] = [waiting::FAIL, waiting::CLAIM, waiting::NEXT].map(|text| client.prepare(text));
        let [held, claimed, park, done, trust] =
            [inbox::HELD, RESUME_WAITING, waiting::PARK, DONE, TRUST].map(|text| client.prepare(text));
        let (journal, unit) = (future::try_join3(fail, claim, next), future::try_join5(held, claimed, park, done, trust));
        let ((fail, claim, next), (held, claimed, park, done, trust)) = future::try_join(journal, unit).await?;
        let [claim_lock, claim_find, claim_xid, keep] =
            [idempotency::LOCK, idempotency::FIND, ASSIGN_XID, idempotency::KEEP].map(|text| client.prepare(text));
        let (claim_lock, claim_find, claim_xid, keep) = future::try_join4(claim_lock, claim_find, claim_xid, keep).await?;
        let [schedule, schedule_one, cancel, job, moment] =
            [jobs::SCHEDULE, jobs::SCHEDULE_ONE, jobs::CANCEL, jobs::GET, MOMENT].map(|text| client.prepare(text));
        let (schedule, schedule_one, cancel, job, moment) =
            future::try_join5(schedule, schedule_one, cancel, job, moment).await?;
        Ok(Self {
            enter,
            note,
            held,
            claimed,
            claim_lock,
            claim_find,
            claim_xid,
            xid,
            assume,
            constraints,
            locks,
            insert,
            park,
            fail,
            claim,
            next,
            done,
            trust,
            keep,
            schedule,
            schedule_one,
            cancel,
            job,
            moment,
        })
    }

    /// Notes one event as handled, in one trip; false if it was already.
    pub(in crate::store) async fn note_one(
        &self,
        client: &tokio_postgres::Client,
        scope: Scope,
        Identity { source, id, bucket }: &Identity,
    ) -> Result<bool, tokio_postgres::Error> {
        let (buckets, sources, ids) = (vec![*bucket], vec![&**source], vec![&**id]);
        let days: [&(dyn ToSql + Sync); 3] = [&scope.0, bucket, bucket];
        let identity: [&(dyn ToSql + Sync); 4] = [&scope.0, &buckets, &sources, &ids];
        let (entered, noted) = future::join(client.query_one(&self.enter, &days), client.query(&self.note, &identity)).await;
        entered.and(noted).map(|noted| !noted.is_empty())
    }

    /// Sends the end of a unit in the one lock order: constraints, jobs, the answer under its key (which nobody else writes), key
    /// locks, rows. The first error is the one that counts. Returns the earliest due time of the scheduled jobs.
    pub(super) async fn flush(
        &self,
        client: &tokio_postgres::Client,
        resume: Option<&Statement>,
        ending: &Ending<'_>,
    ) -> Result<Option<i64>, tokio_postgres::Error> {
        let constraints = client.execute(&self.constraints, &[]);
        let resume = async {
            match resume {
                Some(resume) => client.query_one(resume, &[]).await.map(drop),
                None => Ok(()),
            }
        };
        let keep = async {
            match &ending.answered {
                Some(answered) => client.execute(&self.keep, &answered.params()).await.map(drop),
                None => Ok(()),
            }
        };
        let locks = async {
            match ending.locks.is_empty() {
                true => Ok(()),
                false => client.query(&self.locks, &[&ending.locks]).await.map(drop),
            }
        };
        let params = ending.outbox.params();
        let insert = async {
            match ending.outbox.is_empty() {
                true => Ok(()),
                false => client.execute(&self.insert, &params).await.map(drop),
            }
        };
        let rows = future::join(self.flush_waiting(client, ending), insert);
        let jobs = self.schedule(client, &ending.jobs);
        let kept = future::join(jobs, keep);
        let (constraints, resume, (jobs, keep), locks, (waiting, insert)) =
            future::join5(constraints, resume, kept, locks, rows).await;
        let due = constraints.and(resume.and(jobs))?;
        keep.and(locks).and(waiting).and(insert).map(|()| due)
    }

    /// Writes jobs; their earliest due time.
    pub(super) async fn schedule(
        &self,
        client: &tokio_postgres::Client,
        jobs: &JobColumns<'_>,
    ) -> Result<Option<i64>, tokio_postgres::Error> {
        if let Some(job) = jobs.single() {
            return client.query_opt(&self.schedule_one, &job).await.map(|row| row.map(|row| row.get(0)));
        }
        match jobs.is_empty() {
            true => Ok(None),
            false => client.query_one(&self.schedule, &jobs.params()).await.map(|row| row.get(0)),
        }
    }

    /// What the end of a unit changes of the events that wait.
    async fn flush_waiting(&self, client: &tokio_postgres::Client, ending: &Ending<'_>) -> Result<(), tokio_postgres::Error> {
        let park = async {
            match &ending.parked {
                Some(columns) => client.query(&self.park, &columns.params()).await.map(drop),
                None => Ok(()),
            }
        };
        let done = async {
            match &ending.done {
                Some(id) => client.query(&self.done, &[id]).await.map(drop),
                None => Ok(()),
            }
        };
        let trusted = future::join_all(ending.trusted.iter().map(async |(scope, topic, key)| {
            let params: [&(dyn ToSql + Sync); 3] = [scope, topic, key];
            client.execute(&self.trust, &params).await.map(drop)
        }));
        let (park, done, trusted) = future::join3(park, done, trusted).await;
        park.and(done).and(trusted.into_iter().collect())
    }
}

/// What is written at the end of a unit, with the locks that it needs.
pub(super) struct Ending<'a> {
    locks: Vec<i32>,
    jobs: JobColumns<'a>,
    outbox: Columns<'a>,
    parked: Option<ParkColumns<'a>>,
    done: Option<i64>,
    trusted: Vec<(i32, &'a str, &'a [u8])>,
    answered: Option<Answered<'a>>,
}

impl<'a> Ending<'a> {
    pub(super) fn new(
        jobs: JobColumns<'a>,
        events: &'a [Envelope],
        waiting: &'a WaitingChanges,
        key: Option<&'a ClaimedKey>,
    ) -> Self {
        let outbox = Columns::new(events);
        let mut locks = outbox.locks.clone();
        locks.extend(waiting.locks());
        // One order for all units, or two of them deadlock.
        locks.sort_unstable();
        locks.dedup();
        Self {
            locks,
            jobs,
            outbox,
            parked: waiting.parked.as_ref().map(|(consumer, events)| ParkColumns::new(consumer, events)),
            done: waiting.done.as_ref().map(|claim| claim.id),
            trusted: waiting.trusted.iter().map(|(scope, topic, key)| (scope.0, topic.as_str(), key.as_slice())).collect(),
            answered: key.and_then(|claimed| Some(Answered::new(&claimed.key, claimed.response.as_ref()?))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
            && self.outbox.is_empty()
            && self.parked.is_none()
            && self.done.is_none()
            && self.trusted.is_empty()
            && self.answered.is_none()
    }
}
