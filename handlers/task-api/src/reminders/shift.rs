//! What becomes of a task's waiting reminders when its due date moves.

use serde::Deserialize;
use tidemill_sdk::{Timestamp, Uuid};
use todo::reminders::{before, due_at};

use crate::task::TaskRow;

/// When a task without a time of its own is due, should the table of settings not say it.
const DUE_TIME: &str = "10:00";

/// A waiting reminder.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pending {
    id: Uuid,
    lead_seconds: i64,
    remind_at: Timestamp,
    default_due_time: Option<String>,
}

/// What is to be done with the waiting reminders of a task; each is in one of the lists, with the time at which it comes from now on.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Shift {
    pub(crate) moved: Vec<(Uuid, Timestamp)>,
    pub(crate) stayed: Vec<(Uuid, Timestamp)>,
    pub(crate) cancelled: Vec<Uuid>,
}

impl Shift {
    /// All of them stay.
    pub(crate) fn none(pending: &[Pending]) -> Self {
        Self { stayed: pending.iter().map(|reminder| (reminder.id, reminder.remind_at)).collect(), ..Self::default() }
    }

    /// What follows from the task as it is now. Without a due date there is nothing to remind of. Where two reminders come to the same time
    /// (one set before the default due time was changed, and one after), the first stays.
    pub(crate) fn of(pending: Vec<Pending>, task: &TaskRow) -> Self {
        let mut shift = Self::default();
        for reminder in pending {
            let default = reminder.default_due_time.as_deref().unwrap_or(DUE_TIME);
            let date = task.due_date.as_deref().and_then(todo::date);
            let due = date.and_then(|date| due_at(date, task.due_time.as_deref().unwrap_or(default)));
            let time = due.map(|due| before(reminder.lead_seconds, due));
            let taken = |time| shift.moved.iter().chain(&shift.stayed).any(|(_, other)| *other == time);
            match time {
                Some(time) if !taken(time) => {
                    let list = if time == reminder.remind_at { &mut shift.stayed } else { &mut shift.moved };
                    list.push((reminder.id, time));
                }
                _ => shift.cancelled.push(reminder.id),
            }
        }
        shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::tests::plain;

    const HOUR: i64 = 3_600;

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn pending(id: u128, lead_seconds: i64, remind_at: &str) -> Pending {
        Pending {
            id: Uuid::from_u128(id),
            lead_seconds,
            remind_at: time(remind_at),
            default_due_time: Some("10:00:00".to_owned()),
        }
    }

    fn task(due_date: Option<&str>, due_time: Option<&str>) -> TaskRow {
        TaskRow { due_date: due_date.map(str::to_owned), due_time: due_time.map(str::to_owned), ..plain() }
    }

    #[test]
    fn reminders_move_with_the_due_date_and_keep_their_lead() {
        let all = vec![pending(1, HOUR, "2026-02-10T09:00:00Z"), pending(2, 24 * HOUR, "2026-02-09T10:00:00Z")];
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let later = Shift::of(all.clone(), &task(Some("2026-02-11"), None));
        assert_eq!(later.moved, [(one, time("2026-02-11T09:00:00Z")), (two, time("2026-02-10T10:00:00Z"))]);
        let earlier = Shift::of(all.clone(), &task(Some("2026-02-10"), Some("08:30")));
        assert_eq!(earlier.moved, [(one, time("2026-02-10T07:30:00Z")), (two, time("2026-02-09T08:30:00Z"))]);
        let same = Shift::of(all.clone(), &task(Some("2026-02-10"), Some("10:00")));
        assert_eq!((same.moved.len(), same.stayed.len(), same.cancelled.len()), (0, 2, 0));
        assert_eq!(Shift::of(all, &task(None, None)), Shift { cancelled: vec![one, two], ..Shift::default() });
    }

    #[test]
    fn of_two_that_come_to_the_same_time_the_first_stays() {
        let all = vec![pending(1, HOUR, "2026-02-10T08:00:00Z"), pending(2, HOUR, "2026-02-10T09:00:00Z")];
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let moved = Shift::of(all.clone(), &task(Some("2026-02-11"), None));
        assert_eq!((moved.moved, moved.cancelled), (vec![(one, time("2026-02-11T09:00:00Z"))], vec![two]));
        // One moves to where the other is.
        let stayed = Shift::of(all, &task(Some("2026-02-10"), None));
        assert_eq!((stayed.moved, stayed.cancelled), (vec![(one, time("2026-02-10T09:00:00Z"))], vec![two]));
    }

    #[test]
    fn the_default_due_time_is_that_of_the_settings() {
        let mut reminder = pending(1, HOUR, "2026-02-10T09:00:00Z");
        reminder.default_due_time = Some("18:00:00".to_owned());
        let shift = Shift::of(vec![reminder.clone()], &task(Some("2026-02-10"), None));
        assert_eq!(shift.moved, [(reminder.id, time("2026-02-10T17:00:00Z"))]);
        reminder.default_due_time = None;
        assert_eq!(Shift::of(vec![reminder], &task(Some("2026-02-10"), None)).stayed.len(), 1);
    }
}
