//! `tidemill:sql`: the gate, the values, and the calls.

mod gate;
mod given;
mod numeric;
mod values;

pub use gate::Gate;

use super::clock::GuestClock;
use crate::bindings::sql::{Error, ErrorKind, RowSet};
use crate::store::{Rows, StatementError, StatementErrorKind, StatementText, Unit};
use given::Given;
use tokio_postgres::Statement;
use wasmtime::StoreContextMut;
use wasmtime::component::Linker;

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

/// Links `tidemill:sql/sql`. By hand, since generated bindings copy each text of a parameter out of the guest, and it is copied once more into the
/// message to the server: what a statement of a batch carries is most of what a guest hands over.
pub fn add_to_linker<T: SqlView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    let mut sql = linker.instance("tidemill:sql/sql@0.1.0")?;
    sql.func_wrap_async("query", |store: StoreContextMut<'_, T>, (statement, params): (String, Vec<Given>)| {
        Box::new(async move { query(store, &statement, &params).await.map(|answer| (answer,)) })
    })?;
    sql.func_wrap_async("execute", |store: StoreContextMut<'_, T>, (statement, params): (String, Vec<Given>)| {
        Box::new(async move { execute(store, &statement, &params).await.map(|answer| (answer,)) })
    })
}

/// What a call gives the guest, inside of what ends the guest.
type Answer<T> = wasmtime::Result<Result<T, Error>>;

async fn query<T: SqlView + 'static>(mut store: StoreContextMut<'_, T>, statement: &str, params: &[Given]) -> Answer<RowSet> {
    let ran = run(&mut store, statement, params).await?;
    Ok(ran.and_then(|rows| {
        values::decode(&rows).map_err(|message| {
            to_guest(store.data_mut().sql().unit.doom(StatementError::new(StatementErrorKind::Statement, message)))
        })
    }))
}

async fn execute<T: SqlView + 'static>(mut store: StoreContextMut<'_, T>, statement: &str, params: &[Given]) -> Answer<u64> {
    Ok(run(&mut store, statement, params).await?.map(|rows| rows.affected))
}

async fn run<T: SqlView + 'static>(store: &mut StoreContextMut<'_, T>, statement: &str, params: &[Given]) -> Answer<Rows> {
    // The clock stands still until the guest goes on, for what the host does in between as well.
    store.data_mut().sql().clock.pause();
    let ran = run_paused(store, statement, params).await;
    store.data_mut().sql().clock.resume();
    ran
}

async fn run_paused<T: SqlView + 'static>(store: &mut StoreContextMut<'_, T>, statement: &str, params: &[Given]) -> Answer<Rows> {
    let (checked, prepared) = match store.data_mut().sql().prepare(statement).await {
        Ok(found) => found,
        Err(error) => return Ok(Err(to_guest(error))),
    };
    let values = params.iter().map(|given| given.borrow(store)).collect::<wasmtime::Result<Vec<_>>>()?;
    let encoded = values::encode(values, prepared.params());
    Ok(store.data_mut().sql().unit.run(&checked, &prepared, encoded).await.map_err(to_guest))
}

impl SqlContext<'_> {
    async fn prepare(&mut self, statement: &str) -> Result<(StatementText, Statement), StatementError> {
        self.unit.ensure_sound()?;
        let checked = match self.gate {
            Some(gate) => gate.check(statement),
            None => Err("the manifest grants no SQL; add `[sql]` to handler.toml".to_owned()),
        };
        let checked = checked.map_err(|reason| self.unit.doom(StatementError::new(StatementErrorKind::Refused, reason)))?;
        let prepared = self.unit.prepare(&checked).await?;
        Ok((checked, prepared))
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
