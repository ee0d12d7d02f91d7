//! Makes the next task of a series when one is completed: one statement for the whole batch, and one `task.created` for each new row.

mod next;

use next::NextTask;
use tidemill_sdk::{Event, Failure, Uuid, now, params, publish_caused_by, sql, sql::Json};

/// Returns the ids of the rows that are new. `previous_task_id` is unique: a task completed twice has one next task, whichever event
/// comes first. No conflict target, so that a copy handled elsewhere at this moment conflicts on the primary key as quietly.
const INSERT: &str = "INSERT INTO tasks (id, user_id, title, description, priority, tags, due_date, due_time, recurrence, \
        series_id, anchor_day, previous_task_id, created_at, updated_at) \
    SELECT id, user_id, title, description, priority, tags, due_date, due_time, recurrence, \
        series_id, anchor_day, previous_task_id, $2::timestamptz, $2::timestamptz \
    FROM jsonb_to_recordset($1::jsonb) AS t(id uuid, user_id text, title text, description text, priority text, tags text[], \
        due_date date, due_time time, recurrence text, series_id uuid, anchor_day smallint, previous_task_id uuid) \
    ON CONFLICT DO NOTHING RETURNING id";

fn handle(events: &[Event]) -> Result<(), Failure> {
    let next = Failure::collect(events, next::after)?;
    let (causes, tasks): (Vec<&Event>, Vec<NextTask>) =
        events.iter().zip(next).filter_map(|(event, next)| Some((event, next?))).unzip();
    if tasks.is_empty() {
        return Ok(());
    }
    let time = now();
    let mut made: Vec<Uuid> = sql::query(INSERT, params![Json(&tasks), time])?;
    for (cause, task) in causes.into_iter().zip(&tasks) {
        // Two events of a batch may stand for one row: the first of them made it.
        if let Some(place) = made.iter().position(|id| *id == task.id) {
            made.swap_remove(place);
            publish_caused_by(&task.created(time, cause), cause)?;
        }
    }
    Ok(())
}

tidemill_sdk::event_handler!(handle);
