use serde_json::{Value, json};

use tidemill_sdk::testing;

use super::*;
use crate::task::tests::plain;

fn read(body: &Value) -> Result<NewTask, Problem> {
    new_task(Fields::from_json(body.to_string().as_bytes())?)
}

/// The wrong fields of a body that has a title.
fn wrong(field: &str, value: Value) -> Vec<String> {
    let mut body = json!({"title": "a"});
    body[field] = value;
    read(&body).map_or_else(|problem| problem.errors().iter().map(|e| format!("{} {}", e.field, e.message)).collect(), |_| vec![])
}

#[test]
fn a_title_is_enough() {
    let task = read(&json!({"title": "  Water the plants \n"})).unwrap();
    assert_eq!(task.title, "Water the plants");
    assert_eq!((task.priority.as_str(), task.tags.len()), ("medium", 0));
    assert_eq!((task.description, task.due_date, task.due_time, task.recurrence), (None, None, None, None));
}

#[test]
fn every_field_is_kept() {
    let body = json!({
        "title": "a", "description": " b ", "priority": "high", "tags": ["x", " y "], "due_date": "2028-02-29", "due_time": "23:59",
        "recurrence": "weekdays",
    });
    let expected = NewTask {
        title: "a".into(),
        description: Some(" b ".into()),
        priority: "high".into(),
        tags: vec!["x".into(), "y".into()],
        due_date: Some("2028-02-29".into()),
        due_time: Some("23:59".into()),
        recurrence: Some("weekdays".into()),
    };
    assert_eq!(read(&body).unwrap(), expected);
}

#[test]
fn null_is_as_good_as_absent() {
    let nulls = json!({"title": "a", "description": null, "priority": null, "tags": null, "due_date": null, "due_time": null, "recurrence": null});
    assert_eq!(read(&nulls).unwrap(), read(&json!({"title": "a"})).unwrap());
}

#[test]
fn all_wrong_fields_are_named_at_once() {
    let body = json!({
        "title": " ", "description": 1, "priority": "urgent", "tags": ["a", "a"], "due_date": "tomorrow", "due_time": "24:00",
        "recurrence": "hourly", "dueDate": "2026-02-10",
    });
    let problem = read(&body).unwrap_err();
    assert_eq!(problem.status(), 422);
    let errors: Vec<(&str, &str)> = problem.errors().iter().map(|e| (e.field.as_str(), e.message.as_str())).collect();
    assert_eq!(
        errors,
        [
            ("title", "must not be empty"),
            ("description", "invalid type: integer `1`, expected a string"),
            ("priority", "must be one of low, medium, high"),
            ("tags", "must be unique, `a` is given twice"),
            ("due_date", "must be a date as YYYY-MM-DD"),
            ("due_time", "must be a time of day as HH:MM, in UTC"),
            ("recurrence", "must be one of daily, weekly, monthly, yearly, weekdays"),
            ("dueDate", "is not known; did you mean `due_date`?"),
        ]
    );
}

