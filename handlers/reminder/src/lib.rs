//! Decides what becomes of reminders whose time has come: TRIGGERED, with a row in the audit trail, if the task is still active, otherwise
//! CANCELLED. Only one that still waits, and is still due at the time for which the event was made, is decided upon: a reminder that was
//! moved has another event, and one that was cancelled has none.
//!
//! What is decided upon is locked first, the tasks before the reminders, as everybody does: whoever completes a task or cancels a
//! reminder at this moment either comes first and is heeded, or waits and finds the decision.

mod due;

use due::{Decided, Due, Trail};
use tidemill_sdk::{Event, Failure, Uuid, params, sql};

/// The active ones. All of them are locked, or a task could be reopened between this and the decision.
const ACTIVE: &str = "WITH locked AS (SELECT id, completed_at, deleted_at FROM tasks WHERE id = ANY($1::uuid[]) ORDER BY id FOR SHARE) \
    SELECT id FROM locked WHERE completed_at IS NULL AND deleted_at IS NULL";
const DECIDE: &str = "WITH due AS (\
        SELECT r.id FROM reminders r JOIN unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS e(reminder_id, task_id, at) \
            ON r.id = e.reminder_id AND r.task_id = e.task_id AND r.remind_at = e.at \
        WHERE r.state = 'PENDING' ORDER BY r.id FOR UPDATE OF r) \
    UPDATE reminders r SET \
        state = CASE WHEN r.task_id = ANY($4::uuid[]) THEN 'TRIGGERED' ELSE 'CANCELLED' END, \
        triggered_at = CASE WHEN r.task_id = ANY($4::uuid[]) THEN clock_timestamp() END, \
        cancelled_at = CASE WHEN r.task_id = ANY($4::uuid[]) THEN NULL ELSE clock_timestamp() END \
    FROM due WHERE r.id = due.id AND r.state = 'PENDING' \
    RETURNING r.id, r.task_id, r.user_id, r.remind_at, r.state = 'TRIGGERED' AS triggered";
/// No conflict target, since naming one would need the right to read the table.
const RECORD: &str = "INSERT INTO audit_log (source, event_id, type, task_id, user_id, correlation_id, data, occurred_at) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::jsonb[], $8::timestamptz[]) \
    ON CONFLICT DO NOTHING";

fn handle(events: &[Event]) -> Result<(), Failure> {
    let due = Failure::collect(events, Due::read)?;
    let reminders: Vec<Uuid> = due.iter().map(|due| due.reminder_id).collect();
    let tasks: Vec<Uuid> = due.iter().map(|due| due.task_id).collect();
    let times: Vec<_> = due.iter().map(Due::time).collect();
    let active: Vec<Uuid> = sql::query(ACTIVE, params![tasks])?;
    let decided: Vec<Decided> = sql::query(DECIDE, params![reminders, tasks, times, active])?;
    let t = Trail::of(&due, decided);
    if !t.sources.is_empty() {
        let columns = params![t.sources, t.event_ids, t.types, t.task_ids, t.user_ids, t.correlation_ids, t.data, t.occurred_at];
        sql::execute(RECORD, columns)?;
    }
    Ok(())
}

tidemill_sdk::event_handler!(handle);
