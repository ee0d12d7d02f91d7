//! Cancels the waiting reminders of tasks that were completed or deleted, with their jobs: one statement and one call for the whole batch.
//!
//! Only reminders that were set before the event: one that was set after the task was reopened stays, however late this runs. A reminder
//! whose time has come in the meantime is the reminder handler's: whichever of the two commits first stands.

mod over;

use over::Over;
use tidemill_sdk::{Event, Failure, Uuid, jobs, params, sql};
use todo::reminders::job_name;

const CANCEL: &str = "WITH gone AS (\
        SELECT r.id FROM reminders r \
        JOIN unnest($1::uuid[], $2::timestamptz[], $3::integer[]) AS o(task_id, at, version) ON r.task_id = o.task_id \
        WHERE r.state = 'PENDING' AND CASE WHEN o.version IS NULL THEN r.set_at < o.at ELSE r.task_version < o.version END \
        ORDER BY r.id FOR UPDATE OF r) \
    UPDATE reminders r SET state = 'CANCELLED', cancelled_at = clock_timestamp() \
    FROM gone WHERE r.id = gone.id AND r.state = 'PENDING' RETURNING r.id";

fn handle(events: &[Event]) -> Result<(), Failure> {
    let over = Failure::collect(events, Over::read)?;
    let tasks: Vec<Uuid> = over.iter().map(|over| over.task_id).collect();
    let times: Vec<_> = over.iter().map(|over| over.at).collect();
    let versions: Vec<_> = over.iter().map(|over| over.version).collect();
    let cancelled: Vec<Uuid> = sql::query(CANCEL, params![tasks, times, versions])?;
    if !cancelled.is_empty() {
        let names: Vec<String> = cancelled.into_iter().map(job_name).collect();
        // One that has fired in the meantime is no longer there; its event finds the reminder cancelled.
        jobs::cancel_all(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

tidemill_sdk::event_handler!(handle);
