//! Reminders: set, listed, cancelled, and moved with their task. A reminder's row and its job are changed in one transaction.
//!
//! Whoever decides about reminders locks the task first: a change of the due date and a new reminder never pass each other by.

mod reminder;
mod shift;

pub(crate) use reminder::Reminder;
use reminder::TaskDue;
use serde::Deserialize;
use shift::{Pending, Shift};
use tidemill_sdk::{
    Problem, Request, Response, Uuid,
    jobs::{self, Cancelled, Job},
    new_id, params, sql,
};
use todo::reminders::{ReminderTriggered, job_name};

use crate::cursor::Scope;
use crate::page::{self, Page};
use crate::task::TaskRow;

/// Waiting reminders of one task, at most: they all move in one transaction.
const MOST: i64 = 50;
/// Reminders shown beside the history of a task, at most.
const MOST_IN_HISTORY: i64 = 200;

/// The columns of a [`Reminder`].
macro_rules! columns {
    () => {
        "r.id, r.task_id, r.lead_time, r.remind_at, r.state, r.created_at, r.triggered_at, r.cancelled_at"
    };
}

const LOCK_TASK: &str = "SELECT title, due_date, coalesce(due_time, (SELECT default_due_time FROM settings), '10:00'::time) AS due_time, \
        completed_at IS NOT NULL AS completed, version, clock_timestamp() AS now \
    FROM tasks WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL FOR UPDATE";
/// Asked for again, a waiting reminder of that time is the answer. It counts as set now: if the task was completed and reopened in
/// between, the completion must not cancel what the user was just told of.
const SET: &str = concat!(
    "WITH same AS (UPDATE reminders r SET set_at = clock_timestamp(), task_version = $7::integer \
            WHERE r.task_id = $2::uuid AND r.user_id = $3::text AND r.remind_at = $6::timestamptz AND r.state = 'PENDING' \
            RETURNING ",
    columns!(),
    "), fresh AS (INSERT INTO reminders AS r (id, task_id, user_id, lead_time, lead_seconds, remind_at, task_version) \
            SELECT $1::uuid, $2::uuid, $3::text, $4::text, $5::bigint, $6::timestamptz, $7::integer \
            WHERE NOT EXISTS (SELECT 1 FROM same) RETURNING ",
    columns!(),
    ") SELECT r.*, (SELECT count(*) FROM reminders o WHERE o.task_id = $2::uuid AND o.state = 'PENDING') AS others \
    FROM (SELECT * FROM same UNION ALL SELECT * FROM fresh) AS r"
);
const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM reminders r JOIN tasks t ON t.id = r.task_id AND t.deleted_at IS NULL \
    WHERE r.user_id = $1 AND r.id < $2 AND ($3::text IS NULL OR r.state = $3::text) AND ($4::uuid IS NULL OR r.task_id = $4::uuid) \
    ORDER BY r.id DESC LIMIT $5"
);
const FIND: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM reminders r JOIN tasks t ON t.id = r.task_id AND t.deleted_at IS NULL WHERE r.id = $1 AND r.user_id = $2"
);
const CANCEL: &str = concat!(
    "UPDATE reminders r SET state = 'CANCELLED', cancelled_at = clock_timestamp() \
    WHERE r.id = $1 AND r.user_id = $2 AND r.state = 'PENDING' \
        AND EXISTS (SELECT 1 FROM tasks t WHERE t.id = r.task_id AND t.deleted_at IS NULL) RETURNING ",
    columns!()
);
/// Deleted tasks as well.
const OF_TASK: &str =
    concat!("SELECT ", columns!(), " FROM reminders r WHERE r.task_id = $1 AND r.user_id = $2 ORDER BY r.id DESC LIMIT $3");
const PENDING: &str = "SELECT r.id, r.lead_seconds, r.remind_at, (SELECT default_due_time FROM settings) AS default_due_time \
    FROM reminders r WHERE r.task_id = $1 AND r.user_id = $2 AND r.state = 'PENDING' ORDER BY r.id FOR UPDATE OF r";
const CANCEL_ALL: &str = "UPDATE reminders SET state = 'CANCELLED', cancelled_at = clock_timestamp() WHERE id = ANY($1::uuid[])";
const MOVE: &str = "UPDATE reminders r SET remind_at = m.remind_at \
    FROM unnest($1::uuid[], $2::timestamptz[]) AS m(id, remind_at) WHERE r.id = m.id";

/// What [`SET`] returns.
#[derive(Deserialize)]
struct SetRow {
    #[serde(flatten)]
    reminder: Reminder,
    /// Other waiting reminders of the task; for one that was there already, it is among them.
    others: i64,
}

