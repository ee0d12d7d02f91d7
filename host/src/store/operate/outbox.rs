//! Outbox rows: list, show, try again, discard.

use super::actions::record;
use super::change::Step;
use super::filter::Table;
use super::view::{base64, headers};
use super::{Bytes, Detail, Filter, OperateError, Order, Outcome, Page, Report, Session, Time, numbers};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::SystemTime;
use tokio_postgres::{Row, Transaction};

const STUCK: &str = "r.stuck_since IS NOT NULL";

const OUTBOX: Table = Table {
    what: "outbox row",
    name: "tidemill.outbox",
    columns: "r.id, r.topic, r.key, r.event_id, r.correlation_id, r.traceparent, r.created_at, r.stuck_since, r.stuck_reason, \
        octet_length(r.value) AS value_bytes",
    handled: false,
    time: "created_at",
    error: "strpos(r.stuck_reason, $?) > 0",
    states: &[("stuck", STUCK), ("waiting", "r.stuck_since IS NULL")],
    usual_state: None,
};

/// Locks rows. Whoever has one locked is not waited for.
const FREE: &str = "SELECT id FROM tidemill.outbox WHERE id = ANY($1) ORDER BY id FOR UPDATE SKIP LOCKED";

/// A published event that has not left.
#[derive(Debug, Clone, Serialize)]
pub struct OutboxEntry {
    /// The row's number.
    pub id: i64,
    /// `stuck` if the broker refuses it, else `waiting`.
    pub state: &'static str,
    /// Where to.
    pub topic: String,
    /// The record key.
    pub key: Option<Bytes>,
    /// The event's `id`.
    pub event_id: Option<String>,
    /// Its correlation id.
    pub correlation_id: Option<String>,
    /// Its trace.
    pub traceparent: Option<String>,
    /// When it was published.
    pub created_at: Time,
    /// When the broker refused it first.
    pub stuck_since: Option<Time>,
    /// What the broker said.
    pub stuck_reason: Option<String>,
    /// Bytes of the value; none where it has none.
    pub value_bytes: Option<i32>,
}

impl OutboxEntry {
    fn read(row: &Row) -> Self {
        let stuck_since = row.get::<_, Option<SystemTime>>("stuck_since").map(Time::from_column);
        Self {
            id: row.get("id"),
            state: if stuck_since.is_some() { "stuck" } else { "waiting" },
            topic: row.get("topic"),
            key: row.get::<_, Option<Vec<u8>>>("key").map(Bytes),
            event_id: row.get("event_id"),
            correlation_id: row.get("correlation_id"),
            traceparent: row.get("traceparent"),
            created_at: Time::from_column(row.get("created_at")),
            stuck_since,
            stuck_reason: row.get("stuck_reason"),
            value_bytes: row.get("value_bytes"),
        }
    }
}

/// Forgets that rows are stuck. The relay tries the first row of a stuck key again by itself; this says that the cause is gone.
#[derive(Debug, Clone, Copy)]
pub struct OutboxRetry;

/// Gives published events up: they are deleted and will not be sent. The whole row is kept in the action's details.
#[derive(Debug, Clone, Copy, Default)]
pub struct OutboxDiscard {
    /// Also rows that the broker does not refuse.
    pub not_stuck: bool,
}

impl Session {
    /// A page of the outbox.
    pub async fn outbox(&self, filter: &Filter) -> Result<Page<OutboxEntry>, OperateError> {
        self.page(&OUTBOX, filter, OutboxEntry::read).await
    }

    /// One row whole.
    pub async fn outbox_entry(&self, id: i64) -> Result<Detail<OutboxEntry>, OperateError> {
        let row = self.whole(&OUTBOX, id).await?;
        Ok(Detail::read(OutboxEntry::read(&row), &row))
    }

    /// Forgets that they are stuck.
    pub async fn retry_outbox(&mut self, order: &Order) -> Result<Report<OutboxEntry>, OperateError> {
        self.change(&OUTBOX, &OutboxRetry, order).await
    }

    /// Gives them up.
    pub async fn discard_outbox(&mut self, order: &Order, how: OutboxDiscard) -> Result<Report<OutboxEntry>, OperateError> {
        self.change(&OUTBOX, &how, order).await
    }
}

#[async_trait]
impl Step for OutboxRetry {
    type Row = OutboxEntry;
    const ACTION: &'static str = "outbox.retry";

