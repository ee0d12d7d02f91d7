//! The REST API of tasks: routing and SQL. What a task is and says is in the modules, as pure functions.

mod events;
mod history;
mod page;
mod rules;
mod task;

use events::{TaskCompleted, TaskDeleted, created};
use history::{Entry, Position};
use page::{Page, PageRequest};
use task::{Task, TaskRow};
use tidemill_sdk::{Problem, Request, Response, Uuid, new_id, now, params, publish, sql};

/// The columns of a [`TaskRow`].
macro_rules! columns {
    () => {
        "id, user_id, title, description, priority, tags, due_date, due_time, recurrence, series_id, anchor_day, \
         created_at, updated_at, completed_at, version"
    };
}

const INSERT: &str = "INSERT INTO tasks \
    (id, user_id, title, description, priority, tags, due_date, due_time, recurrence, created_at, updated_at, version) \
    VALUES ($1, $2, $3, $4, $5, $6::text[], $7::date, $8::time, $9, $10, $11, $12)";
const SELECT: &str = concat!("SELECT ", columns!(), " FROM tasks WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL");
const LIST: &str =
    concat!("SELECT ", columns!(), " FROM tasks WHERE user_id = $1 AND deleted_at IS NULL AND id < $2 ORDER BY id DESC LIMIT $3");
const COMPLETE: &str = concat!(
    "UPDATE tasks SET completed_at = $3, updated_at = $3, version = version + 1 \
     WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL AND completed_at IS NULL RETURNING ",
    columns!()
);
const DELETE: &str = "UPDATE tasks SET deleted_at = $3, updated_at = $3, version = version + 1 \
    WHERE id = $1 AND user_id = $2 AND deleted_at IS NULL RETURNING title";
/// Deleted ones as well: their history stays readable.
const EXISTS: &str = "SELECT 1 FROM tasks WHERE id = $1 AND user_id = $2";
const HISTORY: &str = "SELECT id, event_id, source, type, occurred_at, recorded_at, correlation_id, data FROM audit_log \
    WHERE task_id = $1 AND user_id = $2 AND (occurred_at, id) > ($3::timestamptz, $4::bigint) ORDER BY occurred_at, id LIMIT $5";

fn handle(request: Request) -> Result<Response, Problem> {
    match (request.method(), request.route()) {
        ("POST", "/api/tasks") => create(&request),
        ("GET", "/api/tasks") => list(&request),
        ("GET", "/api/tasks/{id}") => get(&request),
        ("DELETE", "/api/tasks/{id}") => delete(&request),
        ("POST", "/api/tasks/{id}/complete") => complete(&request),
        ("GET", "/api/tasks/{id}/history") => list_history(&request),
        _ => Err(Problem::not_found()),
    }
}

tidemill_sdk::http_handler!(handle);

fn create(request: &Request) -> Result<Response, Problem> {
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
    Ok(Response::json(201, &Task::from(&task)).header("location", format!("/api/tasks/{}", task.id)))
}

fn list(request: &Request) -> Result<Response, Problem> {
    let page: PageRequest<Uuid> = page::requested(request.query())?;
    let rows: Vec<TaskRow> = sql::query(LIST, params![request.user()?, page.after.unwrap_or(Uuid::max()), page.to_fetch()])?;
    let page = Page::cut(rows, &page, |row| row.id);
    Ok(Response::json(200, &page.map(Task::from)))
}

fn get(request: &Request) -> Result<Response, Problem> {
    let task = find(request.id("id")?, request.user()?)?;
    Ok(Response::json(200, &Task::from(&task)))
}

fn complete(request: &Request) -> Result<Response, Problem> {
    let (id, user, time) = (request.id("id")?, request.user()?, now());
    let completed: Option<TaskRow> = sql::query_optional(COMPLETE, params![id, user, time])?;
    let task = match completed {
        Some(task) => {
            publish(&TaskCompleted::of(&task, time))?;
            task
        }
        // Completed before, or not there at all.
        None => find(id, user)?,
    };
    Ok(Response::json(200, &Task::from(&task)))
}

fn delete(request: &Request) -> Result<Response, Problem> {
    let (id, user, time) = (request.id("id")?, request.user()?, now());
    let title: Option<String> = sql::query_optional(DELETE, params![id, user, time])?;
    let title = title.ok_or_else(Problem::not_found)?;
    publish(&TaskDeleted { task_id: id, user_id: user, title: &title, deleted_at: time })?;
    Ok(Response::empty(204))
}

fn list_history(request: &Request) -> Result<Response, Problem> {
    let (id, user) = (request.id("id")?, request.user()?);
    let page: PageRequest<Position> = page::requested(request.query())?;
    sql::query_optional::<i32>(EXISTS, params![id, user])?.ok_or_else(Problem::not_found)?;
    let after = page.after.unwrap_or(Position::START);
    let rows: Vec<Entry> = sql::query(HISTORY, params![id, user, after.occurred_at, after.id, page.to_fetch()])?;
    Ok(Response::json(200, &Page::cut(rows, &page, Entry::position)))
}

fn find(id: Uuid, user: &str) -> Result<TaskRow, Problem> {
    sql::query_optional(SELECT, params![id, user])?.ok_or_else(Problem::not_found)
}
