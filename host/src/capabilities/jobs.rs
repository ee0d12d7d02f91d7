//! `tidemill:jobs`: events at a later time. What is scheduled and cancelled belongs to the unit of work.

use super::clock::GuestClock;
use super::publish::{PublishContext, PublishView};
use crate::bindings::jobs::{self, Error, ErrorKind, Existing, Job, Outcome, Status, When};
use crate::bindings::publish as events;
use crate::calendar::{Missed, Repeat, TIMES};
use crate::store::{FOREIGN, JobRow, JobStatus, Repeats, StatementError, StatementErrorKind, TAKEN};
use wasmtime::component::{HasData, Linker};

/// The longest name of a job, in characters.
const LONGEST_NAME: usize = 200;
/// The longest cron expression and the longest name of a time zone, in bytes.
const LONGEST_TEXT: usize = 200;

/// What the jobs calls of one invocation work with.
pub struct JobsContext<'a> {
    /// What publishing works with: the unit, the topics, the causes and their limits.
    pub publish: PublishContext<'a>,
    /// The other handlers of the app whose jobs it may cancel and see; none where the manifest grants no jobs.
    pub cancel: Option<&'a [String]>,
    /// How many jobs one invocation may schedule and cancel.
    pub max_jobs: usize,
    /// Stands still while the database works.
    pub clock: &'a mut GuestClock,
}

/// State that can lend a [`JobsContext`].
pub trait JobsView: PublishView {
    /// Lends it.
    fn jobs(&mut self) -> JobsContext<'_>;
}

struct HasJobs;

impl HasData for HasJobs {
    type Data<'a> = JobsContext<'a>;
}

/// Links `tidemill:jobs/jobs`.
pub fn add_to_linker<T: JobsView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    jobs::add_to_linker::<T, HasJobs>(linker, T::jobs)
}

impl jobs::Host for JobsContext<'_> {
    async fn schedule(&mut self, job: Job, cause: Option<u32>) -> wasmtime::Result<Result<(), Error>> {
        let scheduled = self.schedule_job(job, cause).await;
        Ok(scheduled.inspect_err(|error| self.doom(error)))
    }

    async fn cancel(&mut self, names: Vec<String>) -> wasmtime::Result<Result<Vec<Outcome>, Error>> {
        let cancelled = self.cancel_jobs(&names).await;
        let outcome = |cancelled| if cancelled { Outcome::Cancelled } else { Outcome::NotPending };
        let cancelled = cancelled.map(|cancelled| cancelled.into_iter().map(outcome).collect());
        Ok(cancelled.inspect_err(|error| self.doom(error)))
    }

    async fn get(&mut self, name: String) -> wasmtime::Result<Result<Option<Status>, Error>> {
        let found = self.get_job(name).await;
        Ok(found.inspect_err(|error| self.doom(error)))
    }
}

impl<'a> JobsContext<'a> {
    async fn schedule_job(&mut self, job: Job, cause: Option<u32>) -> Result<(), Error> {
        self.publish.unit.ensure_sound().map_err(to_guest)?;
        self.granted()?;
        check_name(&job.name)?;
        self.room(1)?;
        if job.event.id.is_some() || job.event.time.is_some() {
            let text = format!(
                "job `{}`: its event has `id` or `time`; both follow from the job and its time, so leave them out",
                job.name
            );
            return Err(invalid(text));
        }
        let event = self.publish.deferred(job.event, cause).map_err(refused)?;
        let (due, repeats) = self.first_time(&job.name, job.when).await?;
        let keep = matches!(job.existing, Existing::Keep);
        let row = JobRow { name: job.name, due, repeats, missed: missed(job.missed).name(), keep, event };
        self.publish.unit.schedule(row).map_err(to_guest)
    }

    /// The first time of a job, if it is not the database's to compute, and how it repeats.
    async fn first_time(&mut self, name: &str, when: When) -> Result<(Option<i64>, Option<Repeats>), Error> {
        let wrong = |message: String| invalid(format!("job `{name}`: {message}"));
        let in_range = |time: i64| match TIMES.contains(&time) {
            true => Ok(time),
            false => Err(wrong(format!("{time} µs since 1970 is not in the years 1 to 9999"))),
        };
        match when {
            When::At(time) => Ok((Some(in_range(time)?), None)),
            When::Every(every) => {
                Repeat::every(every.period).map_err(wrong)?;
                let period = i64::try_from(every.period).unwrap_or(i64::MAX);
                Ok((every.first.map(in_range).transpose()?, Some(Repeats::Every(period))))
            }
            When::Cron(cron) => {
                if cron.expression.len() > LONGEST_TEXT || cron.time_zone.len() > LONGEST_TEXT {
                    return Err(wrong(format!("the cron expression or the time zone is longer than {LONGEST_TEXT} bytes")));
                }
                let repeat = Repeat::cron(&cron.expression, &cron.time_zone).map_err(wrong)?;
                // By the database's clock: that of this machine may be wrong.
                self.clock.pause();
                let now = self.publish.unit.database_now().await;
                self.clock.resume();
                let first = repeat.after(now.map_err(to_guest)?).ok_or_else(|| {
                    wrong(format!("`{}` never matches: there is no such day, so it would never fire", cron.expression))
                })?;
                Ok((Some(first), Some(Repeats::Cron { expression: cron.expression, time_zone: cron.time_zone })))
            }
        }
    }

