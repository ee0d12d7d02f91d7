//! What a task may be. Every rule turns what was sent into what is kept, or says what is wrong with it.

use tidemill_sdk::{Fields, Problem, Request};
use todo::{DEFAULT_PRIORITY, DESCRIPTION_LENGTH, PRIORITIES, TAG_LENGTH, TAGS, TITLE_LENGTH, calendar::Rule};

use crate::task::{NewTask, TaskRow};

/// Reads a task from a body, or reports every field that is wrong.
pub(crate) fn new_task(mut fields: Fields) -> Result<NewTask, Problem> {
    let title = fields.required("title", title);
    let description = fields.optional("description", description);
    let priority = fields.optional("priority", |text: String| one_of(text, &PRIORITIES));
    let tags = fields.optional("tags", tags);
    let due_date = fields.optional("due_date", due_date);
    let due_time = fields.optional("due_time", due_time);
    let recurrence = fields.optional("recurrence", |text: String| one_of(text, &Rule::NAMES));
    if due_time.is_some() && due_date.is_none() && !fields.is_wrong("due_date") {
        fields.error("due_time", "needs a due_date");
    }
    fields.finish()?;
    Ok(NewTask {
        title: title.unwrap_or_default(),
        description,
        priority: priority.unwrap_or_else(|| DEFAULT_PRIORITY.to_owned()),
        tags: tags.unwrap_or_default(),
        due_date,
        due_time,
        recurrence,
    })
}

/// Refuses a body that says that it is something else than a merge patch: 415.
pub(crate) fn takes_merge_patch(request: &Request) -> Result<(), Problem> {
    match request.media_type().as_deref() {
        None | Some("application/merge-patch+json" | "application/json") => Ok(()),
        Some(other) => Err(Problem::new(415).detail(format!(
            "A task is changed by a JSON merge patch: send it as application/merge-patch+json or application/json, not as {other}."
        ))),
    }
}

/// Reads a merge patch (RFC 7396) and returns the task as it is afterwards, or reports every field that is wrong. What is removed by
/// null is what it is in a new task that does not have it; a title can't be removed.
pub(crate) fn patched(mut fields: Fields, task: &TaskRow) -> Result<TaskRow, Problem> {
    let title = fields.patch("title", title);
    if title == Some(None) {
        fields.error("title", "must not be null, a task has a title");
    }
    let description = fields.patch("description", description);
    let priority = fields.patch("priority", |text: String| one_of(text, &PRIORITIES));
    let tags = fields.patch("tags", tags);
    let due_date = fields.patch("due_date", due_date);
    let due_time = fields.patch("due_time", due_time);
    let recurrence = fields.patch("recurrence", |text: String| one_of(text, &Rule::NAMES));
    let brings_time = matches!(due_time, Some(Some(_)));
    let mut after = TaskRow {
        title: title.flatten().unwrap_or_else(|| task.title.clone()),
        description: description.unwrap_or_else(|| task.description.clone()),
        priority: priority.map_or_else(|| task.priority.clone(), |new| new.unwrap_or_else(|| DEFAULT_PRIORITY.to_owned())),
        tags: tags.map_or_else(|| task.tags.clone(), Option::unwrap_or_default),
        due_date: due_date.unwrap_or_else(|| task.due_date.clone()),
        due_time: due_time.unwrap_or_else(|| task.due_time.clone()),
        recurrence: recurrence.unwrap_or_else(|| task.recurrence.clone()),
        ..task.clone()
    };
    if after.due_date != task.due_date {
        // The series goes on from the new day.
        after.anchor_day = None;
    }
    if after.due_time.is_some() && after.due_date.is_none() && !fields.is_wrong("due_date") && !fields.is_wrong("due_time") {
        match brings_time {
            true => fields.error("due_time", "needs a due_date"),
            false => fields.error("due_date", "must not be removed alone: set due_time to null as well"),
        }
    }
    fields.finish()?;
    Ok(after)
}

fn title(text: String) -> Result<String, String> {
    short(text.trim().to_owned(), TITLE_LENGTH)
}

fn description(text: String) -> Result<String, String> {
    match text.chars().count() {
        length if length > DESCRIPTION_LENGTH => Err(format!("must have at most {DESCRIPTION_LENGTH} characters, has {length}")),
        _ => storable(text),
    }
}

fn tags(tags: Vec<String>) -> Result<Vec<String>, String> {
    if tags.len() > TAGS {
        return Err(format!("must be at most {TAGS} tags, are {}", tags.len()));
    }
    let mut known: Vec<String> = Vec::with_capacity(tags.len());
    for (text, number) in tags.into_iter().zip(1..) {
        let tag = tag(text).map_err(|message| format!("tag {number} {message}"))?;
        if known.contains(&tag) {
            return Err(format!("must be unique, `{tag}` is given twice"));
        }
        known.push(tag);
    }
    Ok(known)
}

pub(crate) fn tag(text: String) -> Result<String, String> {
    short(text.trim().to_owned(), TAG_LENGTH)
}

/// What to look for in titles and descriptions.
pub(crate) fn search(text: String) -> Result<String, String> {
    short(text, TITLE_LENGTH)
}

pub(crate) fn due_date(text: String) -> Result<String, String> {
    if todo::date(&text).is_some() { Ok(text) } else { Err("must be a date as YYYY-MM-DD".to_owned()) }
}

fn due_time(text: String) -> Result<String, String> {
    if todo::is_time(&text) { Ok(text) } else { Err("must be a time of day as HH:MM, in UTC".to_owned()) }
}

pub(crate) fn one_of(text: String, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&text.as_str()) { Ok(text) } else { Err(format!("must be one of {}", allowed.join(", "))) }
}

/// A text with something in it, but not too much.
fn short(text: String, most: usize) -> Result<String, String> {
    match text.chars().count() {
        0 => Err("must not be empty".to_owned()),
        length if length > most => Err(format!("must have at most {most} characters, has {length}")),
        _ => storable(text),
    }
}

/// PostgreSQL's text can't hold U+0000.
fn storable(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("must not contain the character U+0000".to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
