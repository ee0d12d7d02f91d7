//! How long before a task is due its user is reminded, and when that is.
//!
//! ```
//! use jiff::civil::date;
//! use todo::reminders::{LeadTime, due_at};
//!
//! let due = due_at(date(2026, 2, 10), "10:00").unwrap();
//! assert_eq!("30min".parse::<LeadTime>().unwrap().before(due).to_string(), "2026-02-10T09:30:00Z");
//! ```

use std::str::FromStr;

use jiff::{Span, SpanRelativeTo, civil::Date, civil::Time};
use serde::Serialize;
use tidemill_sdk::{EventData, Timestamp, Uuid};

/// The topic of `reminder.triggered`.
pub const TOPIC: &str = "todo.reminders";
/// CloudEvents `source` of `reminder.triggered`.
pub const SOURCE: &str = "todo-reminder-scheduler";
/// The longest lead time, in days.
pub const LONGEST_DAYS: i64 = 3_660;

/// Bytes of a lead time's text; leading zeros could make any number of them.
const LONGEST_TEXT: usize = 50;
const UNITS: [(&str, i64); 4] = [("min", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];
const HOW: &str = "a whole number and one of min, h, d, w, such as 30min, or ISO 8601, such as PT30M";

/// How long before a task is due its reminder comes: `30min`, `2h`, `1d`, `1w`, or ISO 8601 (`PT30M`). Days have 24 hours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeadTime {
    text: String,
    seconds: i64,
}

/// A reminder whose time has come. The job of a reminder publishes it; who handles it decides what becomes of the reminder.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReminderTriggered<'a> {
    /// The reminder.
    pub reminder_id: Uuid,
    /// Its task.
    pub task_id: Uuid,
    /// Whose it is, and the record's key.
    pub user_id: &'a str,
    /// The task's title.
    pub task_title: &'a str,
    /// The task's due date, `YYYY-MM-DD`.
    pub due_date: Option<&'a str>,
}

impl EventData for ReminderTriggered<'_> {
    const TYPE: &'static str = "reminder.triggered";
    const TOPIC: &'static str = TOPIC;
    const SOURCE: &'static str = SOURCE;

    /// A user's reminders keep their order.
    fn key(&self) -> Option<&str> {
        Some(self.user_id)
    }
}

/// The name of a reminder's job.
pub fn job_name(reminder: Uuid) -> String {
    format!("reminder/{reminder}")
}

/// When a task is due. The time of day is `HH:MM`, with seconds if need be, in UTC; `None` if it is none.
pub fn due_at(date: Date, time: &str) -> Option<Timestamp> {
    let time: Time = time.parse().ok()?;
    let since_1970 = date.to_datetime(time).duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
    Some(Timestamp::from_micros(since_1970.as_secs() * 1_000_000))
}

impl LeadTime {
    /// As it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// In seconds: 1 to 3,660 days.
    pub fn seconds(&self) -> i64 {
        self.seconds
    }

    /// The time that lies so long before another.
    pub fn before(&self, due: Timestamp) -> Timestamp {
        before(self.seconds, due)
    }
}

/// The time that lies so many seconds before another. Beyond the years 1 to 9999, which the time of an event must not leave, it is their end.
pub fn before(seconds: i64, due: Timestamp) -> Timestamp {
    // 0001-01-01T00:00:00Z and 9999-12-30T22:00:00Z: the last whole hour that every part can show.
    const YEARS: (i64, i64) = (-62_135_596_800, 253_402_207_200);
    let micros = due.as_micros().saturating_sub(seconds.saturating_mul(1_000_000));
    Timestamp::from_micros(micros.clamp(YEARS.0 * 1_000_000, YEARS.1 * 1_000_000))
}

impl FromStr for LeadTime {
    type Err = String;

    /// Says what is wrong with a text that is none.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST_TEXT {
            return Err(format!("must be {HOW}"));
        }
        let seconds = if text.trim_start_matches('-').starts_with(['P', 'p']) { iso(text)? } else { short(text)? };
        match seconds {
            ..=0 => Err(format!("`{text}` must be longer than zero, since a reminder comes before the task is due")),
            seconds if seconds > LONGEST_DAYS * 86_400 => Err(too_long()),
            seconds => Ok(Self { text: text.to_owned(), seconds }),
        }
    }
}

fn too_long() -> String {
    format!("must be at most {LONGEST_DAYS} days")
}

/// `30min` and the like.
fn short(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let end = digits.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(digits.len());
    let (number, unit) = digits.split_at(end);
    if number.is_empty() {
        return Err(format!("must be {HOW}"));
    }
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, seconds) = known.ok_or_else(|| match unit {
        "" => format!("has no unit: must be {HOW}"),
        unit => format!("has the unknown unit `{}`: must be {HOW}", unit.chars().take(20).collect::<String>()),
    })?;
    if digits.len() < text.len() {
        return Ok(-1);
    }
    number.parse::<i64>().ok().and_then(|number| number.checked_mul(*seconds)).ok_or_else(too_long)
}

/// ISO 8601 without years and months, which have no length of their own.
fn iso(text: &str) -> Result<i64, String> {
    let span: Span = text.parse().map_err(|_| format!("is no duration of ISO 8601: must be {HOW}"))?;
    if span.get_years() != 0 || span.get_months() != 0 {
        return Err("has years or months, which differ in length: use weeks (P4W) or days (P30D)".to_owned());
    }
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| too_long())?;
    if length.subsec_nanos() != 0 { Err("must be whole seconds".to_owned()) } else { Ok(length.as_secs()) }
}

#[cfg(test)]
mod tests;
