//! When repeating jobs are due. Times are microseconds since 1970-01-01T00:00:00Z, and `now` is always the database's.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{Timestamp, Zoned};
use std::ops::RangeInclusive;
use std::sync::OnceLock;

/// The times that a job may be due at: the years 1 to 9999, whose texts have four digits.
pub const TIMES: RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_207_200_000_000;
/// The periods that a job may have: 1 second to 3,660 days.
pub const PERIODS: RangeInclusive<u64> = 1_000_000..=3_660 * 86_400 * 1_000_000;
/// How late a time may be to fire under [`Missed::Skip`].
const LATE: i64 = 60 * 1_000_000;

/// What a repeating job does about times that went by while nobody could fire it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// One event, for the latest time that is due.
    Once,
    /// A time that is more than a minute late, or whose next one is due as well, is left out.
    Skip,
    /// One event for each time, in order.
    All,
}

/// How a job repeats.
#[derive(Debug, Clone)]
pub enum Repeat {
    /// In even steps of so many microseconds.
    Every(i64),
    /// By the calendar.
    Cron(Box<Calendar>),
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Calendar {
    cron: Cron,
    zone: TimeZone,
}

/// What is to be done about a job that is due.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// The times to fire, in order.
    pub fire: Vec<i64>,
    /// When it is due next; none if it is over.
    pub next: Option<i64>,
}

impl Repeat {
    /// Even steps of a period in microseconds.
    pub fn every(period: u64) -> Result<Self, String> {
        match i64::try_from(period) {
            Ok(steps) if PERIODS.contains(&period) => Ok(Self::Every(steps)),
            _ => Err(format!("a period of {period} µs is not between 1 second and 3,660 days")),
        }
    }

    /// The calendar of a time zone. The error says what is wrong with the expression or the zone.
    pub fn cron(expression: &str, zone: &str) -> Result<Self, String> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron =
            parser.parse(expression).map_err(|error| format!("`{expression}` is no cron expression of five fields: {error}"))?;
        Ok(Self::Cron(Box::new(Calendar { cron, zone: time_zone(zone)? })))
    }

    /// The first time after `time`; none if there is no more.
    pub fn after(&self, time: i64) -> Option<i64> {
        let next = match self {
            Self::Every(period) => time.checked_add(*period),
            Self::Cron(calendar) => calendar.after(time),
        };
        next.filter(|next| TIMES.contains(next))
    }

    /// The latest time up to `now`, given one (`due`) that is not behind it.
    fn latest(&self, due: i64, now: i64) -> i64 {
        match self {
            Self::Every(period) => due + (now - due) / period * period,
            Self::Cron(calendar) => calendar.up_to(now).map_or(due, |latest| latest.max(due)),
        }
    }

    /// What to fire of a job that is due since `due`, and when it is due next. With [`Missed::All`] so many times at once as `most` says.
    pub fn plan(&self, missed: Missed, due: i64, now: i64, most: usize) -> Plan {
        if missed == Missed::All {
            let times = std::iter::successors(Some(due), |time| self.after(*time));
            let fire: Vec<i64> = times.take_while(|time| *time <= now).take(most.max(1)).collect();
            let next = fire.last().map_or(Some(due), |last| self.after(*last));
            return Plan { fire, next };
        }
        let latest = self.latest(due, now);
        let fires = missed == Missed::Once || now - latest <= LATE;
        Plan { fire: fires.then_some(latest).into_iter().collect(), next: self.after(latest) }
    }
}

impl Calendar {
    fn after(&self, time: i64) -> Option<i64> {
        let next = self.cron.find_next_occurrence(&self.local(time)?, false).ok()?;
        Some(next.timestamp().as_microsecond())
    }

    fn up_to(&self, time: i64) -> Option<i64> {
        let latest = self.cron.find_previous_occurrence(&self.local(time)?, true).ok()?;
        Some(latest.timestamp().as_microsecond())
    }

    fn local(&self, time: i64) -> Option<Zoned> {
        Some(Timestamp::from_microsecond(time).ok()?.to_zoned(self.zone.clone()))
    }
}

/// Of the time zones that come with the host: replicas on different systems must agree.
fn time_zone(name: &str) -> Result<TimeZone, String> {
    static ZONES: OnceLock<TimeZoneDatabase> = OnceLock::new();
    let found = ZONES.get_or_init(TimeZoneDatabase::bundled).get(name);
    found.map_err(|_| format!("there is no time zone `{name}`; use an IANA name such as `Europe/Berlin`, or `UTC`"))
}

impl Missed {
    /// As the database has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Skip => "skip",
            Self::All => "all",
        }
    }

    /// The policy of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Once, Self::Skip, Self::All].into_iter().find(|missed| missed.name() == name)
    }
}

#[cfg(test)]
mod tests;
