//! The order of a list, and the place of a task in it.

use serde_json::json;
use tidemill_sdk::{Timestamp, Uuid, params, sql::Param};
use todo::PRIORITIES;

use crate::task::TaskRow;

/// What tasks are sorted by. Their ids decide between equals.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum By {
    CreatedAt,
    DueDate,
    Priority,
    Title,
    UpdatedAt,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sort {
    pub(super) by: By,
    descending: bool,
}

/// The place of a task in an order.
#[derive(Debug, PartialEq)]
pub(super) struct Place {
    /// What the task is sorted by; null where it is without a due date.
    key: Param<'static>,
    id: Uuid,
}

/// As they are asked for.
const NAMES: [(&str, By); 5] = [
    ("created_at", By::CreatedAt),
    ("due_date", By::DueDate),
    ("priority", By::Priority),
    ("title", By::Title),
    ("updated_at", By::UpdatedAt),
];

impl Sort {
    /// The newest first.
    pub(super) const DEFAULT: Self = Self { by: By::CreatedAt, descending: true };

    /// Reads the name of an order: that of a field, with `-` in front for descending.
    pub(super) fn read(text: String) -> Result<Self, String> {
        let (name, descending) = text.strip_prefix('-').map_or((text.as_str(), false), |name| (name, true));
        let by = NAMES.into_iter().find(|(known, _)| *known == name).map(|(_, by)| by);
        by.map(|by| Self { by, descending }).ok_or_else(|| {
            let names = NAMES.map(|(name, _)| name).join(", ");
            format!("must be one of {names}, or one of them with - in front for descending")
        })
    }

    /// The order of a statement.
    pub(super) fn order(self) -> String {
        let direction = if self.descending { "DESC" } else { "ASC" };
        format!("{} {direction}, id {direction}", self.by.column())
    }

    /// The condition that a task comes after a place, and its parameters.
    pub(super) fn beyond(self, place: &Place) -> (String, Vec<Param<'_>>) {
        let (column, sign) = (self.by.column(), if self.descending { '<' } else { '>' });
        match place.key {
            Param::Null => (format!("{column} IS NULL AND id {sign} $::uuid"), params![place.id]),
            _ => (format!("({column}, id) {sign} ({}, $::uuid)", self.by.parameter()), params![place.key, place.id]),
        }
    }

    /// The place of a task, as text for [`read_place`](Self::read_place).
    pub(super) fn place(self, task: &TaskRow) -> String {
        let key = match self.by {
            By::CreatedAt => json!(task.created_at.as_micros()),
            By::UpdatedAt => json!(task.updated_at.as_micros()),
            By::DueDate => json!(task.due_date),
            By::Priority => json!(PRIORITIES.iter().position(|name| *name == task.priority)),
            By::Title => json!(task.title),
        };
        json!([key, task.id]).to_string()
    }

    /// The place that a text stands for. `None` also for what no task can have, since a statement with it would fail.
    pub(super) fn read_place(self, text: &str) -> Option<Place> {
        let (key, id): (serde_json::Value, Uuid) = serde_json::from_str(text).ok()?;
        let key = match self.by {
            By::CreatedAt | By::UpdatedAt => {
                let time = Timestamp::from_micros(key.as_i64()?);
                Param::Timestamp(time.is_storable().then(|| time.as_micros())?)
            }
            By::DueDate if key.is_null() => Param::Null,
            By::DueDate => Param::Text(key.as_str().filter(|date| todo::date(date).is_some())?.to_owned().into()),
            By::Priority => Param::Integer(key.as_i64().filter(|rank| (0..3).contains(rank))?),
            By::Title => Param::Text(key.as_str().filter(|title| !title.contains('\0'))?.to_owned().into()),
        };
        Some(Place { key, id })
    }
}

impl By {
    /// What the rows are sorted by. For the first two there is an index: `migrations/todo/0004_tasks_by_created_at.sql` and `0006_tasks_by_due_date.sql`.
    fn column(self) -> &'static str {
        match self {
            Self::CreatedAt => "created_at",
            Self::DueDate => "due_date",
            Self::Priority => "(CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 ELSE 2 END)",
            Self::Title => "lower(title)",
            Self::UpdatedAt => "updated_at",
        }
    }

    /// The same of a place, with `$` for its key.
    fn parameter(self) -> &'static str {
        match self {
            Self::CreatedAt | Self::UpdatedAt => "$::timestamptz",
            Self::DueDate => "$::date",
            Self::Priority => "$::integer",
            Self::Title => "lower($::text)",
        }
    }
}

impl Place {
    /// Whether it is among the tasks without a due date.
    pub(super) fn is_undated(&self) -> bool {
        self.key == Param::Null
    }
}
