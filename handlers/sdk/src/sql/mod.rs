//! SQL inside the unit of work: parameters from, and rows to, Rust types.
//!
//! ```no_run
//! # use tidemill_sdk::{params, sql};
//! #[derive(serde::Deserialize)]
//! struct Note { text: String, tags: Vec<String> }
//!
//! let notes: Vec<Note> = sql::query("SELECT text, tags FROM notes WHERE author = $1", params!["alice"])?;
//! let count: i64 = sql::query_one("SELECT count(*) FROM notes", params![])?;
//! # Ok::<(), sql::Error>(())
//! ```
//!
//! **A failed statement dooms the unit**: whatever the handler answers after an [`Error`], nothing is kept. Where a conflict is
//! expected, use `ON CONFLICT`.

mod param;
mod row;

use std::fmt;

use serde::de::DeserializeOwned;

use crate::bindings::sql::tidemill::sql::sql as host;

pub use host::ValueResult as Value;
pub use param::{ArrayElement, Json, Param, RawJson, ToParam};
pub use row::from_row;

/// The parameters of a statement: anything to which a reference is [`ToParam`](crate::sql::ToParam). They borrow from what they are made of.
#[macro_export]
macro_rules! params {
    ($($value:expr),* $(,)?) => {
        ::std::vec![$($crate::sql::ToParam::to_param(&$value)),*]
    };
}

/// Why a statement failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// An earlier call of this invocation failed, or its time is over.
    TransactionFailed,
    /// The host does not let this statement through.
    Refused,
    /// A parameter does not fit.
    Parameter,
    /// A constraint of the schema refused the change.
    Constraint,
    /// PostgreSQL refused the statement for another reason.
    Statement,
    /// A limit of the handler was exceeded.
    Limit,
    /// The database is away or gave up for reasons of its own.
    Unavailable,
    /// The rows are not what the handler's type expects, by their columns or their number.
    Rows,
}

/// A failed statement. All but [`ErrorKind::Rows`] doom the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// Why.
    pub kind: ErrorKind,
    /// For people and logs; not for callers of an API, since it may quote the statement.
    pub message: String,
    /// PostgreSQL's SQLSTATE, where the server answered.
    pub sqlstate: Option<String>,
    /// The constraint that refused the change, where there is one.
    pub constraint: Option<String>,
}

/// Runs one statement and returns its rows.
pub fn query<T: DeserializeOwned>(statement: &str, params: Vec<Param<'_>>) -> Result<Vec<T>, Error> {
    let host::RowSet { columns, rows } = param::lend(&params, |params| host::query(statement, params))?;
    rows.into_iter().map(|row| from_row(&columns, row)).collect()
}

/// Runs one statement and returns its row, if it has one. More than one is an error.
pub fn query_optional<T: DeserializeOwned>(statement: &str, params: Vec<Param<'_>>) -> Result<Option<T>, Error> {
    let mut rows = query(statement, params)?;
    let row = rows.pop();
    if rows.is_empty() { Ok(row) } else { Err(Error::rows(format!("at most one row was expected, not {}", rows.len() + 1))) }
}

/// Runs one statement and returns its one row.
pub fn query_one<T: DeserializeOwned>(statement: &str, params: Vec<Param<'_>>) -> Result<T, Error> {
    query_optional(statement, params)?.ok_or_else(|| Error::rows("one row was expected, not none"))
}

/// Runs one statement and returns how many rows it inserted, changed, deleted or selected.
pub fn execute(statement: &str, params: Vec<Param<'_>>) -> Result<u64, Error> {
    Ok(param::lend(&params, |params| host::execute(statement, params))?)
}

impl Error {
    fn rows(message: impl Into<String>) -> Self {
        Self { kind: ErrorKind::Rows, message: message.into(), sqlstate: None, constraint: None }
    }
}

impl From<host::Error> for Error {
    fn from(error: host::Error) -> Self {
        let kind = match error.kind {
            host::ErrorKind::TransactionFailed => ErrorKind::TransactionFailed,
            host::ErrorKind::Refused => ErrorKind::Refused,
            host::ErrorKind::Parameter => ErrorKind::Parameter,
            host::ErrorKind::Constraint => ErrorKind::Constraint,
            host::ErrorKind::Statement => ErrorKind::Statement,
            host::ErrorKind::Limit => ErrorKind::Limit,
            host::ErrorKind::Unavailable => ErrorKind::Unavailable,
        };
        Self { kind, message: error.message, sqlstate: error.sqlstate, constraint: error.constraint }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)?;
        if let Some(sqlstate) = &self.sqlstate {
            write!(f, " (SQLSTATE {sqlstate})")?;
        }
        if let Some(constraint) = &self.constraint {
            write!(f, " (constraint {constraint})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}