    fn changeable(&self) -> &'static str {
        STUCK
    }

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<OutboxEntry>>, OperateError> {
        let free = numbers(transaction, FREE, ids).await?;
        let rows: Vec<_> = OUTBOX.rows(transaction, ids).await?.iter().map(OutboxEntry::read).collect();
        let outcomes: Vec<_> = rows
            .into_iter()
            .map(|row| match row.state {
                _ if !free.contains(&row.id) => {
                    Outcome::failed(row.id, "busy", "somebody works on it right now; try again", Some(row))
                }
                "stuck" => Outcome::done(row.id, "retried", None, row),
                _ => Outcome::left(row.id, "not-stuck", "it leaves by itself".to_owned(), row),
            })
            .collect();
        let changed: Vec<_> = outcomes.iter().filter(|outcome| outcome.changed).collect();
        let cleared: Vec<i64> = changed.iter().map(|outcome| outcome.id).collect();
        let sql = "UPDATE tidemill.outbox SET stuck_since = NULL, stuck_reason = NULL WHERE id = ANY($1)";
        transaction.execute(sql, &[&cleared]).await?;
        let lines: Vec<_> = changed
            .iter()
            .filter_map(|outcome| {
                let row = outcome.row.as_ref()?;
                Some((subject(row.id), json!({ "topic": row.topic, "event_id": row.event_id, "stuck_reason": row.stuck_reason })))
            })
            .collect();
        record(transaction, order, Self::ACTION, &lines).await?;
        Ok(outcomes)
    }
}

#[async_trait]
impl Step for OutboxDiscard {
    type Row = OutboxEntry;
    const ACTION: &'static str = "outbox.discard";

    fn changeable(&self) -> &'static str {
        if self.not_stuck { "true" } else { STUCK }
    }

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<OutboxEntry>>, OperateError> {
        let free = numbers(transaction, FREE, ids).await?;
        let rows: Vec<_> = OUTBOX.rows(transaction, ids).await?.iter().map(OutboxEntry::read).collect();
        let wanted = rows.iter().filter(|row| self.not_stuck || row.state == "stuck").map(|row| row.id);
        let wanted: Vec<i64> = wanted.filter(|id| free.contains(id)).collect();
        let sql = "DELETE FROM tidemill.outbox WHERE id = ANY($1) RETURNING *";
        let gone = transaction.query(sql, &[&wanted]).await?;
        let gone: HashMap<i64, Value> = gone.iter().map(|row| (row.get("id"), kept(row))).collect();
        let outcomes = rows.into_iter().map(|row| match () {
            () if gone.contains_key(&row.id) => Outcome::done(row.id, "discarded", Some("the event is not sent".to_owned()), row),
            () if free.contains(&row.id) => {
                Outcome::failed(row.id, "not-stuck", "the broker does not refuse it; it leaves by itself", Some(row))
            }
            () => Outcome::failed(row.id, "busy", "somebody works on it right now; try again", Some(row)),
        });
        let outcomes = outcomes.collect();
        let mut lines: Vec<_> = gone.into_iter().collect();
        lines.sort_by_key(|(id, _)| *id);
        let lines: Vec<_> = lines.into_iter().map(|(id, row)| (subject(id), row)).collect();
        record(transaction, order, Self::ACTION, &lines).await?;
        Ok(outcomes)
    }
}

fn subject(id: i64) -> String {
    format!("outbox/{id}")
}

/// The whole row, so that an event that was given up is not lost for ever. Bytes are base64: they may be no text, or have zeros in it.
fn kept(row: &Row) -> Value {
    let text = |name: &str| row.get::<_, Option<String>>(name);
    let time = |name: &str| row.get::<_, Option<SystemTime>>(name).map(Time::from_column);
    let bytes = |name: &str| row.get::<_, Option<Vec<u8>>>(name).map(|bytes| base64(&bytes));
    let headers: Vec<_> = headers(row)
        .into_iter()
        .map(|header| json!({ "name": header.name, "value_base64": header.value.map(|value| base64(&value.0)) }))
        .collect();
    json!({
        "topic": text("topic"),
        "key_base64": bytes("key"),
        "value_base64": bytes("value"),
        "headers": headers,
        "event_id": text("event_id"),
        "correlation_id": text("correlation_id"),
        "traceparent": text("traceparent"),
        "created_at": time("created_at"),
        "stuck_since": time("stuck_since"),
        "stuck_reason": text("stuck_reason"),
    })
}
