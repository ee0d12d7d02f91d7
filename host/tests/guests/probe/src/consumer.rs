//! What happens to events: one row in `seen` for each, and what the event's type asks for.

use std::time::Duration;

use crate::bindings::exports::tidemill::events::events::{Batch, Event, Failure, FailureKind};
use crate::bindings::tidemill::jobs::jobs;
use crate::bindings::tidemill::publish::publish;
use crate::bindings::tidemill::sql::sql::{self, Value};
use crate::{actions, values};

/// Handles a batch one by one; the first event that cannot be handled is named in the failure.
pub(crate) fn handle(batch: &Batch) -> Result<(), Failure> {
    for (position, event) in (0u32..).zip(&batch.events) {
        one(batch, position, event).map_err(|message| {
            let kind = if event.type_ == "probe.reject" { FailureKind::Reject } else { FailureKind::Retry };
            let events = (event.type_ != "probe.vague").then(|| vec![position]);
            Failure { kind, message, events }
        })?;
    }
    Ok(())
}

fn one(batch: &Batch, position: u32, event: &Event) -> Result<(), String> {
    match event.type_.as_str() {
        "probe.fail" | "probe.reject" | "probe.vague" if !switched_on("let-pass")? => {
            return Err(format!("event {} fails as asked", event.id));
        }
        "probe.hang" if !switched_on("let-pass")? => std::thread::sleep(Duration::from_secs(3_600)),
        "probe.spin" if !switched_on("let-pass")? => loop {
            std::hint::black_box(position);
        },
        "probe.hog" if !switched_on("let-pass")? => {
            let mut hoard = Vec::new();
            loop {
                hoard.push(std::hint::black_box(vec![1u8; 1 << 20]));
            }
        }
        "probe.trap" if !switched_on("let-pass")? => panic!("event {} traps as asked", event.id),
        "probe.pair" if !switched_on("let-pass")? => pair(event)?,
        "probe.slow" => std::thread::sleep(Duration::from_millis(300)),
        "probe.republish" => republish(batch, position, event)?,
        "probe.lock" => lock(event)?,
        "probe.schedule" | "probe.schedule-without-cause" => schedule(position, event)?,
        "probe.sql" => statement(event)?,
        "probe.extensions" => note(event, &format!("{:?}", event.extensions))?,
        "probe.count" => note(event, &actions::counted().to_string())?,
        "probe.query" => query_in_between(event)?,
        _ => {}
    }
    record(batch, event)
}

fn switched_on(name: &str) -> Result<bool, String> {
    let rows = sql::query("SELECT 1 FROM switches WHERE name = $1 AND is_on", &[Value::Text(name.into())])
        .map_err(|error| error.message)?;
    Ok(!rows.rows.is_empty())
}

/// Runs the statement `sql` of the event's data.
fn statement(event: &Event) -> Result<(), String> {
    sql::query(data(event)["sql"].as_str().unwrap_or_default(), &[]).map(drop).map_err(|error| error.message)
}

/// Half of a pair, which nobody misses before the end of the unit.
fn pair(event: &Event) -> Result<(), String> {
    let params = [Value::Text(event.id.clone())];
    sql::execute("INSERT INTO pairs (id, partner) VALUES ($1, 'nobody')", &params).map(drop).map_err(|error| error.message)
}

/// Leaves a row under the event's id.
fn note(event: &Event, note: &str) -> Result<(), String> {
    let params = [Value::Text(event.id.clone()), Value::Text(note.to_owned())];
    let statement = "INSERT INTO rows (id, note) VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET note = excluded.note";
    sql::execute(statement, &params).map(drop).map_err(|error| error.message)
}

/// Leaves a row, sleeps for `ms`, and then notes in the row what the step `query` would answer.
fn query_in_between(event: &Event) -> Result<(), String> {
    note(event, "")?;
    std::thread::sleep(Duration::from_millis(data(event)["ms"].as_u64().unwrap_or_default()));
    let found = sql::query(actions::COUNT, &[]).map_err(|error| error.message)?;
    note(event, &values::rows_to_json(&found).to_string())
}

fn data(event: &Event) -> serde_json::Value {
    serde_json::from_slice(event.data.as_deref().unwrap_or_default()).unwrap_or_default()
}

/// Changes the rows that the event's data names, in this order: each is locked to the end of the unit.
fn lock(event: &Event) -> Result<(), String> {
    let data = data(event);
    for row in data["rows"].as_array().into_iter().flatten().filter_map(|row| row.as_str()) {
        let params = [Value::Text(row.to_owned()), Value::Text(event.id.clone())];
        sql::execute("UPDATE rows SET note = $2 WHERE id = $1", &params).map_err(|error| error.message)?;
    }
    Ok(())
}

/// Publishes a copy to the topic beside: `x.in` goes to `x.out`.
fn republish(batch: &Batch, position: u32, event: &Event) -> Result<(), String> {
    let copy = publish::Event {
        topic: batch.topic.replace(".in", ".out"),
        key: event.key.clone(),
        id: Some(format!("copy-of-{}", event.id)),
        source: "probe".into(),
        type_: "probe.copied".into(),
        time: None,
        subject: None,
        datacontenttype: None,
        dataschema: None,
        extensions: Vec::new(),
        data: event.data.clone(),
    };
    publish::publish(&copy, Some(position)).map(drop).map_err(|error| error.message)
}

/// Schedules what the data describe, under the event's id.
fn schedule(position: u32, event: &Event) -> Result<(), String> {
    let data = data(event);
    let cause = (event.type_ == "probe.schedule").then_some(position);
    jobs::schedule(&crate::jobs::job(&event.id, &data), cause).map_err(|error| error.message)
}

/// JSON as it is, and other bytes as a JSON text that has them as numbers.
fn json(data: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(data) {
        Ok(_) => String::from_utf8_lossy(data).into_owned(),
        Err(_) => serde_json::json!(format!("{data:?}")).to_string(),
    }
}

fn record(batch: &Batch, event: &Event) -> Result<(), String> {
    let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).into_owned();
    let params = [
        Value::Text(event.id.clone()),
        Value::Text(event.source.clone()),
        Value::Text(event.type_.clone()),
        Value::Text(batch.topic.clone()),
        Value::Integer(batch.partition.into()),
        Value::Integer(event.offset),
        event.key.as_ref().map_or(Value::Null, |key| Value::Text(text(key))),
        event.data.as_ref().map_or(Value::Null, |data| Value::Json(json(data))),
    ];
    let statement =
        "INSERT INTO seen (event_id, source, type, topic, part, off, subject_key, data) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    sql::execute(statement, &params).map(drop).map_err(|error| error.message)
}
