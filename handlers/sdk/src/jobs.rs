//! Events at a later time, with the unit of work: a job is scheduled or cancelled if, and only if, the handler's SQL commits.
//!
//! ```no_run
//! use tidemill_sdk::{EventData, Timestamp, jobs::{self, Job, Missed}};
//! # #[derive(serde::Serialize)]
//! # struct Expired { order: String }
//! # impl EventData for Expired {
//! #     const TYPE: &'static str = "order.expired";
//! #     const TOPIC: &'static str = "shop.orders";
//! #     const SOURCE: &'static str = "shop";
//! # }
//! # #[derive(serde::Serialize)]
//! # struct Report {}
//! # impl EventData for Report {
//! #     const TYPE: &'static str = "report.due";
//! #     const TOPIC: &'static str = "shop.reports";
//! #     const SOURCE: &'static str = "shop";
//! # }
//! # fn example(order: &str, time: Timestamp) -> Result<(), jobs::Error> {
//! Job::at(format!("expire/{order}"), time, &Expired { order: order.to_owned() })?.schedule()?;
//! Job::cron("report", "30 9 * * MON-FRI", "Europe/Berlin", &Report {})?.missed(Missed::Skip).keep_existing().schedule()?;
//! let was_waiting = jobs::cancel(&format!("expire/{order}"))? == jobs::Cancelled::Cancelled;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use crate::{Event, EventData, Timestamp, bindings::imports::tidemill::jobs::jobs as host, publish};

pub use host::{ErrorKind, Missed};

/// A failed call. The unit is doomed.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// Why.
    pub kind: ErrorKind,
    /// For people and logs.
    pub message: String,
}

/// When a job fires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Once. A time in the past fires at once.
    At(Timestamp),
    /// Again and again, in even steps.
    Every {
        /// 1 second to 3,660 days.
        period: Duration,
        /// The first time; `None`: one period from now, by the database's clock.
        first: Option<Timestamp>,
    },
    /// Again and again, by the calendar.
    Cron {
        /// Minute, hour, day of month, month, day of week.
        expression: String,
        /// An IANA name such as `Europe/Berlin`.
        time_zone: String,
    },
}

/// A job to schedule. Its name is unique within the app: 1 to 200 characters.
#[derive(Debug, Clone, PartialEq)]
#[must_use = "a job is scheduled by `schedule`"]
pub struct Job(host::Job);

impl Job {
    /// One that publishes `event` once, at `time`. The event's own `id` and `time` are not asked for: they follow from the job.
    pub fn at<E: EventData>(name: impl Into<String>, time: Timestamp, event: &E) -> Result<Self, Error> {
        Self::new(name, When::At(time), event)
    }

    /// One that publishes `event` again and again; without a `first` time, one period from now.
    pub fn every<E: EventData>(
        name: impl Into<String>,
        period: Duration,
        first: Option<Timestamp>,
        event: &E,
    ) -> Result<Self, Error> {
        Self::new(name, When::Every { period, first }, event)
    }

    /// One that publishes `event` by the calendar of a time zone.
    pub fn cron<E: EventData>(
        name: impl Into<String>,
        expression: impl Into<String>,
        time_zone: impl Into<String>,
        event: &E,
    ) -> Result<Self, Error> {
        Self::new(name, When::Cron { expression: expression.into(), time_zone: time_zone.into() }, event)
    }

    /// A job of any kind.
    pub fn new<E: EventData>(name: impl Into<String>, when: When, event: &E) -> Result<Self, Error> {
        let mut event = publish::outgoing(event).map_err(|error| Error { kind: ErrorKind::Invalid, message: error.message })?;
        // Both follow from the job and its time.
        (event.id, event.time) = (None, None);
        let existing = host::Existing::Replace;
        Ok(Self(host::Job { name: name.into(), when: when.into(), missed: Missed::Once, event, existing }))
    }

    /// What a repeating job does about times that went by while nobody could fire it; [`Missed::Once`] if nothing is said.
    pub fn missed(mut self, missed: Missed) -> Self {
        self.0.missed = missed;
        self
    }

    /// Leaves a waiting job of the same name as it is; without this, the new one takes its place.
    pub fn keep_existing(mut self) -> Self {
        self.0.existing = host::Existing::Keep;
        self
    }

