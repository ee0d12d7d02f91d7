//! Jobs: list, show, cancel, fire before their time.
//!
//! - `which`: names, conditions and pages
//! - `change`: cancelling and firing

mod change;
mod which;

pub use change::{CancelJobs, RunJobs};
pub use which::{JobCursor, JobFilter, JobId};

use super::{Bytes, Detail, OperateError, Session, Time};
use serde::Serialize;
use tokio_postgres::Row;

/// What lists show of a job. The first eight are those of a claim, with the scheduled time in place of the present.
const COLUMNS: &str = "r.app, r.name, r.due, r.period, r.cron, r.time_zone, r.missed, r.due AS moment, r.handler, r.topic, r.key, r.repeats, \
    tidemill.job_event_id(r.app, r.name, r.incarnation, r.due) AS event_id, r.correlation_id, r.traceparent, r.scheduled_at, \
    floor(extract(epoch FROM clock_timestamp() - r.due) * 1000)::int8 AS late_ms";
/// The record of the next event, as tidemill.publish_jobs writes it.
const RECORD: &str = "convert_to('{\"specversion\":\"1.0\",\"id\":\"' || tidemill.job_event_id(r.app, r.name, r.incarnation, r.due) \
    || '\",\"time\":\"' || to_char(r.due AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || '\",', 'UTF8') || r.event AS value, \
    ARRAY['content-type'] AS header_names, ARRAY['application/cloudevents+json; charset=UTF-8'::bytea] AS header_values";

/// A job that waits for its time.
#[derive(Debug, Clone, Serialize)]
pub struct Job {
    /// `APP/NAME`.
    pub id: JobId,
    /// The handler that scheduled it.
    pub handler: String,
    /// `due` if its time has come, else `scheduled`.
    pub state: &'static str,
    /// The scheduled time of its next event.
    pub due: Time,
    /// For how long it has been due, in milliseconds by the database's clock; none before its time.
    pub late_ms: Option<i64>,
    /// Microseconds between two events, if it repeats in even steps.
    pub period_micros: Option<i64>,
    /// Its cron expression, if it repeats by the calendar.
    pub cron: Option<String>,
    /// The time zone of that.
    pub time_zone: Option<String>,
    /// What it does about missed times, if it repeats.
    pub missed: Option<String>,
    /// The topic of its events.
    pub topic: String,
    /// Their record key.
    pub key: Option<Bytes>,
    /// The `id` of its next event.
    pub event_id: String,
    /// The correlation id of what scheduled it.
    pub correlation_id: Option<String>,
    /// Its trace.
    pub traceparent: Option<String>,
    /// When it was scheduled.
    pub scheduled_at: Time,
}

impl Job {
    fn read(row: &Row) -> Self {
        let late_ms = Some(row.get::<_, i64>("late_ms")).filter(|late| *late >= 0);
        let repeats: bool = row.get("repeats");
        Self {
            id: JobId { app: row.get("app"), name: row.get("name") },
            handler: row.get("handler"),
            state: if late_ms.is_some() { "due" } else { "scheduled" },
            due: Time::from_column(row.get("due")),
            late_ms,
            period_micros: row.get("period"),
            cron: row.get("cron"),
            time_zone: row.get("time_zone"),
            missed: repeats.then(|| row.get("missed")),
            topic: row.get("topic"),
            key: row.get::<_, Option<Vec<u8>>>("key").map(Bytes),
            event_id: row.get::<_, uuid::Uuid>("event_id").to_string(),
            correlation_id: row.get("correlation_id"),
            traceparent: row.get("traceparent"),
            scheduled_at: Time::from_column(row.get("scheduled_at")),
        }
    }
}

impl Session {
    /// One job, with the record of its next event.
    pub async fn job(&self, id: &JobId) -> Result<Detail<Job>, OperateError> {
        let sql = format!("SELECT {COLUMNS}, {RECORD} FROM tidemill.jobs r WHERE r.app = $1 AND r.name = $2");
        let row = self.client.query_opt(&sql, &[&id.app, &id.name]).await?;
        let row =
            row.ok_or_else(|| OperateError::Missing(format!("there is no job {id}; it has fired, was cancelled, or never was")))?;
        Ok(Detail::read(Job::read(&row), &row))
    }
}
