use serde_json::{Value, json};

use super::*;

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
