//! Keeps every event of the topic `@TOPIC@`, once.

use serde_json::{Map, Value};
use tidemill_sdk::{Event, Failure, params, sql, sql::Json};

const KEEP: &str = "INSERT INTO events (source, event_id, type, data, occurred_at) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";

/// Gets events of one partition in their order, each for the first time. They commit together with the host's note that they were handled,
/// so there is nothing to acknowledge. (One statement for the whole batch is faster: bind arrays and `SELECT * FROM unnest($1::text[], …)`.)
fn handle(events: &[Event]) -> Result<(), Failure> {
    for event in events {
        // Data that is no JSON object never will be one: this event is rejected by name and becomes a dead letter, the others run without it.
        let data: Map<String, Value> = event.data()?;
        let columns = params![event.source(), event.id(), event.event_type(), Json(&data), event.time()];
        // A failed statement rolls everything back; the host finds out whose fault it was, and tries that one again later.
        sql::execute(KEEP, columns)?;
    }
    Ok(())
}

tidemill_sdk::event_handler!(handle);
