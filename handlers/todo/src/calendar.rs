//! When a task that recurs is due again.
//!
//! ```
//! use jiff::civil::date;
//! use todo::calendar::{Next, Rule};
//!
//! let february = Rule::Monthly.next(Some(date(2026, 1, 31)), None, date(2026, 1, 31)).unwrap();
//! assert_eq!(february, Next { due_date: date(2026, 2, 28), anchor_day: Some(31) });
//! let march = Rule::Monthly.next(Some(february.due_date), february.anchor_day, date(2026, 2, 28)).unwrap();
//! assert_eq!(march.due_date, date(2026, 3, 31));
//! ```

use jiff::{SignedDuration, civil::Date, civil::Weekday};
use serde::{Deserialize, Serialize};

/// How a task recurs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Every day.
    Daily,
    /// Every seventh day.
    Weekly,
    /// On the anchor day of every month, or on the last day of one that is shorter.
    Monthly,
    /// On the anchor day of the same month every year: 29 February is 28 February in other years.
    Yearly,
    /// Monday to Friday.
    Weekdays,
}

/// When the next task is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Its date.
    pub due_date: Date,
    /// The day of the month that the series keeps, where its rule keeps one.
    pub anchor_day: Option<i8>,
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly, Self::Weekdays];
    /// Their names, in the same order.
    pub const NAMES: [&'static str; 5] = ["daily", "weekly", "monthly", "yearly", "weekdays"];

    /// Its name, as tasks and events have it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// When a task that was completed on a day (of UTC) is due again: the first day by the rule that lies after the day on which the
    /// task was due and after the day on which it was completed. Without a due date the rule counts from the completion.
    ///
    /// `anchor_day` is the day of the month that the task's series keeps; without one, or if the due date was moved away from it since,
    /// that of the due date.
    ///
    /// `None`: the calendar ends before, with the year 9999.
    pub fn next(self, due: Option<Date>, anchor_day: Option<i8>, completed: Date) -> Option<Next> {
        let due = due.unwrap_or(completed);
        let anchor = anchor_day.filter(|&anchor| in_month(due, anchor) == due).unwrap_or(due.day());
        let (due_date, anchor_day) = match self {
            Self::Daily => (due.max(completed).tomorrow().ok()?, None),
            Self::Weekdays => (next_weekday(due.max(completed))?, None),
            Self::Weekly => (next_week(due, completed)?, None),
            Self::Monthly => (next_month(due, 1, anchor, completed)?, Some(anchor)),
            Self::Yearly => (next_month(due, 12, anchor, completed)?, Some(anchor)),
        };
        Some(Next { due_date, anchor_day })
    }
}

fn next_weekday(after: Date) -> Option<Date> {
    let mut day = after.tomorrow().ok()?;
    while matches!(day.weekday(), Weekday::Saturday | Weekday::Sunday) {
        day = day.tomorrow().ok()?;
    }
    Some(day)
}

fn next_week(due: Date, completed: Date) -> Option<Date> {
    let late = completed.duration_since(due).as_hours() / 24;
    let (from, days) = if late < 0 { (due, 7) } else { (completed, 7 - late % 7) };
    from.checked_add(SignedDuration::from_hours(days * 24)).ok()
}

/// The first date after both in steps of so many months, each on the anchor day.
fn next_month(due: Date, step: i32, anchor: i8, completed: Date) -> Option<Date> {
    // Counted from the due date, not from the last result: so a short month leaves no trace. The steps up to the completion's month end
    // on or before the completion, but for the last one.
    let skipped = (month_number(completed) - month_number(due)) / step;
    let mut steps = skipped.max(1);
    loop {
        let number = month_number(due) + steps * step;
        let first = Date::new((number.div_euclid(12)).try_into().ok()?, (number.rem_euclid(12) + 1).try_into().ok()?, 1).ok()?;
        let date = in_month(first, anchor);
        if date > completed {
            return Some(date);
        }
        steps += 1;
    }
}

/// Months since year 0.
fn month_number(date: Date) -> i32 {
    i32::from(date.year()) * 12 + i32::from(date.month()) - 1
}

/// The anchor day in a date's month, or the month's last.
fn in_month(date: Date, anchor: i8) -> Date {
    let day = anchor.clamp(1, date.days_in_month());
    date.with().day(day).build().unwrap_or(date)
}

#[cfg(test)]
mod tests;
