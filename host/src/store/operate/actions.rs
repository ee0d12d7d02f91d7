//! Who did what, through the command line or the admin API.

use super::{OperateError, Order, Page, Session, Time};
use serde::Serialize;
use serde_json::value::RawValue;
use std::time::SystemTime;
use tokio_postgres::{Row, Transaction};

/// Characters of a name at most.
const NAME: usize = 128;

/// The way that an operator came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// A command on some machine.
    Cli,
    /// The admin API.
    Api,
    /// A host that deploys its folder at its start.
    Host,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Via::Cli => "cli",
            Via::Api => "api",
            Via::Host => "host",
        }
    }
}

/// Who acts. The name is what they say: whoever has the database's password or the admin token is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: String,
    via: Via,
}

impl Actor {
    /// Someone of this name: 1 to 128 characters, none of them a control character.
    pub fn new(name: &str, via: Via) -> Result<Self, OperateError> {
        let name = name.trim();
        match (1..=NAME).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
            true => Ok(Self { name: name.to_owned(), via }),
            false => Err(OperateError::Invalid(format!(
                "an actor's name has 1 to {NAME} characters, none of them a control character"
            ))),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// One line of the book.
#[derive(Debug, Clone, Serialize)]
pub struct Action {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Time,
    /// Who.
    pub actor: String,
    /// `cli`, `api` or `host`.
    pub via: String,
    /// What, such as `dead-letters.replay`.
    pub action: String,
    /// With which row, such as `dead-letter/7`.
    pub subject: String,
    /// More about it, as JSON.
    pub details: Box<RawValue>,
}

/// Which lines.
#[derive(Debug, Clone, Default)]
pub struct ActionFilter {
    /// Of this one.
    pub actor: Option<String>,
    /// Of this kind.
    pub action: Option<String>,
    /// With this row.
    pub subject: Option<String>,
    /// Lower numbers only: the `next` of the page before.
    pub before: Option<i64>,
    /// How many: 1 to 1,000, 50 if nobody says.
    pub limit: Option<u32>,
}

impl Session {
    /// The last actions, newest last.
    pub async fn actions(&self, filter: &ActionFilter) -> Result<Page<Action>, OperateError> {
        let most = i64::from(filter.limit.unwrap_or(50));
        if !(1..=1_000).contains(&most) {
            return Err(OperateError::Invalid(format!("the limit is {most}; it goes from 1 to 1000")));
        }
        let sql = "SELECT id, at, actor, via, action, subject, details::text FROM tidemill.actions \
                    WHERE ($1::text IS NULL OR actor = $1) AND ($2::text IS NULL OR action = $2) \
                      AND ($3::text IS NULL OR subject = $3) AND id < $4 \
                    ORDER BY id DESC LIMIT $5";
        let before = filter.before.unwrap_or(i64::MAX);
        let mut rows = self.client.query(sql, &[&filter.actor, &filter.action, &filter.subject, &before, &(most + 1)]).await?;
        let whole = rows.len() as i64 <= most;
        rows.truncate(most as usize);
        let next = rows.last().filter(|_| !whole).map(|row| row.get("id"));
        Ok(Page { rows: rows.iter().rev().map(action).collect(), next })
    }
}

fn action(row: &Row) -> Action {
    Action {
        id: row.get("id"),
        at: Time::from_column(row.get::<_, SystemTime>("at")),
        actor: row.get("actor"),
        via: row.get("via"),
        action: row.get("action"),
        subject: row.get("subject"),
        details: RawValue::from_string(row.get("details")).unwrap_or_else(|_| RawValue::NULL.to_owned()),
    }
}

/// Writes one line for each row that `order` has changed: its name (`dead-letter/7`) and what else to know.
pub(super) async fn record<F>(
    transaction: &Transaction<'_>,
    order: &Order<F>,
    action: &str,
    rows: &[(String, serde_json::Value)],
) -> Result<(), OperateError> {
    record_all(transaction, &order.actor, action, rows).await
}

/// The same for what is no order about rows.
pub(in crate::store) async fn record_all(
    transaction: &Transaction<'_>,
    actor: &Actor,
    action: &str,
    rows: &[(String, serde_json::Value)],
) -> Result<(), OperateError> {
    let subjects: Vec<&str> = rows.iter().map(|(subject, _)| subject.as_str()).collect();
    let details: Vec<String> = rows.iter().map(|(_, details)| details.to_string()).collect();
    let sql = "INSERT INTO tidemill.actions (actor, via, action, subject, details) \
               SELECT $1, $2, $3, a.subject, a.details::jsonb \
                 FROM unnest($4::text[], $5::text[]) WITH ORDINALITY AS a(subject, details, n) ORDER BY a.n";
    let Actor { name, via } = actor;
    transaction.execute(sql, &[name, &via.name(), &action, &subjects, &details]).await?;
    Ok(())
}
