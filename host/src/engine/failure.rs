//! Why an invocation kept nothing, and whose fault it is.

use crate::store::{CommitError, StatementError, StatementErrorKind};
use std::time::Duration;

/// Why nothing of an invocation was kept (but for [`Failure::Unknown`]).
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The guest trapped.
    #[error("the handler trapped: {0}")]
    Trap(String),
    /// A limit was exceeded.
    #[error("{0}")]
    Limit(String),
    /// The guest computed for longer than `cpu`.
    #[error("{0}")]
    Cpu(String),
    /// The guest took longer than `wall`.
    #[error("the handler did not end within the limit `wall` ({0:?})")]
    Timeout(Duration),
    /// The guest swallowed a failed call and returned success.
    #[error("the handler returned success, but a call of its unit had failed: {0}")]
    Doomed(StatementError),
    /// The guest returned a failure for its batch.
    #[error("the handler failed the batch: {message}")]
    Returned {
        /// Whether trying again makes sense to it.
        reject: bool,
        /// Its words.
        message: String,
        /// Positions in the batch that it names.
        events: Vec<usize>,
    },
    /// The response cannot be sent.
    #[error("the handler's response is not valid: {0}")]
    Response(String),
    /// The database refused the unit at its end.
    #[error("{0}")]
    Refused(String),
    /// The database could not be reached or gave up.
    #[error("{0}")]
    Unavailable(String),
    /// The commit's outcome could not be learned.
    #[error("{0}")]
    Unknown(String),
    /// A request with the same `Idempotency-Key` is under way. Nothing was run.
    #[error("a request with the same Idempotency-Key is under way")]
    Outstanding,
    /// The `Idempotency-Key` belongs to another request that took effect. Nothing was run.
    #[error("the Idempotency-Key was used for another request")]
    KeyReused,
    /// The response has so many bytes that it cannot be kept under its `Idempotency-Key`.
    #[error("the response has {bytes} bytes; under an Idempotency-Key at most {most} can be kept")]
    Unkeepable {
        /// Bytes of headers and body.
        bytes: usize,
        /// Bytes that can be kept.
        most: usize,
    },
    /// These events have keys with single attempts: they must run alone. Nothing was run.
    #[error("events of keys with single attempts run alone")]
    Alone {
        /// Positions in the batch.
        events: Vec<usize>,
    },
    /// As many events as are allowed wait for the keys of these. Nothing was run.
    #[error("as many events of this key wait already as `waiting_per_key` allows")]
    Overflow {
        /// Positions in the batch.
        events: Vec<usize>,
    },
}

impl Failure {
    /// A short name for metrics and log lines.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Limit(_) | Self::Cpu(_) => "limit",
            Self::Timeout(_) => "timeout",
            Self::Doomed(_) => "doomed",
            Self::Returned { reject: true, .. } => "rejected",
            Self::Returned { .. } => "failed",
            Self::Response(_) => "response",
            Self::Refused(_) => "refused",
            Self::Unavailable(_) => "unavailable",
            Self::Unknown(_) => "outcome-unknown",
            Self::Outstanding => "outstanding",
            Self::KeyReused => "key-reused",
            Self::Unkeepable { .. } => "response",
            Self::Alone { .. } => "alone",
            Self::Overflow { .. } => "waiting-cap",
        }
    }

    /// Whether the host's own parts, not the handler, are at fault.
    pub fn is_host_fault(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

impl From<StatementError> for Failure {
    fn from(error: StatementError) -> Self {
        match error.kind {
            StatementErrorKind::Unavailable => Self::Unavailable(error.message),
            StatementErrorKind::Limit => Self::Limit(error.message),
            _ => Self::Doomed(error),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Doomed(error) => error.into(),
            CommitError::Refused(error) if error.is_host_fault() => Self::Unavailable(error.message),
            refused @ CommitError::Refused(_) => Self::Refused(refused.to_string()),
            CommitError::Failed(message) => Self::Unavailable(message),
            CommitError::Unknown(message) => Self::Unknown(message),
        }
    }
}
