//! The jobs that a unit schedules, as the columns of one call.

use super::{JobRow, Micros, Repeats};
use crate::store::outbox::key_bucket;
use tokio_postgres::types::ToSql;

/// Schedules jobs of one handler; the earliest due time of the new ones, in microseconds since 1970.
pub(in crate::store) const SCHEDULE: &str = "\
    SELECT tidemill.schedule_jobs($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

/// The same for one job, with scalars instead of arrays; no row if the job that was there is kept.
pub(in crate::store) const SCHEDULE_ONE: &str = "\
    WITH written AS ( \
        INSERT INTO tidemill.jobs AS j (app, handler, name, due, period, cron, time_zone, missed, bucket, topic, key, event, correlation_id, \
                                        traceparent) \
        VALUES ($1, $2, $3, coalesce($4, clock_timestamp() + $5::bigint * interval '1 microsecond'), $5, $6, $7, $8, $10, $11, $12, $13, $14, $15) \
        ON CONFLICT (app, name) DO UPDATE \
            SET incarnation = gen_random_uuid(), due = excluded.due, period = excluded.period, cron = excluded.cron, \
                time_zone = excluded.time_zone, missed = excluded.missed, bucket = excluded.bucket, topic = excluded.topic, key = excluded.key, \
                event = excluded.event, correlation_id = excluded.correlation_id, traceparent = excluded.traceparent, \
                scheduled_at = excluded.scheduled_at \
            WHERE tidemill.may_replace_job(j.app, j.name, j.handler, $2, $9) \
        RETURNING due) \
    SELECT (extract(epoch FROM due) * 1000000)::bigint FROM written";

/// See the SQL function for their meaning.
pub(in crate::store) struct JobColumns<'a> {
    app: &'a str,
    handler: &'a str,
    names: Vec<&'a str>,
    dues: Vec<Option<Micros>>,
    periods: Vec<Option<i64>>,
    crons: Vec<Option<&'a str>>,
    zones: Vec<Option<&'a str>>,
    missed: Vec<&'a str>,
    keeps: Vec<bool>,
    buckets: Vec<i16>,
    topics: Vec<&'a str>,
    keys: Vec<Option<&'a [u8]>>,
    events: Vec<&'a [u8]>,
    correlations: Vec<Option<&'a str>>,
    traces: Vec<Option<&'a str>>,
}

impl<'a> JobColumns<'a> {
    pub(in crate::store) fn new(app: &'a str, handler: &'a str, jobs: &'a [JobRow]) -> Self {
        let cron = |job: &'a JobRow| match &job.repeats {
            Some(Repeats::Cron { expression, time_zone }) => Some((expression.as_str(), time_zone.as_str())),
            _ => None,
        };
        let period = |job: &JobRow| match job.repeats {
            Some(Repeats::Every(period)) => Some(period),
            _ => None,
        };
        Self {
            app,
            handler,
            names: jobs.iter().map(|job| job.name.as_str()).collect(),
            dues: jobs.iter().map(|job| job.due.map(Micros)).collect(),
            periods: jobs.iter().map(period).collect(),
            crons: jobs.iter().map(|job| cron(job).map(|(expression, _)| expression)).collect(),
            zones: jobs.iter().map(|job| cron(job).map(|(_, zone)| zone)).collect(),
            missed: jobs.iter().map(|job| job.missed).collect(),
            keeps: jobs.iter().map(|job| job.keep).collect(),
            buckets: jobs.iter().map(|job| key_bucket(&job.event.topic, job.event.key.as_deref())).collect(),
            topics: jobs.iter().map(|job| job.event.topic.as_str()).collect(),
            keys: jobs.iter().map(|job| job.event.key.as_deref()).collect(),
            events: jobs.iter().map(|job| job.event.value.as_slice()).collect(),
            correlations: jobs.iter().map(|job| job.event.correlation_id.as_deref()).collect(),
            traces: jobs.iter().map(|job| job.event.traceparent.as_deref()).collect(),
        }
    }

    pub(in crate::store) fn params(&self) -> [&(dyn ToSql + Sync); 15] {
        [
            &self.app,
            &self.handler,
            &self.names,
            &self.dues,
            &self.periods,
            &self.crons,
            &self.zones,
            &self.missed,
            &self.keeps,
            &self.buckets,
            &self.topics,
            &self.keys,
            &self.events,
            &self.correlations,
            &self.traces,
        ]
    }

    /// The parameters of [`SCHEDULE_ONE`], if there is one job.
    pub(in crate::store) fn single(&self) -> Option<[&(dyn ToSql + Sync); 15]> {
        (self.names.len() == 1).then(|| -> [&(dyn ToSql + Sync); 15] {
            [
                &self.app,
                &self.handler,
                &self.names[0],
                &self.dues[0],
                &self.periods[0],
                &self.crons[0],
                &self.zones[0],
                &self.missed[0],
                &self.keeps[0],
                &self.buckets[0],
                &self.topics[0],
                &self.keys[0],
                &self.events[0],
                &self.correlations[0],
                &self.traces[0],
            ]
        })
    }

    pub(in crate::store) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
