//! What can go wrong with the database, sorted by whose fault it is.

use super::inbox_days::FORGOTTEN;
use tokio_postgres::error::{DbError, Severity, SqlState};

/// The database cannot be reached, or gave up for reasons of its own. Never the handler's fault.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// Why the database cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotReady {
    /// It does not answer, or is not prepared yet: waiting may help.
    #[error("{0}")]
    Away(String),
    /// Guests would not be walled in under this login.
    #[error(
        "TIDEMILL_DATABASE_URL logs in as `{0}`, a superuser or one that bypasses row-level security: guests could do anything. \
         Name another user there; `tidemill migrate` makes it"
    )]
    Login(String),
}

/// Why a statement of a unit failed. Mirrors `tidemill:sql/sql.error-kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatementErrorKind {
    /// An earlier call of this unit failed.
    TransactionFailed,
    /// The statement gate refused it.
    Refused,
    /// A parameter does not fit.
    Parameter,
    /// A constraint refused the change.
    Constraint,
    /// PostgreSQL refused the statement for another reason.
    Statement,
    /// A limit was exceeded.
    Limit,
    /// The database could not be reached or gave up for reasons of its own.
    Unavailable,
}

/// The function of PostgreSQL's that says "cached plan must not change result type". The code alone stands for many things, and the text may be in
/// any language.
const STALE_PLAN: &str = "RevalidateCachedQuery";

/// A failed statement; the unit is doomed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct StatementError {
    /// Whose fault it is.
    pub kind: StatementErrorKind,
    /// For people.
    pub message: String,
    /// PostgreSQL's SQLSTATE, where the server answered.
    pub sqlstate: Option<String>,
    /// The constraint that refused the change.
    pub constraint: Option<String>,
}

impl StatementError {
    /// An error that did not come from the server.
    pub fn new(kind: StatementErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), sqlstate: None, constraint: None }
    }

    /// Whether the database, not the handler, is at fault.
    pub fn is_host_fault(&self) -> bool {
        self.kind == StatementErrorKind::Unavailable
    }

    /// Whether a table has changed behind a prepared statement: prepared anew, the same statement works.
    pub fn is_stale(&self) -> bool {
        self.is_host_fault() && self.sqlstate.as_deref() == Some(SqlState::FEATURE_NOT_SUPPORTED.code())
    }
}

impl From<Unavailable> for StatementError {
    fn from(error: Unavailable) -> Self {
        Self::new(StatementErrorKind::Unavailable, error.0)
    }
}

impl From<tokio_postgres::Error> for StatementError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => from_server(db),
            None => Self::new(StatementErrorKind::Unavailable, describe(&error)),
        }
    }
}

fn from_server(db: &DbError) -> StatementError {
    let code = db.code();
    let class = code.code().get(..2).unwrap_or_default();
    let misfit = misfit(db);
    let kind = match code {
        // statement_timeout; the host cancels only after it has given the unit up.
        c if *c == SqlState::QUERY_CANCELED => StatementErrorKind::Limit,
        c if *c == SqlState::IN_FAILED_SQL_TRANSACTION => StatementErrorKind::TransactionFailed,
        c if *c == SqlState::LOCK_NOT_AVAILABLE => StatementErrorKind::Unavailable,
        // This process has not heard yet that the day is forgotten.
        _ if db.constraint() == Some(FORGOTTEN) => StatementErrorKind::Unavailable,
        // A migration has given a table another column: a matter between the host and its prepared statements.
        c if *c == SqlState::FEATURE_NOT_SUPPORTED && db.routine() == Some(STALE_PLAN) => StatementErrorKind::Unavailable,
        // 40: deadlock, serialization; 08, 53, 57, 58: connection, resources, operator, system.
        _ if matches!(class, "40" | "08" | "53" | "57" | "58") => StatementErrorKind::Unavailable,
        _ if class == "23" => StatementErrorKind::Constraint,
        _ if misfit.is_some() => StatementErrorKind::Parameter,
        _ => StatementErrorKind::Statement,
    };
    let message = match (kind, misfit) {
        (StatementErrorKind::Limit, _) => "the statement ran longer than the limit `sql_time`".to_owned(),
        (StatementErrorKind::Parameter, Some(number)) => format!("parameter {number} does not fit: {}", db.message()),
        // The detail of a constraint violation quotes the row's values: those belong to the caller's data, not to logs.
        (_, _) => db.message().to_owned(),
    };
    StatementError { kind, message, sqlstate: Some(code.code().to_owned()), constraint: db.constraint().map(str::to_owned) }
}

/// The parameter, as `$n`, that the server could not read: the last line of the context says so in whatever language, and nothing else there ends so.
fn misfit(db: &DbError) -> Option<&str> {
    let line = db.where_()?.lines().last()?;
    let number = line.get(line.rfind('$')?..)?;
    let digits = number.strip_prefix('$')?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then_some(number)
}

/// Why a unit did not commit, or may not have.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// The unit was doomed by an earlier failure; it has been rolled back.
    #[error("{0}")]
    Doomed(StatementError),
    /// The database refused at the end (a deferred constraint, for instance); nothing of the unit exists.
    #[error("the database refused the unit at its end: {0}")]
    Refused(StatementError),
    /// The connection or the server failed; nothing of the unit exists.
    #[error("{0}")]
    Failed(String),
    /// The connection broke after COMMIT was sent and the outcome could not be learned in time: it may or may not exist.
    #[error("{0}")]
    Unknown(String),
}

/// One line for a person, with the cause that tokio-postgres keeps in `source`.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    use std::error::Error;
    match (error.as_db_error(), error.source()) {
        (Some(db), _) => format!("PostgreSQL: {}", db.message()),
        (None, Some(source)) => format!("PostgreSQL: {error}: {source}"),
        (None, None) => format!("PostgreSQL: {error}"),
    }
}

/// Whether the server has said for certain that the transaction is aborted (an ERROR, as opposed to FATAL or a lost connection).
pub(crate) fn is_plain_error(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|db| matches!(db.parsed_severity(), Some(Severity::Error)))
}
