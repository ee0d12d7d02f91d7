//! The published schemas take the product's events and refuse whatever consumers must not be surprised by.

use std::{collections::BTreeMap, fs, path::Path};

use jsonschema::Validator;
use serde_json::{Value, json};
use tidemill_sdk::Uuid;
use todo::events::{SOURCE, TaskCreated};

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn schemas() -> BTreeMap<String, Value> {
    let files = fs::read_dir(folder().join("schemas")).expect("the folder");
    files
        .map(|file| {
            let path = file.expect("a file").path();
            let schema = serde_json::from_slice(&fs::read(&path).expect("a schema")).expect("JSON");
            (path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned(), schema)
        })
        .collect()
}

fn validator(event_type: &str) -> Validator {
    jsonschema::options().should_validate_formats(true).build(&schemas()[event_type]).expect("a schema")
}

/// One event of each type with nothing but what it must have.
fn examples() -> BTreeMap<&'static str, Value> {
    let (id, time) = ("01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f", "2026-02-10T09:30:00.123456Z");
    let of_task = |more: Value| {
        let mut data = json!({"task_id": id, "user_id": "alice"});
        let fields = data.as_object_mut().expect("an object");
        fields.extend(more.as_object().expect("an object").clone());
        data
    };
    let data = [
        (
            "task.created",
            of_task(
                json!({"title": "a", "description": null, "priority": "low", "tags": [], "due_date": null, "recurrence": null, "created_at": time}),
            ),
        ),
        ("task.updated", of_task(json!({"changes": {"due_date": null}, "updated_at": time}))),
        ("task.completed", of_task(json!({"title": "a", "recurrence": null, "due_date": null, "completed_at": time}))),
        ("task.deleted", of_task(json!({"title": "a", "deleted_at": time}))),
        ("reminder.triggered", of_task(json!({"reminder_id": id, "task_title": "a", "due_date": "2026-02-10"}))),
    ];
    let source = |event_type: &str| if event_type == "reminder.triggered" { "todo-reminder-scheduler" } else { SOURCE };
    let event = |event_type: &'static str, data: Value| {
        let event = json!({
            "specversion": "1.0", "id": id, "source": source(event_type), "type": event_type, "time": time,
            "datacontenttype": "application/json", "correlationid": "c-1", "data": data,
        });
        (event_type, event)
    };
    data.into_iter().map(|(event_type, data)| event(event_type, data)).collect()
}

#[test]
fn there_is_a_schema_for_each_of_the_five_events_and_for_no_other() {
    let (schemas, examples) = (schemas(), examples());
    assert!(schemas.keys().eq(examples.keys()), "{:?}", schemas.keys());
    for (event_type, event) in &examples {
        let errors: Vec<String> = validator(event_type).iter_errors(event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{event_type}: {errors:?}");
    }
}

#[test]
fn a_field_that_is_missing_is_refused_and_one_more_is_not() {
    for (event_type, event) in examples() {
        let validator = validator(event_type);
        let names: Vec<String> = event["data"].as_object().expect("an object").keys().cloned().collect();
        for name in &names {
            let mut less = event.clone();
            less["data"].as_object_mut().expect("an object").remove(name);
            assert!(!validator.is_valid(&less), "{event_type} without {name}");
        }
        for name in ["specversion", "id", "source", "type", "time", "datacontenttype", "data"] {
            let mut less = event.clone();
            less.as_object_mut().expect("an object").remove(name);
            assert!(!validator.is_valid(&less), "{event_type} without {name}");
        }
        let mut more = event.clone();
        (more["traceparent"], more["tenant"], more["data"]["colour"]) =
            ("00-e2b4a6a58e164cfab4e13b03f1841320-a2442d33bb8c47d9-01".into(), "x".into(), "red".into());
        assert!(validator.is_valid(&more), "{event_type} with more");
    }
}

#[test]
fn wrong_values_are_refused() {
    let wrong = [
        ("task.created", "/id", json!("17")),
        ("task.created", "/id", json!("01989e5c-5b30-4cc1-a6d4-0a1b2c3d4e5f")),
        ("task.created", "/source", json!("elsewhere")),
        ("task.created", "/type", json!("task.made")),
        ("task.created", "/time", json!("2026-02-10T09:30:00+01:00")),
        ("task.created", "/correlationid", json!(null)),
        ("task.created", "/data/task_id", json!("17")),
        ("task.created", "/data/user_id", json!("")),
        ("task.created", "/data/title", json!(null)),
        ("task.created", "/data/title", json!("x".repeat(201))),
        ("task.created", "/data/priority", json!("urgent")),
        ("task.created", "/data/tags", json!(null)),
        ("task.created", "/data/tags", json!(["a", "a"])),
        ("task.created", "/data/due_date", json!("2026-02-30")),
        ("task.created", "/data/recurrence", json!("hourly")),
        ("task.created", "/data/created_at", json!(1_770_715_800)),
        ("task.updated", "/data/changes", json!({})),
        ("task.updated", "/data/changes", json!({"completed": "no"})),
        ("task.updated", "/data/changes", json!({"due_time": "25:00"})),
        ("task.completed", "/data/completed_at", json!(null)),
        ("task.deleted", "/data/deleted_at", json!("yesterday")),
        ("reminder.triggered", "/source", json!("todo-backend")),
        ("reminder.triggered", "/data/reminder_id", json!(null)),
        ("reminder.triggered", "/data/due_date", json!("soon")),
    ];
    for (event_type, place, value) in wrong {
        let mut event = examples().remove(event_type).expect("an example");
        *event.pointer_mut(place).expect("a place") = value.clone();
        assert!(!validator(event_type).is_valid(&event), "{event_type} with {place} {value}");
    }
}

#[test]
fn what_the_handlers_publish_has_every_field_of_its_schema() {
    let time = "2026-02-10T09:30:00Z".parse().expect("a time");
    let event = TaskCreated {
        event_id: None,
        task_id: Uuid::nil(),
        user_id: "alice",
        title: "a",
        description: None,
        priority: "medium",
        tags: &[],
        due_date: None,
        recurrence: None,
        created_at: time,
        due_time: None,
        series_id: None,
        previous_task_id: None,
    };
    let data = serde_json::to_value(&event).expect("JSON");
    let schema = &schemas()["task.created"]["properties"]["data"]["properties"];
    let names = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&data), names(schema));
}

#[test]
fn the_asyncapi_document_names_every_schema_and_topic() {
    let document = fs::read_to_string(folder().join("asyncapi.yaml")).expect("the document");
    for event_type in schemas().keys() {
        assert!(document.contains(&format!("{{$ref: 'schemas/{event_type}.json'}}")), "no schema of {event_type}");
        assert!(document.contains(&format!("name: {event_type}\n")), "no message {event_type}");
    }
    for topic in ["todo.task-events", "todo.task-updates", "todo.reminders"] {
        assert!(document.contains(&format!("address: {topic}\n")), "no channel {topic}");
    }
}
