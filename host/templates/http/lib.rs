//! Keeps what users write, and tells of it.

use serde::{Deserialize, Serialize};
use tidemill_sdk::{EventData, Problem, Request, Response, Uuid, new_id, params, publish, sql};

#[derive(Serialize, Deserialize)]
struct Entry {
    id: Uuid,
    author: String,
    text: String,
}

impl EventData for Entry {
    const TYPE: &'static str = "@NAME@.written";
    const TOPIC: &'static str = "@NAME@.events";
    const SOURCE: &'static str = "@NAME@";

    /// The events of one author keep their order.
    fn key(&self) -> Option<&str> {
        Some(&self.author)
    }
}

fn handle(request: Request) -> Result<Response, Problem> {
    match request.method() {
        "POST" => write(&request),
        _ => list(),
    }
}

/// The row and its event commit together, before the 201 is sent; or neither is there, and the caller gets an error.
fn write(request: &Request) -> Result<Response, Problem> {
    let mut fields = request.fields()?;
    let text = fields.required("text", |text: String| match text.trim().chars().count() {
        1..=1000 => Ok(text.trim().to_owned()),
        length => Err(format!("must have 1 to 1000 characters, not {length}")),
    });
    fields.finish()?;
    let entry = Entry { id: new_id(), author: request.user()?.to_owned(), text: text.unwrap_or_default() };
    sql::execute("INSERT INTO entries (id, author, text) VALUES ($1, $2, $3)", params![entry.id, &entry.author, &entry.text])?;
    publish(&entry)?;
    Ok(Response::json(201, &entry))
}

fn list() -> Result<Response, Problem> {
    let entries: Vec<Entry> = sql::query("SELECT id, author, text FROM entries ORDER BY id DESC LIMIT 100", params![])?;
    Ok(Response::json(200, &entries))
}

tidemill_sdk::http_handler!(handle);
