//! What a task may be. Every rule turns what was sent into what is kept, or says what is wrong with it.

use tidemill_sdk::{Fields, Problem};
use todo::{DEFAULT_PRIORITY, DESCRIPTION_LENGTH, PRIORITIES, TAG_LENGTH, TAGS, TITLE_LENGTH, calendar::Rule};

use crate::task::NewTask;

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

fn title(text: String) -> Result<String, String> {
    let text = storable(text.trim().to_owned())?;
    match text.chars().count() {
        0 => Err("must not be empty".to_owned()),
        length if length > TITLE_LENGTH => Err(format!("must have at most {TITLE_LENGTH} characters, has {length}")),
        _ => Ok(text),
    }
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
    for (tag, number) in tags.iter().zip(1..) {
        let tag = storable(tag.trim().to_owned()).map_err(|message| format!("tag {number} {message}"))?;
        match tag.chars().count() {
            0 => return Err(format!("tag {number} must not be empty")),
            length if length > TAG_LENGTH => {
                return Err(format!("tag {number} must have at most {TAG_LENGTH} characters, has {length}"));
            }
            _ if known.contains(&tag) => return Err(format!("must be unique, `{tag}` is given twice")),
            _ => known.push(tag),
        }
    }
    Ok(known)
}

fn due_date(text: String) -> Result<String, String> {
    if todo::date(&text).is_some() { Ok(text) } else { Err("must be a date as YYYY-MM-DD".to_owned()) }
}

fn due_time(text: String) -> Result<String, String> {
    if todo::is_time(&text) { Ok(text) } else { Err("must be a time of day as HH:MM, in UTC".to_owned()) }
}

fn one_of(text: String, allowed: &[&str]) -> Result<String, String> {
    if allowed.contains(&text.as_str()) { Ok(text) } else { Err(format!("must be one of {}", allowed.join(", "))) }
}

/// PostgreSQL's text can't hold U+0000.
fn storable(text: String) -> Result<String, String> {
    if text.contains('\0') { Err("must not contain the character U+0000".to_owned()) } else { Ok(text) }
}

#[cfg(test)]
mod tests;
