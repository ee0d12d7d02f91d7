//! What goes into a unit and what comes out.

use crate::store::Scope;
use crate::store::waiting::{self, Claim, Consumer, Parked};
use bytes::BytesMut;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::Row;
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type};

/// `idle_in_transaction_session_timeout` of a connection, enough for the default of `wall`.
pub(in crate::store) const IDLE: Duration = Duration::from_secs(12);

/// Under whose name a unit runs.
#[derive(Debug, Clone)]
pub struct UnitContext {
    /// The handler.
    pub handler: Arc<str>,
    /// Its database role.
    pub role: Arc<str>,
    /// The app, which is its schema's name as well.
    pub schema: Arc<str>,
    /// Whom row-level security sees as `tidemill.subject`; empty for events.
    pub subject: String,
    /// Identifies the handler's revision among the prepared statements of a connection; never 0, which is the host.
    pub scope: u64,
    /// `statement_timeout`.
    pub sql_time: Duration,
    /// The size of one result, in bytes.
    pub sql_result: usize,
    /// How long the guest may take between two statements.
    pub idle: Duration,
    /// How long to ask for the outcome of a COMMIT whose answer was lost.
    pub outcome_patience: Duration,
}

impl UnitContext {
    /// The statement that opens the unit. A guest that may take longer than other units' connections may idle says so at once: the server ends
    /// a transaction that idles, so that a host which is frozen or cut off gives its locks up.
    pub(super) fn begin(&self) -> Cow<'static, str> {
        match self.idle > IDLE {
            false => Cow::Borrowed("BEGIN"),
            true => format!("BEGIN; SET LOCAL idle_in_transaction_session_timeout = {}", self.idle.as_millis()).into(),
        }
    }
}

/// What the inbox says of a batch.
#[derive(Debug, Default)]
pub struct Noted {
    /// The positions of the events that were not handled before, each once.
    pub new: Vec<usize>,
    /// The keys with waiting events, and how many.
    pub blocked: HashMap<Vec<u8>, i64>,
    /// The keys whose events get a single attempt.
    pub single: HashSet<Vec<u8>>,
}

/// What became of a claim on a waiting row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// The row is this unit's: its event may run.
    Ours,
    /// The row is this unit's, but the generation has come to its event by itself: there is nothing to run.
    Known,
    /// The claim is not valid any more.
    Lost,
}

/// What a unit changes of the events that wait, at its end.
#[derive(Debug, Default)]
pub(super) struct WaitingChanges {
    pub(super) parked: Option<(Consumer, Vec<Parked>)>,
    pub(super) done: Option<Claim>,
    pub(super) trusted: Vec<(Scope, String, Vec<u8>)>,
}

impl WaitingChanges {
    /// The locks of the waiting keys that change.
    pub(super) fn locks(&self) -> Vec<i32> {
        let parked = self.parked.iter().flat_map(|(consumer, events)| waiting::locks(consumer, events));
        let done = self
            .done
            .iter()
            .filter_map(|claim| Some(i32::from(waiting::waiting_bucket(claim.scope, &claim.topic, claim.key.as_deref()?))));
        parked.chain(done).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_none() && self.done.is_none() && self.trusted.is_empty()
    }
}

/// What a unit has left behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Rows in the outbox.
    pub published: bool,
    /// The earliest due time of the jobs that it scheduled, in microseconds since 1970.
    pub due: Option<i64>,
}

/// A statement that the gate has let through.
#[derive(Debug, Clone)]
pub struct StatementText {
    /// The text that goes to the server.
    pub text: Arc<str>,
    /// Whether it may write.
    pub writes: bool,
}

/// A parameter, encoded for the type that the server inferred.
#[derive(Debug)]
pub enum Param {
    /// NULL.
    Null,
    /// In PostgreSQL's binary format.
    Binary(BytesMut),
    /// In PostgreSQL's text format.
    Text(String),
}

impl ToSql for Param {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Binary(bytes) => out.extend_from_slice(bytes),
            Self::Text(text) => out.extend_from_slice(text.as_bytes()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        match self {
            Self::Text(_) => Format::Text,
            _ => Format::Binary,
        }
    }

    tokio_postgres::types::to_sql_checked!();
}

/// A column as PostgreSQL's binary format gives it.
#[derive(Debug)]
pub struct RawColumn<'a>(pub &'a [u8]);

impl<'a> FromSql<'a> for RawColumn<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// What a statement gave.
#[derive(Debug)]
pub struct Rows {
    /// Names and types of the columns.
    pub columns: Vec<(String, Type)>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Rows inserted, changed, deleted or selected.
    pub affected: u64,
}
