//! Single tasks: made, shown, changed, completed, reopened, deleted.
//!
//! Whatever changes a task locks its row first, so what it decides on is what it changes.

use tidemill_sdk::{Problem, Request, Response, etag, new_id, now, params, publish, sql};

use crate::events::{TaskCompleted, TaskDeleted, TaskUpdated, changes, created};
use crate::task::{Task, TaskRow, columns};
use crate::{reminders, rules};

const INSERT: &str = "INSERT INTO tasks \
    (id, user_id, title, description, priority, tags, due_date, due_time, recurrence, created_at, updated_at, version) \
    VALUES ($1, $2, $3, $4, $5, $6::text[], $7::date, $8::time, $9, $10, $11, $12)";
const SELECT: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL");
const LOCK: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL FOR UPDATE");
const SAVE: &str = "UPDATE tasks SET title = $3, description = $4, priority = $5, tags = $6::text[], due_date = $7::date, \
    due_time = $8::time, recurrence = $9, anchor_day = $10, completed_at = $11, updated_at = $12, version = $13 \
    WHERE id = $1 AND user_id = $2";
const DELETE: &str = "UPDATE tasks SET deleted_at = $3, updated_at = $3, version = version + 1 WHERE id = $1 AND user_id = $2";

pub(crate) fn create(request: &Request) -> Result<Response, Problem> {
    let task = rules::new_task(request.fields()?)?.into_row(new_id(), request.user()?, now());
    let fields = params![
        task.id,
        task.user_id,
        task.title,
        task.description,
        task.priority,
        task.tags,
        task.due_date,
        task.due_time,
        task.recurrence,
        task.created_at,
        task.updated_at,
        task.version,
    ];
    sql::execute(INSERT, fields)?;
    publish(&created(&task))?;
    Ok(answer(201, &task).header("location", format!("/api/tasks/{}", task.id)))
}

pub(crate) fn get(request: &Request) -> Result<Response, Problem> {
    let known = request.if_none_match()?;
    let task: Option<TaskRow> = sql::query_optional(SELECT, params![request.id("id")?, request.user()?])?;
    let task = task.ok_or_else(Problem::not_found)?;
    match known {
        Some(tags) if tags.have_weakly(&task.version.to_string()) => {
            Ok(Response::empty(304).header("etag", etag::header(task.version)))
        }
        _ => Ok(answer(200, &task)),
    }
}

pub(crate) fn update(request: &Request) -> Result<Response, Problem> {
    rules::takes_merge_patch(request)?;
    let fields = request.fields()?;
    let before = lock(request)?;
    let after = rules::patched(fields, &before)?;
    save(&before, after)
}

pub(crate) fn complete(request: &Request) -> Result<Response, Problem> {
    let task = lock(request)?;
    if task.completed_at.is_some() {
        return Ok(answer(200, &task));
    }
    let time = now();
    let task = TaskRow { completed_at: Some(time), ..task }.touched(time);
    write(&task)?;
    publish(&TaskCompleted::of(&task, time))?;
    Ok(answer(200, &task))
}

pub(crate) fn reopen(request: &Request) -> Result<Response, Problem> {
    let before = lock(request)?;
    let after = TaskRow { completed_at: None, ..before.clone() };
    save(&before, after)
}

pub(crate) fn delete(request: &Request) -> Result<Response, Problem> {
    let (task, time) = (lock(request)?, now());
    sql::execute(DELETE, params![task.id, task.user_id, time])?;
    let version = task.version + 1;
    publish(&TaskDeleted { task_id: task.id, user_id: &task.user_id, title: &task.title, deleted_at: time, version })?;
    Ok(Response::empty(204))
}

/// A task as the answer, with its version as the tag that guards the next update.
fn answer(status: u16, task: &TaskRow) -> Response {
    Response::json(status, &Task::from(task)).header("etag", etag::header(task.version))
}

/// The task that a request is about, locked to the end of the unit of work; 412 if it is not as `If-Match` demands.
fn lock(request: &Request) -> Result<TaskRow, Problem> {
    let (id, user, demanded) = (request.id("id")?, request.user()?, request.if_match()?);
    let task: Option<TaskRow> = sql::query_optional(LOCK, params![id, user])?;
    let task = task.ok_or_else(Problem::not_found)?;
    let tag = task.version.to_string();
    match demanded {
        Some(tags) if !tags.have(&tag) => Err(Problem::precondition_failed(format!(
            "The task was changed meanwhile: its ETag is {}. Read it again and decide anew.",
            etag::header(tag)
        ))),
        _ => Ok(task),
    }
}

/// Keeps and tells what changed. Where nothing did, nothing happens.
fn save(before: &TaskRow, after: TaskRow) -> Result<Response, Problem> {
    let changes = changes(before, &after);
    if changes.is_empty() {
        return Ok(answer(200, before));
    }
    let after = after.touched(now());
    write(&after)?;
    publish(&TaskUpdated::of(&after, changes))?;
    reminders::follow(before, &after)?;
    Ok(answer(200, &after))
}

fn write(task: &TaskRow) -> Result<(), Problem> {
    let fields = params![
        task.id,
        task.user_id,
        task.title,
        task.description,
        task.priority,
        task.tags,
        task.due_date,
        task.due_time,
        task.recurrence,
        task.anchor_day,
        task.completed_at,
        task.updated_at,
        task.version,
    ];
    sql::execute(SAVE, fields)?;
    Ok(())
}
