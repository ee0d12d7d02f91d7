//! The end of a unit: everything at once, or nothing.

use super::statements::Ending;
use super::{Kept, Unit, lease};
use crate::store::error::{CommitError, StatementError, Unavailable, describe, is_plain_error};
use crate::store::jobs::{JobColumns, JobRow};
use crate::store::outcome;
use futures_util::future;
use std::time::Duration;

/// How long a rollback may take before its connection is given up, which ends the transaction as well.
const PATIENCE: Duration = Duration::from_secs(2);

impl Unit {
    /// Ends the unit, keeping everything. When this returns `Ok`, it is committed.
    pub async fn commit(mut self) -> Result<Kept, CommitError> {
        if let Some(error) = self.doomed.take() {
            self.rollback().await;
            return Err(CommitError::Doomed(error));
        }
        if !self.began && self.outbox.is_empty() && self.waiting.is_empty() && self.jobs.is_empty() {
            return Ok(Kept::default());
        }
        let published = !self.outbox.is_empty();
        if (published || !self.jobs.is_empty()) && self.xid.is_none() {
            // The flush is the first write: its id must come back before COMMIT goes out.
            let patience = self.context.outcome_patience;
            let flushed = tokio::time::timeout(patience, self.flush()).await;
            let flushed =
                flushed.unwrap_or_else(|_| Err(Unavailable(format!("the database did not answer within {patience:?}")).into()));
            if let Err(error) = flushed {
                return Err(self.refused(error).await);
            }
        }
        self.finish().await.map(|due| Kept { published, due })
    }

    /// Writes jobs and outbox rows and learns the transaction's id, without ending the transaction.
    async fn flush(&mut self) -> Result<(), StatementError> {
        let (events, waiting) = (std::mem::take(&mut self.outbox), std::mem::take(&mut self.waiting));
        // A unit with a key has its id from the start and does not come here.
        let jobs = std::mem::take(&mut self.jobs);
        let ending = Ending::new(JobColumns::new(&self.context.schema, &self.context.handler, &jobs), &events, &waiting, None);
        let (began, assumed, scope) = (self.began, self.assumed, self.context.scope);
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let client = &connection.client;
        self.busy = true;
        let opening = self.context.begin();
        let begin = async { if began { Ok(()) } else { client.batch_execute(&opening).await } };
        let resume = connection.scope(scope).filter(|_| assumed).map(|scope| &scope.resume);
        let (begun, flushed, id) =
            future::join3(begin, connection.host.flush(client, resume, &ending), client.query_one(&connection.host.xid, &[]))
                .await;
        self.busy = false;
        self.began = true;
        self.assumed = false;
        begun?;
        self.due = earlier(self.due, flushed?);
        self.xid = id?.get(0);
        self.wrote = true;
        Ok(())
    }