/// `POST /api/tasks/{id}/reminders`
pub(crate) fn set(request: &Request) -> Result<Response, Problem> {
    let (task_id, user) = (request.id("id")?, request.user()?);
    let lead = reminder::lead_time(request.fields()?)?;
    let task: TaskDue = sql::query_optional(LOCK_TASK, params![task_id, user])?.ok_or_else(Problem::not_found)?;
    let remind_at = task.remind_at(&lead)?;
    let id = new_id();
    let columns = params![id, task_id, user, lead.as_str(), lead.seconds(), remind_at, task.version];
    let SetRow { reminder, others } = sql::query_one(SET, columns)?;
    if reminder.id != id {
        return Ok(Response::json(200, &reminder));
    }
    if others >= MOST {
        return Err(reminder::wrong(format!("is one too many: the task has {others} waiting reminders; cancel one first")));
    }
    let event = ReminderTriggered {
        reminder_id: id,
        task_id,
        user_id: user,
        task_title: &task.title,
        due_date: task.due_date.as_deref(),
    };
    Job::at(job_name(id), remind_at, &event)?.schedule()?;
    Ok(Response::json(201, &reminder))
}

/// `GET /api/reminders`
pub(crate) fn list(request: &Request) -> Result<Response, Problem> {
    let (user, mut query) = (request.user()?, request.query());
    let state = query.optional("state", reminder::state);
    let task: Option<Uuid> = query.optional("task_id", |text: String| text.parse().map_err(|_| "must be a task's id".to_owned()));
    let scope = Scope::new(user, &format!("reminders {state:?} {task:?}"));
    let page = page::requested(query, scope, |text| text.parse().ok())?;
    let after: Uuid = page.after.unwrap_or(Uuid::max());
    let rows: Vec<Reminder> = sql::query(LIST, params![user, after, state, task, page.to_fetch()])?;
    Ok(Response::json(200, &Page::cut(rows, &page, |row| row.id.to_string())))
}

/// `DELETE /api/reminders/{id}`
pub(crate) fn cancel(request: &Request) -> Result<Response, Problem> {
    let (id, user) = (request.id("id")?, request.user()?);
    let cancelled: Option<Reminder> = sql::query_optional(CANCEL, params![id, user])?;
    if let Some(reminder) = cancelled {
        // Not there any more if it has fired just now; its event finds the reminder cancelled.
        jobs::cancel(&job_name(id))?;
        return Ok(Response::json(200, &reminder));
    }
    let reminder: Reminder = sql::query_optional(FIND, params![id, user])?.ok_or_else(Problem::not_found)?;
    reminder.already_over()
}

/// The reminders of a task, newest first, also of one that is deleted: what its history shows beside the trail.
pub(crate) fn of_task(task: Uuid, user: &str) -> Result<Vec<Reminder>, Problem> {
    Ok(sql::query(OF_TASK, params![task, user, MOST_IN_HISTORY])?)
}

/// Lets the waiting reminders follow a task that was changed in this transaction: moved with its due date, cancelled if it has none any
/// more, and telling its new title. A reminder whose time is past by the move comes at once.
pub(crate) fn follow(before: &TaskRow, after: &TaskRow) -> Result<(), Problem> {
    let what = |task: &TaskRow| (task.title.clone(), task.due_date.clone(), task.due_time.clone());
    if what(before) == what(after) {
        return Ok(());
    }
    let pending: Vec<Pending> = sql::query(PENDING, params![after.id, after.user_id])?;
    if pending.is_empty() {
        return Ok(());
    }
    // A new title moves nothing, also where the default due time has changed since: that counts for what is moved.
    let stays = (&before.due_date, &before.due_time) == (&after.due_date, &after.due_time);
    let shift = if stays { Shift::none(&pending) } else { Shift::of(pending, after) };
    if !shift.cancelled.is_empty() {
        sql::execute(CANCEL_ALL, params![shift.cancelled])?;
    }
    if !shift.moved.is_empty() {
        let (ids, times): (Vec<_>, Vec<_>) = shift.moved.iter().copied().unzip();
        sql::execute(MOVE, params![ids, times])?;
    }
    // Rows first, then jobs: everybody locks in this order.
    cancel_jobs(&shift.cancelled)?;
    // A job that has fired is not to fire again for the sake of a title.
    let waiting = cancel_jobs(&shift.stayed.iter().map(|(id, _)| *id).collect::<Vec<_>>())?;
    let told_anew = shift.stayed.iter().zip(waiting).filter(|(_, was)| *was == Cancelled::Cancelled).map(|(stayed, _)| stayed);
    for &(id, time) in shift.moved.iter().chain(told_anew) {
        Job::at(job_name(id), time, &triggered(id, after))?.schedule()?;
    }
    Ok(())
}

fn cancel_jobs(reminders: &[Uuid]) -> Result<Vec<Cancelled>, Problem> {
    if reminders.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = reminders.iter().copied().map(job_name).collect();
    Ok(jobs::cancel_all(&names.iter().map(String::as_str).collect::<Vec<_>>())?)
}

/// What the job of a reminder says.
fn triggered(reminder_id: Uuid, task: &TaskRow) -> ReminderTriggered<'_> {
    ReminderTriggered {
        reminder_id,
        task_id: task.id,
        user_id: &task.user_id,
        task_title: &task.title,
        due_date: task.due_date.as_deref(),
    }
}