    /// Schedules it from a request, or from a batch of one event.
    pub fn schedule(self) -> Result<(), Error> {
        Ok(host::schedule(&self.0, None)?)
    }

    /// Schedules it because of an event of the batch.
    pub fn schedule_caused_by(self, cause: &Event) -> Result<(), Error> {
        Ok(host::schedule(&self.0, Some(cause.position()))?)
    }
}

/// What became of cancelling a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It was waiting, and will not fire if the unit commits.
    Cancelled,
    /// There is no such job: it has fired, was cancelled, or never was.
    NotPending,
}

/// A waiting job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// The handler that it belongs to.
    pub handler: String,
    /// When it fires next.
    pub due: Timestamp,
    /// Whether it fires again after that.
    pub repeats: bool,
    /// The topic of its event.
    pub topic: String,
    /// CloudEvents `id` of its next event.
    pub event_id: String,
    /// When it was scheduled.
    pub scheduled_at: Timestamp,
}

/// Cancels a job: one's own, or that of a handler of the same app which the manifest names in `[jobs] cancel`.
///
/// If it is firing at this moment, this waits for that to end: a job that was cancelled has not fired and will not.
pub fn cancel(name: &str) -> Result<Cancelled, Error> {
    Ok(cancel_all(&[name])?.pop().unwrap_or(Cancelled::NotPending))
}

/// The same for many in one call; one answer for each name, in their order.
pub fn cancel_all(names: &[&str]) -> Result<Vec<Cancelled>, Error> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    Ok(host::cancel(&names)?.into_iter().map(Cancelled::from).collect())
}

/// The waiting job of this name, if there is one.
pub fn get(name: &str) -> Result<Option<JobStatus>, Error> {
    Ok(host::get(name)?.map(JobStatus::from))
}

impl From<When> for host::When {
    fn from(when: When) -> Self {
        match when {
            When::At(time) => Self::At(time.as_micros()),
            When::Every { period, first } => Self::Every(host::Every {
                period: u64::try_from(period.as_micros()).unwrap_or(u64::MAX),
                first: first.map(Timestamp::as_micros),
            }),
            When::Cron { expression, time_zone } => Self::Cron(host::Cron { expression, time_zone }),
        }
    }
}

impl From<host::Outcome> for Cancelled {
    fn from(outcome: host::Outcome) -> Self {
        match outcome {
            host::Outcome::Cancelled => Self::Cancelled,
            host::Outcome::NotPending => Self::NotPending,
        }
    }
}

impl From<host::Status> for JobStatus {
    fn from(status: host::Status) -> Self {
        Self {
            name: status.name,
            handler: status.handler,
            due: Timestamp::from_micros(status.due),
            repeats: status.repeats,
            topic: status.topic,
            event_id: status.event_id,
            scheduled_at: Timestamp::from_micros(status.scheduled_at),
        }
    }
}

impl From<host::Error> for Error {
    fn from(error: host::Error) -> Self {
        Self { kind: error.kind, message: error.message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize)]
    struct Expired {
        order: String,
    }

    impl EventData for Expired {
        const TYPE: &'static str = "order.expired";
        const TOPIC: &'static str = "shop.orders";
        const SOURCE: &'static str = "shop";

        fn time(&self) -> Option<Timestamp> {
            Some(Timestamp::from_micros(7))
        }

        fn id(&self) -> Option<crate::Uuid> {
            Some(crate::new_id())
        }
    }

    #[test]
    fn id_and_time_of_the_event_are_left_to_the_job() {
        let job = Job::at("expire/7", Timestamp::from_micros(5), &Expired { order: "7".into() }).unwrap();
        assert_eq!((&job.0.event.id, job.0.event.time), (&None, None));
        assert_eq!(job.0.event.data.as_deref(), Some(&br#"{"order":"7"}"#[..]));
        assert_eq!((job.0.name.as_str(), job.0.missed, job.0.existing), ("expire/7", Missed::Once, host::Existing::Replace));
        assert!(matches!(job.0.when, host::When::At(5)));
    }

    #[test]
    fn a_period_that_is_too_long_to_count_is_the_longest() {
        let job = Job::every("tick", Duration::MAX, None, &Expired { order: String::new() }).unwrap().keep_existing();
        assert!(matches!(job.0.when, host::When::Every(host::Every { period: u64::MAX, first: None })));
        assert_eq!(job.0.existing, host::Existing::Keep);
    }
}
