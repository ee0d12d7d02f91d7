//! Writes the audit trail: one row for each event of a task, and one statement for the whole batch.

mod entry;

use entry::Entries;
use tidemill_sdk::{Event, Failure, params, sql};

// Without a conflict target: naming one would need the right to read the table.
const RECORD: &str = "INSERT INTO audit_log (source, event_id, type, task_id, user_id, correlation_id, data, occurred_at) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::timestamptz[]) \
    ON CONFLICT DO NOTHING";

fn handle(events: Vec<Event>) -> Result<(), Failure> {
    let e = Entries::read(&events)?;
    let columns = params![e.sources, e.event_ids, e.types, e.task_ids, e.user_ids, e.correlation_ids, e.data, e.occurred_at];
    sql::execute(RECORD, columns)?;
    Ok(())
}

tidemill_sdk::event_handler!(handle);