#[test]
fn lengths_count_characters_not_bytes() {
    assert!(wrong("title", json!("ä".repeat(200))).is_empty());
    assert_eq!(wrong("title", json!("ä".repeat(201))), ["title must have at most 200 characters, has 201"]);
    assert!(wrong("description", json!("ä".repeat(4_000))).is_empty());
    assert_eq!(wrong("description", json!("ä".repeat(4_001))).len(), 1);
    assert!(wrong("tags", json!(["ä".repeat(50)])).is_empty());
    assert_eq!(wrong("tags", json!(["x", "ä".repeat(51)])), ["tags tag 2 must have at most 50 characters, has 51"]);
    let many = |count: usize| json!((0..count).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(wrong("tags", many(20)).is_empty());
    assert_eq!(wrong("tags", many(21)), ["tags must be at most 20 tags, are 21"]);
    assert_eq!(wrong("tags", json!([""])), ["tags tag 1 must not be empty"]);
}

#[test]
fn dates_and_times_are_exact() {
    for date in [
        "2026-02-29",
        "2026-13-01",
        "2026-00-10",
        "0000-01-01",
        "2026-2-10",
        "26-02-10",
        "2026-02-10T00:00",
        "2026/02/10",
        "2026-02-1é",
        "-026-02-10",
    ] {
        assert_eq!(wrong("due_date", json!(date)), ["due_date must be a date as YYYY-MM-DD"], "{date}");
    }
    for date in ["0001-01-01", "2028-02-29", "9999-12-31"] {
        assert!(wrong("due_date", json!(date)).is_empty(), "{date}");
    }
    for time in ["24:00", "12:60", "9:30", "09:30:00", "09.30", "+9:30"] {
        let body = json!({"title": "a", "due_date": "2026-02-10", "due_time": time});
        assert_eq!(read(&body).unwrap_err().errors()[0].field, "due_time", "{time}");
    }
    assert_eq!(wrong("due_time", json!("10:00")), ["due_time needs a due_date"]);
}

#[test]
fn what_postgresql_cannot_hold_is_refused_by_name() {
    for (field, value) in [("title", json!("a\0b")), ("description", json!("\0")), ("tags", json!(["a\0b"]))] {
        let errors = wrong(field, value);
        assert!(errors[0].starts_with(field) && errors[0].contains("U+0000"), "{errors:?}");
    }
}

#[test]
fn fields_that_are_not_the_callers_are_unknown() {
    for field in ["id", "user_id", "completed", "created_at", "version"] {
        let errors = wrong(field, json!(1));
        assert!(errors[0].starts_with(&format!("{field} is not known")), "{errors:?}");
    }
}

/// A task that has everything.
fn full() -> TaskRow {
    TaskRow {
        description: Some("All of them".into()),
        priority: "high".into(),
        tags: vec!["home".into()],
        due_date: Some("2026-02-28".into()),
        due_time: Some("10:00".into()),
        recurrence: Some("monthly".into()),
        anchor_day: Some(31),
        ..plain()
    }
}

fn patch(task: &TaskRow, body: &Value) -> Result<TaskRow, Vec<String>> {
    let fields = Fields::from_json(body.to_string().as_bytes()).unwrap();
    patched(fields, task).map_err(|problem| problem.errors().iter().map(|e| format!("{} {}", e.field, e.message)).collect())
}

#[test]
fn a_patch_changes_what_it_names() {
    assert_eq!(patch(&full(), &json!({})), Ok(full()));
    let after = patch(&full(), &json!({"title": " New ", "tags": ["a", "b"], "due_time": "11:30"})).unwrap();
    assert_eq!(
        after,
        TaskRow { title: "New".into(), tags: vec!["a".into(), "b".into()], due_time: Some("11:30".into()), ..full() }
    );
}

#[test]
fn null_removes_what_can_be_removed() {
    let nulls =
        json!({"description": null, "priority": null, "tags": null, "due_date": null, "due_time": null, "recurrence": null});
    assert_eq!(patch(&full(), &nulls), Ok(plain()));
    assert_eq!(patch(&full(), &json!({"title": null})), Err(vec!["title must not be null, a task has a title".to_owned()]));
}

#[test]
fn a_new_due_date_is_the_new_anchor_of_the_series() {
    assert_eq!(patch(&full(), &json!({"due_date": "2026-02-28"})).unwrap().anchor_day, Some(31), "it is where it was");
    assert_eq!(patch(&full(), &json!({"due_date": "2026-02-27"})).unwrap().anchor_day, None);
}

#[test]
fn a_time_without_a_date_is_the_fault_of_the_field_that_was_sent() {
    let alone = "due_date must not be removed alone: set due_time to null as well";
    assert_eq!(patch(&full(), &json!({"due_date": null})), Err(vec![alone.to_owned()]));
    for (task, body) in [(plain(), json!({"due_time": "10:00"})), (full(), json!({"due_date": null, "due_time": "11:00"}))] {
        assert_eq!(patch(&task, &body), Err(vec!["due_time needs a due_date".to_owned()]));
    }
    assert_eq!(patch(&plain(), &json!({"due_date": "soon", "due_time": "10:00"})).unwrap_err().len(), 1, "one fault, not two");
    assert_eq!(patch(&full(), &json!({"due_date": null, "due_time": "soon"})).unwrap_err().len(), 1);
}

#[test]
fn all_wrong_fields_of_a_patch_are_named_at_once() {
    let body = json!({
        "title": null, "description": 1, "priority": "urgent", "tags": ["a", "a"], "due_date": "2026-02-30", "due_time": "24:00",
        "recurrence": "hourly", "completed": true, "version": 1,
    });
    let errors = patch(&full(), &body).unwrap_err();
    let names: Vec<&str> = errors.iter().filter_map(|error| error.split(' ').next()).collect();
    let all = ["title", "description", "priority", "tags", "due_date", "due_time", "recurrence", "completed", "version"];
    assert_eq!(names, all, "{errors:?}");
}

#[test]
fn a_patch_comes_as_a_merge_patch() {
    let takes = |media: &str| takes_merge_patch(&testing::request("PATCH", "/").header("content-type", media).build());
    assert_eq!(takes("application/merge-patch+json"), Ok(()));
    assert_eq!(takes("application/json; charset=utf-8"), Ok(()));
    assert_eq!(takes_merge_patch(&testing::request("PATCH", "/").build()), Ok(()));
    let problem = takes("application/json-patch+json").unwrap_err();
    assert!(problem.status() == 415 && problem.to_string().contains("application/merge-patch+json"), "{problem}");
}
