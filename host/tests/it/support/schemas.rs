//! The published schemas of the product's events, and every event that a test emits held against them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jsonschema::Validator;
use serde_json::Value as Json;

use super::Broker;
use super::records;

/// The product's events, and where each belongs.
const EVENTS: [(&str, &str); 5] = [
    ("task.created", "todo.task-events"),
    ("task.updated", "todo.task-updates"),
    ("task.completed", "todo.task-events"),
    ("task.deleted", "todo.task-events"),
    ("reminder.triggered", "todo.reminders"),
];

fn schemas() -> &'static BTreeMap<&'static str, Validator> {
    static SCHEMAS: OnceLock<BTreeMap<&str, Validator>> = OnceLock::new();
    SCHEMAS.get_or_init(|| EVENTS.map(|(event, _)| (event, read(event))).into())
}

fn read(event: &str) -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../handlers/todo/schemas/{event}.json"));
    let schema: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

/// Fails if the value of a record is an event of the product and not as its schema says. What a test has put there itself is its own
/// affair.
pub fn check(topic: &str, key: Option<&str>, value: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Json>(value) else { return };
    let (source, kind) = (event["source"].as_str().unwrap_or_default(), event["type"].as_str().unwrap_or_default());
    let Some((_, home)) = EVENTS.iter().find(|(known, _)| *known == kind).filter(|_| source != records::SOURCE) else {
        assert!(!source.starts_with("todo-"), "an event without a schema in {topic}: {event}");
        return;
    };
    let errors: Vec<String> =
        schemas()[kind].iter_errors(&event).map(|error| format!("{} {error}", error.instance_path())).collect();
    assert!(errors.is_empty(), "an event in {topic} is not as its schema says: {errors:#?}\n{event}");
    assert_eq!(key, event["data"]["user_id"].as_str(), "the key is the user: {event}");
    assert_eq!(topic.trim_end_matches(".dlq"), *home, "{event}");
}

/// At the end of a test: whatever it has emitted is as the schemas say, also where the test itself did not look.
pub struct Checked {
    pub broker: Arc<Broker>,
    pub database: String,
}

impl Drop for Checked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let (broker, database) = (Arc::clone(&self.broker), self.database.clone());
        let reader = std::thread::spawn(move || {
            // What leaves the outbox meanwhile is in its topic afterwards.
            check_outbox(&database);
            if broker.is_running() {
                let topics: BTreeSet<&str> = EVENTS.iter().map(|(_, topic)| *topic).collect();
                topics.into_iter().for_each(|topic| drop(records::all_at_once(&broker.address(), topic)));
            }
        });
        reader.join().expect("every emitted event is as its schema says");
    }
}

fn check_outbox(database: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let rows = runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(database, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.query("SELECT topic, convert_from(key, 'UTF8'), value FROM tidemill.outbox", &[]).await.unwrap()
    });
    for row in rows {
        check(row.get(0), row.get(1), row.get::<_, Option<&[u8]>>(2).unwrap_or_default());
    }
}
