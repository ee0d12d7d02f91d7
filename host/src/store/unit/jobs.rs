//! Jobs of a unit. Scheduling waits for the end of the unit and costs no trip of its own; cancelling and looking answer at once.

use super::end::earlier;
use super::{Unit, lease};
use crate::store::error::StatementError;
use crate::store::jobs::{JobColumns, JobRow, JobStatus, Micros};
use futures_util::future;
use tokio_postgres::{Row, Statement, types::ToSql};

use super::statements::HostStatements;

impl Unit {
    /// Schedules a job, with the unit.
    pub fn schedule(&mut self, job: JobRow) -> Result<(), StatementError> {
        self.ensure_sound()?;
        self.bytes += job.event.value.len();
        self.keys.extend(job.event.key.clone());
        self.jobs_changed += 1;
        self.jobs.push(job);
        Ok(())
    }

    /// How many jobs the unit has scheduled and cancelled so far.
    pub fn jobs_changed(&self) -> usize {
        self.jobs_changed
    }

    /// Cancels jobs, of the unit's own handler or of `others`; true for each name that was waiting. Waits for a firing that is under way.
    pub async fn cancel_jobs(&mut self, others: &[String], names: &[String]) -> Result<Vec<bool>, StatementError> {
        self.jobs_changed += names.len();
        let app = self.context.schema.clone();
        let own = self.context.handler.clone();
        let handlers: Vec<&str> = std::iter::once(&*own).chain(others.iter().map(String::as_str)).collect();
        let row = self.ask_host(|host| &host.cancel, &[&&*app, &handlers, &names]).await?;
        Ok(row.map(|row| row.get(0)).unwrap_or_default())
    }

    /// The waiting job of a name, as this unit sees it.
    pub async fn job(&mut self, name: &str) -> Result<Option<JobStatus>, StatementError> {
        let app = self.context.schema.clone();
        let row = self.ask_host(|host| &host.job, &[&&*app, &name]).await?;
        Ok(row.as_ref().map(JobStatus::read))
    }

    /// Now, by the database's clock, in microseconds since 1970.
    pub async fn database_now(&mut self) -> Result<i64, StatementError> {
        let row = self.ask_host(|host| &host.moment, &[]).await?;
        Ok(row.map(|row| row.get::<_, Micros>(0).0).unwrap_or_default())
    }

    /// Runs a statement of the host in the middle of the unit, behind the jobs that wait for its end.
    async fn ask_host(
        &mut self,
        statement: impl Fn(&HostStatements) -> &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StatementError> {
        self.ensure_sound()?;
        let patience = self.patience();
        let asked = tokio::time::timeout(patience, self.ask_host_inner(statement, params)).await;
        self.in_time(asked, patience)
    }

    async fn ask_host_inner(
        &mut self,
        statement: impl Fn(&HostStatements) -> &Statement,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<Row>, StatementError> {
        let context = self.context.clone();
        let jobs = std::mem::take(&mut self.jobs);
        let columns = JobColumns::new(&context.schema, &context.handler, &jobs);
        let opening = (!self.began).then(|| context.begin());
        let (assumed, ask_xid) = (self.assumed, self.xid.is_none());
        let connection = lease(&mut self.lease, &self.pool).await?.connection();
        let (client, host) = (&connection.client, &connection.host);
        let resume = connection.scope(context.scope).filter(|_| assumed).map(|scope| &scope.resume);
        self.busy = true;
        let begin = async {
            match &opening {
                Some(begin) => client.batch_execute(begin).await,
                None => Ok(()),
            }
        };
        let resume = async {
            match resume {
                Some(resume) => client.query_one(resume, &[]).await.map(drop),
                None => Ok(()),
            }
        };
        let xid = async {
            match ask_xid {
                true => client.query_one(&host.xid, &[]).await.map(|row| row.get::<_, Option<String>>(0)),
                false => Ok(None),
            }
        };
        let (begun, resumed, scheduled, row, id) =
            future::join5(begin, resume, host.schedule(client, &columns), client.query_opt(statement(host), params), xid).await;
        self.busy = false;
        // The handler's next statement assumes its role again.
        (self.began, self.assumed) = (true, false);
        begun?;
        resumed?;
        self.due = earlier(self.due, scheduled?);
        let row = row?;
        if ask_xid {
            self.xid = id?;
        }
        self.wrote |= self.xid.is_some();
        Ok(row)
    }
}
