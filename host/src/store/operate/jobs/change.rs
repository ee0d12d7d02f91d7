//! Cancelling jobs, and firing them before their time.
//!
//! Rows are locked first, and those that somebody else has locked are left alone; a firing takes the locks of its keys after that, as all who
//! fire do.

use super::super::actions::record;
use super::super::change::Step;
use super::super::view::base64;
use super::super::{OperateError, Order, Outcome, Report, Session};
use super::which::missing;
use super::{COLUMNS, Job, JobFilter, JobId, RECORD};
use crate::store::jobs::{Claimed, FIRE_LOCKED, Round};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::HashMap;
use tokio_postgres::{Row, Transaction};

/// Takes jobs away: their next events, and those after, are never published. The whole job is kept in the action's details.
#[derive(Debug, Clone, Copy)]
pub struct CancelJobs;

/// Publishes the next event of jobs at once, with the id and the `time` of its scheduled time, which is thereby done: a single job is
/// over, a repeating one goes on with the time after that.
#[derive(Debug, Clone, Copy)]
pub struct RunJobs;

impl Session {
    /// Cancels jobs.
    pub async fn cancel_jobs(&mut self, order: &Order<JobFilter>) -> Result<Report<Job, JobId>, OperateError> {
        let chosen = self.chosen_jobs(&order.filter).await?;
        let rows = missing(&order.filter, &chosen);
        self.steps(&CancelJobs, order, chosen, rows).await
    }

    /// Fires jobs.
    pub async fn run_jobs(&mut self, order: &Order<JobFilter>) -> Result<Report<Job, JobId>, OperateError> {
        let chosen = self.chosen_jobs(&order.filter).await?;
        let rows = missing(&order.filter, &chosen);
        let report = self.steps(&RunJobs, order, chosen, rows).await?;
        if report.changed > 0 && !order.dry_run {
            // Outside of the transaction, and no failure of it: without the call the relays look a moment later.
            let _ = self.client.batch_execute("NOTIFY tidemill_outbox").await;
        }
        Ok(report)
    }
}

#[async_trait]
impl Step<JobId, JobFilter> for CancelJobs {
    type Row = Job;
    const ACTION: &'static str = "jobs.cancel";

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[JobId],
        order: &Order<JobFilter>,
    ) -> Result<Vec<Outcome<Job, JobId>>, OperateError> {
        let rows = locked(transaction, ids).await?;
        let jobs: Vec<Job> = rows.iter().map(Job::read).collect();
        let (apps, names): (Vec<&str>, Vec<&str>) = jobs.iter().map(|job| (job.id.app.as_str(), job.id.name.as_str())).unzip();
        let sql = "DELETE FROM tidemill.jobs j USING unnest($1::text[], $2::text[]) AS w(app, name) WHERE j.app = w.app AND j.name = w.name";
        transaction.execute(sql, &[&apps, &names]).await?;
        let lines: Vec<_> = jobs.iter().zip(&rows).map(|(job, row)| (subject(&job.id), kept(job, row))).collect();
        record(transaction, order, Self::ACTION, &lines).await?;
        let done = jobs.into_iter().map(|job| Outcome::done(job.id.clone(), "cancelled", None, job)).collect();
        with_others(transaction, ids, done).await
    }
}

#[async_trait]
impl Step<JobId, JobFilter> for RunJobs {
    type Row = Job;
    const ACTION: &'static str = "jobs.run-now";

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[JobId],
        order: &Order<JobFilter>,
    ) -> Result<Vec<Outcome<Job, JobId>>, OperateError> {
        let (mut round, mut outcomes, mut lines) = (Round::default(), Vec::new(), Vec::new());
        for row in locked(transaction, ids).await? {
            let (job, claimed) = (Job::read(&row), Claimed::read(&row));
            if let Some(reason) = claimed.spoilt() {
                let reason = format!("its next time cannot be computed: {reason}");
                outcomes.push(Outcome::failed(job.id.clone(), "spoilt", reason, Some(job)));
                continue;
            }
            round.add(claimed);
            let details = json!({ "handler": job.handler, "topic": job.topic, "due": job.due, "event_id": job.event_id });
            lines.push((subject(&job.id), details));
            outcomes.push(Outcome::done(job.id.clone(), "fired", Some(format!("event {}", job.event_id)), job));
        }
        let statement = transaction.prepare(FIRE_LOCKED).await?;
        round.write(transaction, &statement).await?;
        record(transaction, order, Self::ACTION, &lines).await?;
        with_others(transaction, ids, outcomes).await
    }
}

/// Locks the jobs that nobody else has locked.
async fn locked(transaction: &Transaction<'_>, ids: &[JobId]) -> Result<Vec<Row>, OperateError> {
    let (apps, names) = JobId::columns(ids);
    let sql = format!(
        "SELECT {COLUMNS}, {RECORD} FROM tidemill.jobs r JOIN unnest($1::text[], $2::text[]) AS w(app, name) \
                ON r.app = w.app AND r.name = w.name ORDER BY r.app, r.name FOR UPDATE OF r SKIP LOCKED"
    );
    Ok(transaction.query(&sql, &[&apps, &names]).await?)
}

/// The outcomes, and those of the jobs that were not locked.
async fn with_others(
    transaction: &Transaction<'_>,
    ids: &[JobId],
    mut outcomes: Vec<Outcome<Job, JobId>>,
) -> Result<Vec<Outcome<Job, JobId>>, OperateError> {
    let others: Vec<JobId> = ids.iter().filter(|id| outcomes.iter().all(|outcome| outcome.id != **id)).cloned().collect();
    if others.is_empty() {
        return Ok(outcomes);
    }
    let (apps, names) = JobId::columns(&others);
    let sql = format!(
        "SELECT {COLUMNS} FROM tidemill.jobs r JOIN unnest($1::text[], $2::text[]) AS w(app, name) ON r.app = w.app AND r.name = w.name"
    );
    let rows = transaction.query(&sql, &[&apps, &names]).await?;
    let mut busy: HashMap<JobId, Job> = rows.iter().map(Job::read).map(|job| (job.id.clone(), job)).collect();
    outcomes.extend(others.into_iter().map(|id| match busy.remove(&id) {
        Some(job) => Outcome::failed(id, "busy", "it is being fired or changed right now; try again", Some(job)),
        None => Outcome::failed(id, "missing", "it was gone in the meantime", None),
    }));
    Ok(outcomes)
}

fn subject(id: &JobId) -> String {
    format!("job/{id}")
}

/// The whole job, so that one that was cancelled by mistake is not lost for ever. Bytes are base64: they may be no text, or have zeros in it.
fn kept(job: &Job, row: &Row) -> Value {
    let mut details = serde_json::to_value(job).unwrap_or_default();
    details["key_base64"] = json!(job.key.as_ref().map(|key| base64(&key.0)));
    details["value_base64"] = json!(base64(row.get("value")));
    if let Some(details) = details.as_object_mut() {
        ["id", "state", "late_ms", "key"].iter().for_each(|field| drop(details.remove(*field)));
    }
    details
}
