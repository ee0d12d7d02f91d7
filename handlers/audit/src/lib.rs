//! Writes the audit trail: one row for each event of a task, with one statement for the whole batch.
//!
//! Read this as the example of a consumer. It has two steps, and every consumer does well to keep them apart:
//! 1. *Read* the batch ([`entry`]): a pure function, tested natively. An event that can never be handled is rejected here, by name.
//! 2. *Write* what was read, batch-wise. The rows and the host's note that these events were handled commit together, so there is
//!    nothing to remember, to acknowledge or to undo.

mod entry;

use entry::Entries;
use tidemill_sdk::{Event, Failure, params, sql};

/// The host hands each event to this group once. The conflict is with rows that are older than the host's memory: of an event that was
/// put into its topic again. No conflict target, since naming one would need the right to read the table.
const RECORD: &str = "INSERT INTO audit_log (source, event_id, type, task_id, user_id, correlation_id, data, occurred_at) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::timestamptz[]) \
    ON CONFLICT DO NOTHING";

fn handle(events: &[Event]) -> Result<(), Failure> {
    // What never fits the table: `Failure::reject` with the events' names. They become dead letters, the others run without them.
    let e = Entries::read(events)?;
    let columns = params![e.sources, e.event_ids, e.types, e.task_ids, e.user_ids, e.correlation_ids, e.data, e.occurred_at];
    // A failed statement becomes `Failure::retry` without names: everything is rolled back, and the host finds out whose fault it was.
    sql::execute(RECORD, columns)?;
    Ok(())
}

tidemill_sdk::event_handler!(handle);
