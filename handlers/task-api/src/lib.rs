//! The REST API of tasks. Here are the routes, and in `tasks`, `list` and `history` what each of them does, with its SQL. What a task
//! is, may be and says is in the other modules, as pure functions.

mod cursor;
mod events;
mod history;
mod list;
mod page;
mod reminders;
mod rules;
mod task;
mod tasks;

use tidemill_sdk::{Problem, Request, Response};

fn handle(request: Request) -> Result<Response, Problem> {
    match (request.method(), request.route()) {
        ("POST", "/api/tasks") => tasks::create(&request),
        ("GET", "/api/tasks") => list::list(&request),
        ("GET", "/api/tasks/{id}") => tasks::get(&request),
        ("PATCH", "/api/tasks/{id}") => tasks::update(&request),
        ("DELETE", "/api/tasks/{id}") => tasks::delete(&request),
        ("POST", "/api/tasks/{id}/complete") => tasks::complete(&request),
        ("POST", "/api/tasks/{id}/reopen") => tasks::reopen(&request),
        ("GET", "/api/tasks/{id}/history") => history::list(&request),
        ("POST", "/api/tasks/{id}/reminders") => reminders::set(&request),
        ("GET", "/api/reminders") => reminders::list(&request),
        ("DELETE", "/api/reminders/{id}") => reminders::cancel(&request),
        _ => Err(Problem::not_found()),
    }
}

tidemill_sdk::http_handler!(handle);
