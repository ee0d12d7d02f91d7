use serde_json::{Value, json};
use tidemill_sdk::testing;

use super::*;

const TASK: &str = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";
const SERIES: &str = "01989e5c-5b30-7cc1-a6d4-000000000000";

/// A completion with every field, and these instead of its own.
fn completed(position: u32, changes: Value) -> Event {
    let mut data = json!({
        "task_id": TASK, "user_id": "alice", "title": "Water the plants", "recurrence": "monthly", "due_date": "2026-02-28",
        "completed_at": "2026-02-28T23:59:59.999999Z", "description": "All of them", "priority": "high", "tags": ["home", "green"],
        "due_time": "10:05", "series_id": SERIES, "anchor_day": 31,
    });
    data.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    testing::event(position, "task.completed", &data)
}

fn next(changes: Value) -> NextTask {
    after(&completed(0, changes)).unwrap().unwrap()
}

#[test]
fn the_next_task_carries_everything_and_names_its_series() {
    let row = serde_json::to_value(next(json!({}))).unwrap();
    assert_eq!(
        row,
        json!({
            "id": row["id"], "user_id": "alice", "title": "Water the plants", "description": "All of them", "priority": "high",
            "tags": ["home", "green"], "due_date": "2026-03-31", "due_time": "10:05", "recurrence": "monthly", "series_id": SERIES,
            "anchor_day": 31, "previous_task_id": TASK,
        })
    );
}

#[test]
fn the_first_task_gives_its_series_name_and_anchor() {
    let task =
        next(json!({ "series_id": null, "anchor_day": null, "due_date": "2026-01-31", "completed_at": "2026-02-01T00:00:00Z" }));
    assert_eq!((task.series_id.to_string().as_str(), task.anchor_day, task.due_date.as_str()), (TASK, Some(31), "2026-02-28"));
}

#[test]
fn the_day_of_completion_is_that_of_utc() {
    let due = |completed_at| next(json!({ "recurrence": "daily", "due_date": null, "completed_at": completed_at })).due_date;
    assert_eq!(due("2026-02-10T23:59:59.999999Z"), "2026-02-11");
    assert_eq!(due("2026-02-11T00:30:00+01:00"), "2026-02-11");
    assert_eq!(due("2026-02-10T23:30:00-01:00"), "2026-02-12");
}

#[test]
fn what_does_not_recur_has_no_next_task_whatever_else_it_is() {
    assert_eq!(after(&completed(0, json!({ "recurrence": null }))).unwrap(), None);
    assert_eq!(after(&testing::event(0, "task.completed", &json!({ "task_id": 7, "recurrence": null }))).unwrap(), None);
    assert_eq!(after(&completed(0, json!({ "due_date": "9999-12-31" }))).unwrap(), None, "the calendar ends");
}

#[test]
fn the_fields_of_the_schema_are_enough() {
    let data = json!({
        "task_id": TASK, "user_id": "alice", "title": "a", "recurrence": "daily", "due_date": "2026-02-10",
        "completed_at": "2026-02-10T09:30:00Z",
    });
    let task = after(&testing::event(0, "task.completed", &data)).unwrap().unwrap();
    assert_eq!(
        (task.due_date.as_str(), task.priority.as_str(), task.tags.len(), task.description),
        ("2026-02-11", "medium", 0, None)
    );
}

#[test]
fn ids_follow_from_the_cause() {
    let (event, task) = (completed(0, json!({})), next(json!({})));
    assert_eq!(task, next(json!({})), "the same every time");
    let other = next(json!({ "task_id": SERIES }));
    assert_ne!(task.id, other.id);
    let time: Timestamp = "2026-03-01T00:00:01Z".parse().unwrap();
    let created = task.created(time, &event);
    assert_eq!((created.event_id, created.task_id), (Some(event.derived_id("task.created")), task.id));
    assert_ne!(created.event_id, task.created(time, &completed(1, json!({}))).event_id, "another event, another id");
    let data = serde_json::to_value(&created).unwrap();
    assert_eq!(
        (&data["due_date"], &data["series_id"], &data["previous_task_id"]),
        (&json!("2026-03-31"), &json!(SERIES), &json!(TASK))
    );
    assert_eq!((&data["created_at"], &data["recurrence"]), (&json!("2026-03-01T00:00:01Z"), &json!("monthly")));
}

#[test]
fn events_that_can_never_have_a_next_task_are_rejected_by_name_and_no_other_is() {
    let wrong = [
        json!({ "task_id": "17" }),
        json!({ "user_id": "" }),
        json!({ "user_id": "x".repeat(129) }),
        json!({ "title": "" }),
        json!({ "title": "ä".repeat(201) }),
        json!({ "title": "a\0b" }),
        json!({ "description": "x".repeat(4_001) }),
        json!({ "priority": "urgent" }),
        json!({ "tags": (0..21).map(|n| n.to_string()).collect::<Vec<_>>() }),
        json!({ "tags": ["a", "a"] }),
        json!({ "tags": [""] }),
        json!({ "tags": ["x".repeat(51)] }),
        json!({ "tags": ["\0"] }),
        json!({ "recurrence": "hourly" }),
        json!({ "due_date": "2026-02-30" }),
        json!({ "due_date": "0000-01-01" }),
        json!({ "due_time": "25:00" }),
        json!({ "anchor_day": 0 }),
        json!({ "anchor_day": 32 }),
        json!({ "completed_at": "yesterday" }),
        json!({ "completed_at": "-000001-01-01T00:00:00Z" }),
        json!({ "completed_at": null }),
    ];
    let mut events = vec![completed(0, json!({}))];
    events.extend((1..).zip(wrong).map(|(position, changes)| completed(position, changes)));
    let count = u32::try_from(events.len()).unwrap();
    events.push(testing::raw_event(count, "task.completed", None));
    events.push(testing::raw_event(count + 1, "task.completed", Some(b"{".to_vec())));
    events.push(completed(count + 2, json!({ "title": "ä".repeat(200) })));
    let failure = Failure::collect(&events, after).unwrap_err();
    assert!(failure.is_reject());
    assert_eq!(failure.events(), Some((1..count + 2).collect::<Vec<u32>>().as_slice()), "{failure}");
    for message in
        ["data of task.completed \"event-2\": user_id has 0 characters", "\"event-8\": priority is none that a task can have"]
    {
        assert!(failure.message().contains(message), "{failure}");
    }
}
