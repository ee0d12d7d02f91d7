//! The way that all changes go: choose rows, change them in steps of one transaction each, say what became of every row.
//!
//! A dry run goes the same way and rolls back, so it says what the change itself would say.

use super::filter::Table;
use super::{Actor, Filter, OperateError, Session};
use async_trait::async_trait;
use serde::Serialize;
use std::collections::HashSet;
use tokio_postgres::Transaction;

/// Rows of one transaction: the locks of their keys are held to its end, and live work waits for them.
const STEP: usize = 100;

/// What an operator wants done.
#[derive(Debug, Clone)]
pub struct Order<F = Filter> {
    /// Who.
    pub actor: Actor,
    /// With which rows.
    pub filter: F,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What became of one row.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome<T, I = i64> {
    /// Its number, or what else it is known by.
    pub id: I,
    /// One word, such as `queued`.
    pub outcome: &'static str,
    /// Whether that is what was ordered.
    #[serde(skip)]
    pub changed: bool,
    /// Whether somebody has to look at it again.
    pub failed: bool,
    /// More about it.
    pub detail: Option<String>,
    /// The row as it was before; none if there is no such row.
    pub row: Option<T>,
}

impl<T, I> Outcome<T, I> {
    /// What was ordered was done.
    pub(super) fn done(id: I, outcome: &'static str, detail: Option<String>, row: T) -> Self {
        Self { id, outcome, changed: true, failed: false, detail, row: Some(row) }
    }

    /// Nothing was done, and nothing has to be.
    pub(super) fn left(id: I, outcome: &'static str, detail: String, row: T) -> Self {
        Self { id, outcome, changed: false, failed: false, detail: Some(detail), row: Some(row) }
    }

    /// Nothing was done, though it should have been.
    pub(super) fn failed(id: I, outcome: &'static str, detail: impl Into<String>, row: Option<T>) -> Self {
        Self { id, outcome, changed: false, failed: true, detail: Some(detail.into()), row }
    }
}

/// What became of an order.
#[derive(Debug, Clone, Serialize)]
pub struct Report<T, I = i64> {
    /// Its name, as in `tidemill.actions`.
    pub action: &'static str,
    /// Whether all of it was only tried.
    pub dry_run: bool,
    /// How many rows were changed (in a dry run: would be).
    pub changed: usize,
    /// How many were not, though they should have been.
    pub failed: usize,
    /// Whether more rows were meant than one call changes.
    pub more: bool,
    /// What to give as `after` for those; none where the call is simply repeated.
    pub next: Option<I>,
    /// The rows, oldest first.
    pub rows: Vec<Outcome<T, I>>,
}

impl<T, I> Report<T, I> {
    /// Counts the rows anew.
    pub fn count(&mut self) {
        self.changed = self.rows.iter().filter(|row| row.changed).count();
        self.failed = self.rows.iter().filter(|row| row.failed).count();
    }
}

/// One kind of change.
#[async_trait]
pub(super) trait Step<I: Send + Sync = i64, F: Sync = Filter>: Sync {
    /// What is shown of a row.
    type Row: Send;
    /// Its name in `tidemill.actions`.
    const ACTION: &'static str;

    /// The rows that it can change at all, as a condition: others that fit the filter are left out, unless they are named.
    fn changeable(&self) -> &'static str {
        "true"
    }

    /// Changes these rows and says what became of each; the caller ends the transaction.
    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[I],
        order: &Order<F>,
    ) -> Result<Vec<Outcome<Self::Row, I>>, OperateError>;
}

impl Session {
    pub(super) async fn change<S: Step>(
        &mut self,
        table: &Table,
        step: &S,
        order: &Order,
    ) -> Result<Report<S::Row>, OperateError> {
        let (chosen, more) = self.chosen(table, &order.filter, step.changeable()).await?;
        let rows = missing(table, &order.filter, &chosen, more);
        let next = chosen.last().copied().filter(|_| more);
        let report = self.steps(step, order, (chosen, more), rows).await?;
        Ok(Report { next, ..report })
    }

    /// Changes the rows that were chosen (and says whether there are more), step by step; `rows` is what is said already.
    pub(super) async fn steps<I, F, S>(
        &mut self,
        step: &S,
        order: &Order<F>,
        (chosen, more): (Vec<I>, bool),
        mut rows: Vec<Outcome<S::Row, I>>,
    ) -> Result<Report<S::Row, I>, OperateError>
    where
        I: Clone + Ord + Send + Sync,
        F: Sync,
        S: Step<I, F>,
    {
        let mut begun = 0;
        for ids in chosen.chunks(STEP) {
            match self.step(step, ids, order).await {
                Ok(done) => rows.extend(done),
                Err(error) if begun == 0 => return Err(error),
                // What is done is done: say which rows are not.
                Err(error) => {
                    rows.extend(chosen[begun..].iter().map(|id| Outcome::failed(id.clone(), "failed", error.to_string(), None)));
                    break;
                }
            }
            begun += ids.len();
        }
        rows.sort_by(|one, other| one.id.cmp(&other.id));
        let mut report = Report { action: S::ACTION, dry_run: order.dry_run, changed: 0, failed: 0, more, next: None, rows };
        report.count();
        if !order.dry_run {
            tracing::info!(
                action = report.action,
                actor = order.actor.name(),
                changed = report.changed,
                failed = report.failed,
                "an operator's order"
            );
        }
        Ok(report)
    }

    async fn step<I, F, S>(&mut self, step: &S, ids: &[I], order: &Order<F>) -> Result<Vec<Outcome<S::Row, I>>, OperateError>
    where
        I: Send + Sync,
        F: Sync,
        S: Step<I, F>,
    {
        let transaction = self.client.transaction().await?;
        let done = step.step(&transaction, ids, order).await?;
        match order.dry_run {
            true => transaction.rollback().await?,
            false => transaction.commit().await?,
        }
        Ok(done)
    }
}

/// The numbers that were named and not found.
fn missing<T>(table: &Table, filter: &Filter, chosen: &[i64], more: bool) -> Vec<Outcome<T>> {
    let found: HashSet<&i64> = chosen.iter().collect();
    let last = chosen.last().filter(|_| more);
    let mut named = filter.ids.clone();
    named.sort_unstable();
    named.dedup();
    // Beyond the last one of a call that has more, nobody has looked.
    let named = named.into_iter().filter(|id| !found.contains(id) && last.is_none_or(|last| id < last));
    named.map(|id| Outcome::failed(id, "missing", format!("there is no such {} (any more)", table.what), None)).collect()
}
