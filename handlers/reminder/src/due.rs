//! Events as reminders to decide upon, and decisions as rows of the audit trail: pure functions, tested without a host.

use serde::Deserialize;
use tidemill_sdk::{Event, Failure, Timestamp, Uuid, sql::RawJson};

/// An event that a reminder's time has come.
#[derive(Debug)]
pub(crate) struct Due<'a> {
    event: &'a Event,
    pub(crate) reminder_id: Uuid,
    pub(crate) task_id: Uuid,
    /// The data as it was sent.
    data: RawJson<'a>,
}

/// What the data say about it; the rest is for others.
#[derive(Deserialize)]
struct Data {
    reminder_id: Uuid,
    task_id: Uuid,
}

/// A reminder that was decided upon.
#[derive(Debug, Deserialize)]
pub(crate) struct Decided {
    id: Uuid,
    task_id: Uuid,
    user_id: String,
    remind_at: Timestamp,
    triggered: bool,
}

/// Rows of the audit trail, column by column, as `unnest` takes them.
#[derive(Debug)]
pub(crate) struct Trail<'a> {
    pub(crate) sources: Vec<&'a str>,
    pub(crate) event_ids: Vec<&'a str>,
    pub(crate) types: Vec<&'a str>,
    pub(crate) task_ids: Vec<Uuid>,
    pub(crate) user_ids: Vec<String>,
    pub(crate) correlation_ids: Vec<Option<&'a str>>,
    pub(crate) data: Vec<RawJson<'a>>,
    pub(crate) occurred_at: Vec<Timestamp>,
}

impl<'a> Due<'a> {
    /// Reads an event; rejects, by name, what can be no reminder and what the audit trail could not keep.
    pub(crate) fn read(event: &'a Event) -> Result<Self, Failure> {
        let Data { reminder_id, task_id } = event.data()?;
        let attributes = [event.source(), event.id(), event.event_type(), event.correlation_id().unwrap_or_default()];
        if attributes.iter().any(|text| text.contains('\0')) {
            return Err(event.reject("the character U+0000 can't be recorded"));
        }
        let data = event.json()?;
        if let Some(reason) = todo::unkept(data) {
            return Err(event.reject_data(reason));
        }
        if !event.time().is_storable() {
            return Err(event.reject("its time is none that a reminder can have"));
        }
        Ok(Self { event, reminder_id, task_id, data: RawJson(data) })
    }

    /// The scheduled time, which is the event's. When the event was sent is another matter.
    pub(crate) fn time(&self) -> Timestamp {
        self.event.time()
    }
}

impl<'a> Trail<'a> {
    /// A row for each triggered reminder. Two events may stand for one reminder: the first of them triggered it.
    pub(crate) fn of(due: &[Due<'a>], decided: Vec<Decided>) -> Self {
        let cause = |one: &Decided| due.iter().find(|due| due.reminder_id == one.id && due.time() == one.remind_at);
        let triggered = decided.into_iter().filter(|one| one.triggered);
        let rows: Vec<(&Due<'a>, Decided)> = triggered.filter_map(|one| Some((cause(&one)?, one))).collect();
        let events = || rows.iter().map(|(due, _)| due.event);
        Self {
            sources: events().map(Event::source).collect(),
            event_ids: events().map(Event::id).collect(),
            types: events().map(Event::event_type).collect(),
            task_ids: rows.iter().map(|(_, one)| one.task_id).collect(),
            user_ids: rows.iter().map(|(_, one)| one.user_id.clone()).collect(),
            correlation_ids: events().map(Event::correlation_id).collect(),
            data: rows.iter().map(|(due, _)| due.data).collect(),
            occurred_at: events().map(Event::time).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_sdk::testing;

    use super::*;

    const TASK: Uuid = Uuid::from_u128(7);

    fn event(position: u32, reminder: Uuid) -> Event {
        let data = json!({ "reminder_id": reminder, "task_id": TASK, "user_id": "alice", "task_title": "a", "due_date": null });
        testing::event(position, "reminder.triggered", &data)
    }

    fn decided(id: Uuid, at: Timestamp, triggered: bool) -> Decided {
        Decided { id, task_id: TASK, user_id: "alice".to_owned(), remind_at: at, triggered }
    }

    #[test]
    fn what_was_triggered_is_recorded_with_the_first_event_that_names_it() {
        let ids = [1, 1, 2, 3].map(Uuid::from_u128);
        let events: Vec<Event> = (0..).zip(ids).map(|(position, id)| event(position, id)).collect();
        let due = Failure::collect(&events, Due::read).unwrap();
        let (time, other) = (due[0].time(), Timestamp::from_micros(5));
        let trail =
            Trail::of(&due, vec![decided(ids[2], time, false), decided(ids[3], other, true), decided(ids[0], time, true)]);
        assert_eq!(trail.event_ids, ["event-0"]);
        assert_eq!((&trail.types[..], &trail.sources[..]), (&["reminder.triggered"][..], &["test"][..]));
        assert_eq!((&trail.task_ids[..], &trail.user_ids[..]), (&[TASK][..], &["alice".to_owned()][..]));
        assert_eq!((&trail.correlation_ids[..], &trail.occurred_at[..]), (&[Some("correlation-1")][..], &[time][..]));
        assert!(trail.data[0].0.contains("task_title"), "{:?}", trail.data);
    }

    #[test]
    fn what_can_be_no_reminder_is_rejected_by_name() {
        let events = [
            event(0, Uuid::from_u128(1)),
            testing::event(1, "reminder.triggered", &json!({ "reminder_id": TASK })),
            testing::event(2, "reminder.triggered", &json!({ "reminder_id": "soon", "task_id": TASK })),
            testing::event(3, "reminder.triggered", &json!({ "reminder_id": TASK, "task_id": TASK, "task_title": "a\0" })),
            testing::raw_event(4, "reminder.triggered", None),
        ];
        let failure = Failure::collect(&events, Due::read).unwrap_err();
        assert!(failure.is_reject());
        assert_eq!(failure.events(), Some(&[1, 2, 3, 4][..]));
        assert!(failure.message().contains("missing field `task_id`"), "{failure}");
    }
}