    /// The trip with COMMIT. Returns the earliest due time of the unit's jobs.
    async fn finish(mut self) -> Result<Option<i64>, CommitError> {
        let (events, waiting, key) = (std::mem::take(&mut self.outbox), std::mem::take(&mut self.waiting), self.key.take());
        let jobs = std::mem::take(&mut self.jobs);
        let context = self.context.clone();
        let ending = Ending::new(JobColumns::new(&context.schema, &context.handler, &jobs), &events, &waiting, key.as_ref());
        let assumed = self.assumed;
        let Some(mut lease) = self.lease.take() else {
            return Err(CommitError::Failed("the unit lost its connection".to_owned()));
        };
        let connection = lease.connection();
        let (client, host) = (&connection.client, &connection.host);
        let resume = connection.scope(self.context.scope).filter(|_| assumed).map(|scope| &scope.resume);
        let flush = async {
            match ending.is_empty() {
                true => client.execute(&host.constraints, &[]).await.map(|_| None),
                false => host.flush(client, resume, &ending).await,
            }
        };
        let flushed_rows = !ending.is_empty();
        let both = future::join(flush, client.batch_execute("COMMIT"));
        let ended = tokio::time::timeout(self.context.outcome_patience, both).await;
        // Silence is like a lost connection: what became of COMMIT must be asked.
        let Ok((flushed, committed)) = ended else {
            drop(lease);
            self.ask("the database did not answer COMMIT in time", flushed_rows).await?;
            return Ok(self.unanswered(&jobs));
        };
        let error = match (flushed, committed) {
            (Ok(due), Ok(())) => {
                lease.give_back();
                return Ok(earlier(self.due, due));
            }
            // An ERROR before COMMIT: the server has answered it with ROLLBACK, whatever COMMIT's answer looked like.
            (Err(error), Ok(())) if is_plain_error(&error) => {
                lease.give_back();
                return Err(CommitError::Refused(error.into()));
            }
            // An ERROR in answer to COMMIT itself, from a trigger that waited for it, for instance.
            (Ok(_), Err(error)) if is_plain_error(&error) => {
                lease.give_back();
                return Err(CommitError::Refused(error.into()));
            }
            // COMMIT was answered, but what should have gone before it never reached the server: no success may come of that.
            (Err(error), Ok(())) if !client.is_closed() => return Err(CommitError::Unknown(describe(&error))),
            (Err(error), _) | (_, Err(error)) => error,
        };
        drop(lease);
        self.ask(&describe(&error), flushed_rows).await?;
        Ok(self.unanswered(&jobs))
    }

    /// The earliest due time where the answer that says it was lost: that of any time, if it was the database's to compute.
    fn unanswered(&self, jobs: &[JobRow]) -> Option<i64> {
        jobs.iter().map(|job| job.due.unwrap_or(i64::MIN)).fold(self.due, |due, next| earlier(due, Some(next)))
    }

    /// Learns the outcome after COMMIT was sent and its answer was lost.
    async fn ask(&self, error: &str, flushed: bool) -> Result<(), CommitError> {
        match (&self.xid, self.wrote || flushed) {
            (Some(xid), true) => {
                tracing::warn!(error, xid, "the connection broke around a commit; asking for its outcome");
                outcome::learn(&self.pool, xid, self.made, self.context.outcome_patience).await
            }
            _ => Err(CommitError::Failed(error.to_owned())),
        }
    }

    async fn refused(self, error: StatementError) -> CommitError {
        self.rollback().await;
        match error.is_host_fault() {
            true => CommitError::Failed(error.message),
            false => CommitError::Refused(error),
        }
    }

    /// Ends the unit, keeping nothing.
    pub async fn rollback(mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        if !self.began && !self.busy {
            lease.give_back();
            return;
        }
        let (busy, claimed) = (self.busy, self.has_key());
        let stale = self.doomed.as_ref().is_some_and(StatementError::is_stale);
        if stale {
            // Before anything is tried again: all connections may have the same statement. This one forgets the host's own as well, by ending.
            self.pool.forget_statements();
        }
        let tls = self.pool.tls();
        let ended = tokio::spawn(async move {
            let connection = lease.connection();
            if busy {
                // A cancel request may arrive late, and would hit whoever has the connection then: it is not used again.
                let cancelled = tokio::time::timeout(PATIENCE, connection.cancel.cancel_query(tls)).await;
                if let Ok(Err(error)) = cancelled {
                    tracing::debug!(error = %describe(&error), "a statement could not be cancelled");
                }
                if claimed {
                    let _ = tokio::time::timeout(PATIENCE, connection.client.batch_execute("ROLLBACK")).await;
                }
                return;
            }
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, connection.client.batch_execute("ROLLBACK")).await
                && !stale
            {
                lease.give_back();
            }
        });
        // In the background: the caller's answer need not wait for it, and COMMIT was never sent. But whoever is told that a request failed
        // may repeat it at once, and must find its key free.
        if claimed {
            let _ = ended.await;
        }
    }
}

/// The earlier one of two times, where there are two.
pub(super) fn earlier(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    [one, other].into_iter().flatten().min()
}
