//! A completion, read as the task that comes next.

use jiff::{civil::Date, tz::Offset};
use serde::{Deserialize, Serialize};
use tidemill_sdk::{Event, Failure, Timestamp, Uuid, derived_id, log};
use todo::{
    DEFAULT_PRIORITY, DESCRIPTION_LENGTH, PRIORITIES, TAG_LENGTH, TAGS, TITLE_LENGTH, USER_LENGTH,
    calendar::{Next, Rule},
    events::TaskCreated,
};

/// A row to insert, by the names of its columns.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct NextTask {
    pub(crate) id: Uuid,
    user_id: String,
    title: String,
    description: Option<String>,
    priority: String,
    tags: Vec<String>,
    /// `YYYY-MM-DD`
    due_date: String,
    /// `HH:MM`
    due_time: Option<String>,
    recurrence: &'static str,
    series_id: Uuid,
    anchor_day: Option<i8>,
    previous_task_id: Uuid,
}

/// What decides whether there is a next task.
#[derive(Deserialize)]
struct Recurs {
    recurrence: Option<Rule>,
}

/// `task.completed`, with what the next task needs. Whoever knows the schema alone sends the first six fields.
#[derive(Deserialize)]
struct Completed {
    task_id: Uuid,
    user_id: String,
    title: String,
    due_date: Option<String>,
    completed_at: Timestamp,
    description: Option<String>,
    priority: Option<String>,
    tags: Option<Vec<String>>,
    due_time: Option<String>,
    series_id: Option<Uuid>,
    anchor_day: Option<i8>,
}

/// The task that comes after the one that was completed, if it recurs. Everything that it needs is in the event: the completed task may
/// be deleted by now. Rejects the event, by name, if there can never be such a task.
pub(crate) fn after(event: &Event) -> Result<Option<NextTask>, Failure> {
    let Some(rule) = event.data::<Recurs>()?.recurrence else {
        return Ok(None);
    };
    let completed: Completed = event.data()?;
    let (due, day) = completed.check().map_err(|why| event.reject_data(why))?;
    let next = rule.next(due, completed.anchor_day, day);
    if next.is_none() {
        log::info("a series ends with the calendar", &[("task_id", &completed.task_id.to_string())]);
    }
    Ok(next.map(|next| completed.next_task(rule, next)))
}

impl Completed {
    /// The due date and the day of the completion; or what no task may have. What the table refuses would fail the statement, and with
    /// it the batch; what the schema of `task.created` refuses would surprise its readers.
    fn check(&self) -> Result<(Option<Date>, Date), String> {
        text("user_id", &self.user_id, 1..=USER_LENGTH)?;
        text("title", &self.title, 1..=TITLE_LENGTH)?;
        text("description", self.description.as_deref().unwrap_or_default(), 0..=DESCRIPTION_LENGTH)?;
        let tags = self.tags.as_deref().unwrap_or_default();
        tags.iter().try_for_each(|tag| text("tags", tag, 1..=TAG_LENGTH))?;
        let allowed = |name: &str, fits: bool| if fits { Ok(()) } else { Err(format!("{name} is none that a task can have")) };
        let unique = tags.iter().enumerate().all(|(n, tag)| !tags[..n].contains(tag));
        allowed("tags", tags.len() <= TAGS && unique)?;
        allowed("priority", self.priority.as_deref().is_none_or(|priority| PRIORITIES.contains(&priority)))?;
        allowed("due_time", self.due_time.as_deref().is_none_or(todo::is_time))?;
        allowed("anchor_day", self.anchor_day.is_none_or(|day| (1..=31).contains(&day)))?;
        let due = self.due_date.as_deref().map(todo::date);
        allowed("due_date", due != Some(None))?;
        let day = Offset::UTC.to_datetime(self.completed_at.to_jiff()).date();
        // PostgreSQL knows no year 0.
        allowed("completed_at", day.year() > 0)?;
        Ok((due.flatten(), day))
    }

    fn next_task(self, rule: Rule, next: Next) -> NextTask {
        NextTask {
            // Follows from the completion, so that the event of a copy is a copy of the event.
            id: derived_id(self.completed_at, &["next task", &self.task_id.to_string()]),
            user_id: self.user_id,
            title: self.title,
            description: self.description,
            priority: self.priority.unwrap_or_else(|| DEFAULT_PRIORITY.to_owned()),
            tags: self.tags.unwrap_or_default(),
            due_date: next.due_date.to_string(),
            due_time: self.due_time,
            recurrence: rule.name(),
            series_id: self.series_id.unwrap_or(self.task_id),
            anchor_day: next.anchor_day,
            previous_task_id: self.task_id,
        }
    }
}

/// PostgreSQL's text can't hold U+0000.
fn text(name: &str, text: &str, lengths: std::ops::RangeInclusive<usize>) -> Result<(), String> {
    match text.chars().count() {
        _ if text.contains('\0') => Err(format!("{name} has the character U+0000")),
        length if !lengths.contains(&length) => Err(format!("{name} has {length} characters")),
        _ => Ok(()),
    }
}

impl NextTask {
    /// The event that tells of it, with an id that follows from its cause.
    pub(crate) fn created(&self, time: Timestamp, cause: &Event) -> TaskCreated<'_> {
        TaskCreated {
            event_id: Some(cause.derived_id("task.created")),
            task_id: self.id,
            user_id: &self.user_id,
            title: &self.title,
            description: self.description.as_deref(),
            priority: &self.priority,
            tags: &self.tags,
            due_date: Some(&self.due_date),
            recurrence: Some(self.recurrence),
            created_at: time,
            due_time: self.due_time.as_deref(),
            series_id: Some(self.series_id),
            previous_task_id: Some(self.previous_task_id),
        }
    }
}

#[cfg(test)]
mod tests;
