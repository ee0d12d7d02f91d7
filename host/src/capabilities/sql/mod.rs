//! `tidemill:sql`: the gate, the values, and the calls.

mod gate;
mod numeric;
mod values;

pub use gate::Gate;

use super::clock::GuestClock;
use crate::bindings::sql::{self, Error, ErrorKind, RowSet, Value};
use crate::store::{Rows, StatementError, StatementErrorKind, Unit};
use wasmtime::component::{HasData, Linker};

/// What the SQL calls of one invocation work with.
pub struct SqlContext<'a> {
    /// The invocation's unit of work.
    pub unit: &'a mut Unit,
    /// The handler's statement gate; none where its manifest grants no SQL.
    pub gate: Option<&'a Gate>,
    /// Stands still while a statement runs.
    pub clock: &'a mut GuestClock,
}

/// State that can lend a [`SqlContext`].
pub trait SqlView: Send {
    /// Lends it.
    fn sql(&mut self) -> SqlContext<'_>;
}

struct HasSql;

impl HasData for HasSql {
    type Data<'a> = SqlContext<'a>;
}

/// Links `tidemill:sql/sql`.
pub fn add_to_linker<T: SqlView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    sql::add_to_linker::<T, HasSql>(linker, T::sql)
}

impl SqlContext<'_> {
    async fn run(&mut self, statement: String, params: Vec<Value>) -> Result<Rows, Error> {
        self.unit.ensure_sound().map_err(to_guest)?;
        let checked = match self.gate {
            Some(gate) => gate.check(&statement),
            None => Err("the manifest grants no SQL; add `[sql]` to handler.toml".to_owned()),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(reason) => {
                return Err(to_guest(self.unit.doom(StatementError::new(StatementErrorKind::Refused, reason))));
            }
        };
        self.clock.pause();
        let ran = self.unit.run(&checked, |types| values::encode(params, types)).await;
        self.clock.resume();
        ran.map_err(to_guest)
    }
}

impl sql::Host for SqlContext<'_> {
    async fn query(&mut self, statement: String, params: Vec<Value>) -> wasmtime::Result<Result<RowSet, Error>> {
        let ran = self.run(statement, params).await;
        Ok(ran.and_then(|rows| {
            values::decode(&rows)
                .map_err(|message| to_guest(self.unit.doom(StatementError::new(StatementErrorKind::Statement, message))))
        }))
    }

    async fn execute(&mut self, statement: String, params: Vec<Value>) -> wasmtime::Result<Result<u64, Error>> {
        Ok(self.run(statement, params).await.map(|rows| rows.affected))
    }
}

/// What the guest may see of a failure.
fn to_guest(error: StatementError) -> Error {
    let kind = match error.kind {
        StatementErrorKind::TransactionFailed => ErrorKind::TransactionFailed,
        StatementErrorKind::Refused => ErrorKind::Refused,
        StatementErrorKind::Parameter => ErrorKind::Parameter,
        StatementErrorKind::Constraint => ErrorKind::Constraint,
        StatementErrorKind::Statement => ErrorKind::Statement,
        StatementErrorKind::Limit => ErrorKind::Limit,
        StatementErrorKind::Unavailable => ErrorKind::Unavailable,
    };
    Error { kind, message: error.message, sqlstate: error.sqlstate, constraint: error.constraint }
}
