//! Events as the columns of the audit trail: reading, apart from writing, so that it is tested without a host.

use std::borrow::Cow;

use serde::Deserialize;
use tidemill_sdk::{Event, Failure, Timestamp, Uuid, sql::RawJson};
use todo::unkept;

/// The rows to write, column by column, as `unnest` takes them.
#[derive(Debug)]
pub(crate) struct Entries<'a> {
    pub(crate) sources: Vec<&'a str>,
    pub(crate) event_ids: Vec<&'a str>,
    pub(crate) types: Vec<&'a str>,
    pub(crate) task_ids: Vec<Uuid>,
    pub(crate) user_ids: Vec<Cow<'a, str>>,
    pub(crate) correlation_ids: Vec<Option<&'a str>>,
    pub(crate) data: Vec<RawJson<'a>>,
    pub(crate) occurred_at: Vec<Timestamp>,
}

/// PostgreSQL's first timestamp is in 4713 BC; this is in 4368 BC.
const EARLIEST_MICROS: i64 = -200_000_000_000_000_000;

/// What every event of a task says.
#[derive(Deserialize)]
struct Subject<'a> {
    task_id: Uuid,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
}

impl<'a> Entries<'a> {
    /// Reads a batch. Events that can never be written are rejected in one failure that names them all, so that one rerun is enough.
    pub(crate) fn read(events: &'a [Event]) -> Result<Self, Failure> {
        let subjects = Failure::collect(events, subject)?;
        let (subjects, data): (Vec<_>, Vec<_>) = subjects.into_iter().unzip();
        Ok(Self {
            sources: events.iter().map(Event::source).collect(),
            event_ids: events.iter().map(Event::id).collect(),
            types: events.iter().map(Event::event_type).collect(),
            task_ids: subjects.iter().map(|subject| subject.task_id).collect(),
            user_ids: subjects.into_iter().map(|subject| subject.user_id).collect(),
            correlation_ids: events.iter().map(Event::correlation_id).collect(),
            data,
            occurred_at: events.iter().map(Event::time).collect(),
        })
    }
}

/// Whom and what an event is about, and its data as it was sent, once it is sure that the table takes it.
fn subject(event: &Event) -> Result<(Subject<'_>, RawJson<'_>), Failure> {
    let (subject, data): (Subject<'_>, _) = (event.data()?, event.json()?);
    if subject.user_id.is_empty() {
        return Err(event.reject_data("user_id is empty"));
    }
    let attributes = [event.source(), event.id(), event.event_type(), event.correlation_id().unwrap_or_default()];
    // Everything that the table would refuse is rejected here. One such row would fail the statement, and with it the whole batch.
    if attributes.iter().any(|text| text.contains('\0')) {
        return Err(event.reject("the character U+0000 can't be recorded"));
    }
    if let Some(reason) = unkept(data) {
        return Err(event.reject_data(reason));
    }
    // Nor does it keep times before 4713 BC.
    if event.time().as_micros() < EARLIEST_MICROS {
        return Err(event.reject("its time is too early to be recorded"));
    }
    Ok((subject, RawJson(data)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tidemill_sdk::testing;

    use super::*;

    const TASK: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";

    #[test]
    fn events_become_columns_in_their_order() {
        let created = testing::event(0, "task.created", &json!({"task_id": TASK, "user_id": "alice", "title": "a", "tags": []}));
        let updated = testing::event(1, "task.updated", &json!({"task_id": TASK, "user_id": "bob", "changes": {"title": "b"}}));
        let events = [created, updated];
        let entries = Entries::read(&events).unwrap();
        assert_eq!(entries.types, ["task.created", "task.updated"]);
        assert_eq!(entries.event_ids, ["event-0", "event-1"]);
        assert_eq!(entries.user_ids, ["alice", "bob"]);
        assert_eq!(entries.task_ids, [TASK.parse::<Uuid>().unwrap(); 2]);
        assert_eq!(entries.correlation_ids, [Some("correlation-1"); 2]);
        assert_eq!(entries.occurred_at[0].to_string(), "2026-02-10T09:30:00Z");
        let first: Value = serde_json::from_str(entries.data[0].0).unwrap();
        assert_eq!(first["title"], "a");
    }

    #[test]
    fn events_that_can_never_be_written_are_rejected_by_name() {
        let odd = |position, text: &[u8]| {
            let before = format!(r#"{{"task_id":"{TASK}","user_id":"alice","title":""#);
            testing::raw_event(position, "task.created", Some([before.as_bytes(), text, b"\"}"].concat()))
        };
        let events = [
            testing::event(0, "task.created", &json!({"task_id": TASK, "user_id": "alice"})),
            testing::event(1, "task.created", &json!({"user_id": "alice"})),
            testing::event(2, "task.created", &json!({"task_id": "17", "user_id": "alice"})),
            testing::event(3, "task.created", &json!({"task_id": TASK, "user_id": ""})),
            testing::event(4, "task.created", &json!({"task_id": TASK, "user_id": "alice", "tags": [{"a\0": 1}]})),
            testing::raw_event(5, "task.created", None),
            testing::raw_event(6, "task.created", Some(b"\xff".to_vec())),
            odd(7, b"\xff"),
            odd(8, br"\ud800"),
            odd(9, br#"","n":1e999999,"m":""#),
        ];
        let failure = Entries::read(&events).unwrap_err();
        assert!(failure.is_reject());
        assert_eq!(failure.events(), Some(&[1, 2, 3, 4, 5, 6, 7, 8, 9][..]));
        assert!(failure.message().contains("data of task.created \"event-1\": missing field `task_id`"), "{failure}");
    }
}