    async fn cancel_jobs(&mut self, names: &[String]) -> Result<Vec<bool>, Error> {
        self.publish.unit.ensure_sound().map_err(to_guest)?;
        let others = self.granted()?;
        names.iter().try_for_each(|name| check_name(name))?;
        self.room(names.len())?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.clock.pause();
        let cancelled = self.publish.unit.cancel_jobs(others, names).await;
        self.clock.resume();
        cancelled.map_err(to_guest)
    }

    async fn get_job(&mut self, name: String) -> Result<Option<Status>, Error> {
        self.publish.unit.ensure_sound().map_err(to_guest)?;
        let others = self.granted()?;
        check_name(&name)?;
        self.clock.pause();
        let found = self.publish.unit.job(&name).await;
        self.clock.resume();
        let Some(job) = found.map_err(to_guest)? else { return Ok(None) };
        if *job.handler != *self.publish.unit.handler() && !others.contains(&job.handler) {
            let message = format!(
                "job `{name}` belongs to handler `{0}`, and `{1}` may not see it; add \"{0}\" to `[jobs] cancel` in handler.toml",
                job.handler,
                self.publish.unit.handler()
            );
            return Err(Error { kind: ErrorKind::NotGranted, message });
        }
        Ok(Some(status(name, job)))
    }

    /// The handlers whose jobs it may cancel beside its own.
    fn granted(&self) -> Result<&'a [String], Error> {
        self.cancel.ok_or_else(|| {
            let message = "the manifest grants no jobs; add `[jobs]` to handler.toml".to_owned();
            Error { kind: ErrorKind::NotGranted, message }
        })
    }

    /// Whether the limit lets through so many more.
    fn room(&self, more: usize) -> Result<(), Error> {
        if self.publish.unit.jobs_changed().saturating_add(more) <= self.max_jobs {
            return Ok(());
        }
        let message = format!("more than {} jobs scheduled or cancelled in one invocation (limit `jobs`)", self.max_jobs);
        Err(Error { kind: ErrorKind::Limit, message })
    }

    fn doom(&mut self, error: &Error) {
        let kind = match error.kind {
            ErrorKind::Limit => StatementErrorKind::Limit,
            ErrorKind::Unavailable => StatementErrorKind::Unavailable,
            _ => StatementErrorKind::Refused,
        };
        self.publish.unit.doom(StatementError::new(kind, error.message.clone()));
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let length = name.chars().count();
    if !(1..=LONGEST_NAME).contains(&length) {
        return Err(invalid(format!("the name of a job has 1 to {LONGEST_NAME} characters, this one has {length}")));
    }
    match name.chars().any(char::is_control) {
        true => Err(invalid(format!("the name of a job has no control characters: {name:?}"))),
        false => Ok(()),
    }
}

fn missed(missed: jobs::Missed) -> Missed {
    match missed {
        jobs::Missed::Once => Missed::Once,
        jobs::Missed::Skip => Missed::Skip,
        jobs::Missed::All => Missed::All,
    }
}

fn status(name: String, job: JobStatus) -> Status {
    Status {
        name,
        handler: job.handler,
        due: job.due,
        repeats: job.repeats,
        topic: job.topic,
        event_id: job.event_id.to_string(),
        scheduled_at: job.scheduled_at,
    }
}

fn invalid(message: String) -> Error {
    Error { kind: ErrorKind::Invalid, message }
}

/// An event that could not be published either.
fn refused(error: events::Error) -> Error {
    let kind = match error.kind {
        events::ErrorKind::TransactionFailed => ErrorKind::TransactionFailed,
        events::ErrorKind::NotGranted => ErrorKind::NotGranted,
        events::ErrorKind::Invalid => ErrorKind::Invalid,
        events::ErrorKind::Limit => ErrorKind::Limit,
        events::ErrorKind::Unavailable => ErrorKind::Unavailable,
    };
    Error { kind, message: error.message }
}

/// What the guest may see of a failure.
fn to_guest(error: StatementError) -> Error {
    let kind = match (error.kind, error.sqlstate.as_deref()) {
        (_, Some(TAKEN | FOREIGN)) => ErrorKind::NotGranted,
        (StatementErrorKind::Unavailable, _) => ErrorKind::Unavailable,
        (StatementErrorKind::Limit, _) => ErrorKind::Limit,
        _ => ErrorKind::TransactionFailed,
    };
    Error { kind, message: error.message }
}
