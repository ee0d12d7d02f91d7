use jiff::civil::date;
use serde_json::{json, to_value};

use super::*;

fn seconds(text: &str) -> Result<i64, String> {
    text.parse().map(|lead: LeadTime| lead.seconds())
}

#[test]
fn a_lead_time_is_a_number_and_a_unit_or_iso_8601() {
    for (text, expected) in [
        ("1min", 60),
        ("30min", 1_800),
        ("2h", 7_200),
        ("1d", 86_400),
        ("1w", 604_800),
        ("007d", 604_800),
        ("PT30M", 1_800),
        ("PT1S", 1),
        ("P1DT2H3M4S", 93_784),
        ("P2W", 1_209_600),
        ("3660d", 316_224_000),
    ] {
        assert_eq!(seconds(text), Ok(expected), "{text}");
    }
    assert_eq!("PT90M".parse::<LeadTime>().unwrap().as_str(), "PT90M", "it is kept as it was given");
}

#[test]
fn what_is_no_lead_time_is_told_why() {
    for (text, word) in [
        ("", "must be a whole number"),
        ("soon", "must be a whole number"),
        ("min", "must be a whole number"),
        ("30", "no unit"),
        ("5m", "unknown unit `m`"),
        ("5 min", "unknown unit ` min`"),
        ("30MIN", "unknown unit `MIN`"),
        ("1e9d", "unknown unit `e9d`"),
        ("1.5h", "unknown unit `.5h`"),
        ("1h30min", "unknown unit `h30min`"),
        ("5parsecs", "unknown unit `parsecs`"),
        ("0min", "longer than zero"),
        ("-5min", "longer than zero"),
        ("PT0S", "longer than zero"),
        ("-PT5M", "longer than zero"),
        ("3661d", "at most 3660 days"),
        ("99999999999999999999d", "at most 3660 days"),
        ("9223372036854775807w", "at most 3660 days"),
        ("P99999W", "at most 3660 days"),
        ("P1M", "years or months"),
        ("P1Y", "years or months"),
        ("PT0.5S", "whole seconds"),
        ("P", "ISO 8601"),
        ("PT5X", "ISO 8601"),
        ("P1e9D", "ISO 8601"),
        (&format!("{:050}d", 1), "must be a whole number"),
    ] {
        let error = seconds(text).expect_err(text);
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn a_reminder_comes_so_long_before_the_task_is_due() {
    let lead = |text: &str| text.parse::<LeadTime>().unwrap();
    let due = due_at(date(2026, 2, 10), "10:00:00").unwrap();
    assert_eq!(due, due_at(date(2026, 2, 10), "10:00").unwrap());
    for (text, expected) in [("30min", "2026-02-10T09:30:00Z"), ("1d", "2026-02-09T10:00:00Z"), ("1w", "2026-02-03T10:00:00Z")] {
        assert_eq!(lead(text).before(due).to_string(), expected);
    }
    assert_eq!(due_at(date(2026, 2, 10), "soon"), None);
}

#[test]
fn no_time_leaves_the_years_that_an_event_can_tell() {
    let lead: LeadTime = "3660d".parse().unwrap();
    assert_eq!(lead.before(due_at(date(1, 1, 1), "00:00").unwrap()).to_string(), "0001-01-01T00:00:00Z");
    let last = "1min".parse::<LeadTime>().unwrap().before(due_at(date(9999, 12, 31), "23:59").unwrap());
    assert_eq!(last.to_string(), "9999-12-30T22:00:00Z");
}

#[test]
fn reminder_triggered_has_every_field_and_its_nulls() {
    let (reminder, task) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let event = ReminderTriggered {
        reminder_id: reminder,
        task_id: task,
        user_id: "alice",
        task_title: "Water the plants",
        due_date: None,
    };
    assert_eq!(
        (ReminderTriggered::TYPE, ReminderTriggered::TOPIC, ReminderTriggered::SOURCE),
        ("reminder.triggered", "todo.reminders", "todo-reminder-scheduler")
    );
    assert_eq!((event.key(), event.id(), event.time()), (Some("alice"), None, None));
    assert_eq!(
        to_value(&event).unwrap(),
        json!({
            "reminder_id": reminder, "task_id": task, "user_id": "alice", "task_title": "Water the plants", "due_date": null,
        })
    );
    assert_eq!(job_name(reminder), "reminder/00000000-0000-0000-0000-000000000001");
}
