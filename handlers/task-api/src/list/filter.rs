//! Which tasks a list has.

use tidemill_sdk::{Fields, params};
use todo::PRIORITIES;

use super::Conditions;
use crate::rules;

/// Every condition that is given must be true; without any, a list has all tasks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Filter {
    /// Completed ones or open ones alone.
    completed: Option<bool>,
    priority: Option<String>,
    /// All of these.
    tags: Vec<String>,
    /// Due on an earlier day than this.
    due_before: Option<String>,
    /// Due on a later day than this.
    due_after: Option<String>,
    /// A part of the title or the description, in upper or lower case.
    text: Option<String>,
}

impl Filter {
    /// Reads the filters of a query.
    pub(super) fn read(query: &mut Fields) -> Self {
        let completed = query.optional("status", |status: String| match status.as_str() {
            "open" => Ok(Some(false)),
            "completed" => Ok(Some(true)),
            "all" => Ok(None),
            _ => Err("must be one of open, completed, all".to_owned()),
        });
        let mut tags = query.repeated("tag", rules::tag);
        tags.sort();
        tags.dedup();
        Self {
            completed: completed.flatten(),
            priority: query.optional("priority", |text: String| rules::one_of(text, &PRIORITIES)),
            tags,
            due_before: query.optional("due_before", rules::due_date),
            due_after: query.optional("due_after", rules::due_date),
            text: query.optional("text", rules::search),
        }
    }

    /// Adds itself to a statement's conditions.
    pub(super) fn add_to<'a>(&'a self, conditions: &mut Conditions<'a>) {
        match self.completed {
            Some(true) => conditions.and("completed_at IS NOT NULL", params![]),
            Some(false) => conditions.and("completed_at IS NULL", params![]),
            None => {}
        }
        if let Some(priority) = &self.priority {
            conditions.and("priority = $", params![priority]);
        }
        if !self.tags.is_empty() {
            conditions.and("tags @> $::text[]", params![self.tags]);
        }
        if let Some(date) = &self.due_before {
            conditions.and("due_date < $::date", params![date]);
        }
        if let Some(date) = &self.due_after {
            conditions.and("due_date > $::date", params![date]);
        }
        if let Some(text) = &self.text {
            let found = "(strpos(lower(title), lower($::text)) > 0 OR strpos(lower(description), lower($::text)) > 0)";
            conditions.and(found, params![text, text]);
        }
    }
}
