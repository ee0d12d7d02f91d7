//! Events that wait in the database: list, show, run now, give up.

use super::actions::record;
use super::change::Step;
use super::filter::Table;
use super::{Bytes, Detail, Filter, OperateError, Order, Outcome, Page, Report, Session, Time};
use super::{key_lock, lock_keys, numbers};
use crate::store::outbox::key_bucket;
use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;
use tokio_postgres::{Row, Transaction};

pub(super) const WAITING: Table = Table {
    what: "waiting event",
    name: "tidemill.waiting",
    columns: "r.id, r.consumer_group, r.handler, r.topic, r.partition, r.record_offset, r.record_time, r.key, r.source, r.event_id, r.type, \
        r.attempts, r.deaths, r.due, r.revision, r.error_class, r.error, r.parked_at, r.failed_at, r.dead_letter, r.ordered_by, \
        octet_length(r.value) AS value_bytes, r.claim IS NOT NULL AS claimed, r.due > clock_timestamp() AS later, \
        CASE WHEN r.due IS NULL THEN (SELECT h.id FROM tidemill.waiting h WHERE h.scope = r.scope AND h.topic = r.topic \
            AND sha256(h.key) = sha256(r.key) AND h.key = r.key AND h.id < r.id ORDER BY h.id LIMIT 1) END AS behind",
    handled: true,
    time: "parked_at",
    error: "strpos(r.error, $?) > 0",
    states: &[
        ("ready", "r.due <= clock_timestamp()"),
        ("scheduled", "r.due > clock_timestamp() AND r.claim IS NULL"),
        ("running", "r.due > clock_timestamp() AND r.claim IS NOT NULL"),
        ("behind", "r.due IS NULL"),
    ],
    usual_state: None,
};

/// Rows that nobody runs at this moment. Whoever has one locked is not waited for.
const FREE: &str = "SELECT id FROM tidemill.waiting WHERE id = ANY($1) AND (claim IS NULL OR due IS NULL OR due <= clock_timestamp()) \
    ORDER BY id FOR UPDATE SKIP LOCKED";

/// An event that waits.
#[derive(Debug, Clone, Serialize)]
pub struct WaitingEvent {
    /// The row's number; those of a key run in the order of their numbers.
    pub id: i64,
    /// `ready`, `scheduled` (for `due`), `running`, or `behind` an earlier event of its key.
    pub state: &'static str,
    /// The first waiting event of its key, where that is another.
    pub behind: Option<i64>,
    /// The consumer group.
    pub group: String,
    /// The handler.
    pub handler: String,
    /// The topic of the record.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its timestamp; none for absurd ones.
    pub record_time: Option<Time>,
    /// Its key.
    pub key: Option<Bytes>,
    /// The event's `source`.
    pub source: String,
    /// Its `id`.
    pub event_id: String,
    /// Its `type`; empty where the bytes are no event.
    pub r#type: String,
    /// How often the handler has failed it.
    pub attempts: i32,
    /// How many processes ended while they ran it.
    pub deaths: i32,
    /// When it may run; while it runs: when its claim ends.
    pub due: Option<Time>,
    /// The revision that failed it.
    pub revision: Option<String>,
    /// The class of its last error.
    pub error_class: Option<String>,
    /// The message of its last error.
    pub error: Option<String>,
    /// Since when it waits.
    pub parked_at: Time,
    /// When it failed last.
    pub failed_at: Option<Time>,
    /// The dead letter that it replays.
    pub dead_letter: Option<i64>,
    /// Who ordered that replay.
    pub ordered_by: Option<String>,
    /// Bytes of the value; none where the record has none.
    pub value_bytes: Option<i32>,
}

impl WaitingEvent {
    fn read(row: &Row) -> Self {
        let due = row.get::<_, Option<SystemTime>>("due").map(Time::from_column);
        let state = match (row.get::<_, Option<bool>>("later"), row.get("claimed")) {
            (None, _) => "behind",
            (Some(false), _) => "ready",
            (Some(true), false) => "scheduled",
            (Some(true), true) => "running",
        };
        Self {
            id: row.get("id"),
            state,
            behind: row.get("behind"),
            group: row.get("consumer_group"),
            handler: row.get("handler"),
            topic: row.get("topic"),
            partition: row.get("partition"),
            offset: row.get("record_offset"),
            record_time: Time::from_millis(row.get("record_time")),
            key: row.get::<_, Option<Vec<u8>>>("key").map(Bytes),
            source: row.get("source"),
            event_id: row.get("event_id"),
            r#type: row.get("type"),
            attempts: row.get("attempts"),
            deaths: row.get("deaths"),
            due,
            revision: row.get("revision"),
            error_class: row.get("error_class"),
            error: row.get("error"),
            parked_at: Time::from_column(row.get("parked_at")),
            failed_at: row.get::<_, Option<SystemTime>>("failed_at").map(Time::from_column),
            dead_letter: row.get("dead_letter"),
            ordered_by: row.get("ordered_by"),
            value_bytes: row.get("value_bytes"),
        }
    }

    fn details(&self) -> serde_json::Value {
        json!({ "handler": self.handler, "topic": self.topic, "source": self.source, "event_id": self.event_id })
    }
}

/// Runs waiting events now instead of when they are due. Nothing else of them changes, not their count of attempts either.
#[derive(Debug, Clone, Copy)]
pub struct Retry;

/// Ends the retries of waiting events: they become dead letters. A queued replay is taken back instead, and its dead letter is as it was.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterNow {
    /// Why, for the dead letter's message.
    pub reason: Option<String>,
}

impl Session {
    /// A page of the events that wait.
    pub async fn waiting(&self, filter: &Filter) -> Result<Page<WaitingEvent>, OperateError> {
        self.page(&WAITING, filter, WaitingEvent::read).await
    }

    /// One of them whole.
    pub async fn waiting_event(&self, id: i64) -> Result<Detail<WaitingEvent>, OperateError> {
        let row = self.whole(&WAITING, id).await?;
        Ok(Detail::read(WaitingEvent::read(&row), &row))
    }

    /// Lets them run now.
    pub async fn retry_waiting(&mut self, order: &Order) -> Result<Report<WaitingEvent>, OperateError> {
        let mut report = self.change(&WAITING, &Retry, order).await?;
        // What waits behind an event that runs now needs nothing more.
        let retried: HashSet<i64> = report.rows.iter().filter(|row| row.changed).map(|row| row.id).collect();
        for row in report.rows.iter_mut().filter(|row| row.outcome == "behind") {
            row.failed = !row.row.as_ref().and_then(|row| row.behind).is_some_and(|head| retried.contains(&head));
        }
        report.count();
        Ok(report)
    }

    /// Makes dead letters of them.
    pub async fn dead_letter_waiting(
        &mut self,
        order: &Order,
        how: &DeadLetterNow,
    ) -> Result<Report<WaitingEvent>, OperateError> {
        if how.reason.as_ref().is_some_and(|reason| reason.chars().count() > 1_000 || reason.chars().any(char::is_control)) {
            return Err(OperateError::Invalid(
                "a reason has at most 1000 characters, none of them a control character".to_owned(),
            ));
        }
        self.change(&WAITING, how, order).await
    }
}

#[async_trait]
impl Step for Retry {
    type Row = WaitingEvent;
    const ACTION: &'static str = "waiting.retry";

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<WaitingEvent>>, OperateError> {
        let free: HashSet<i64> = numbers(transaction, FREE, ids).await?.into_iter().collect();
        let rows: Vec<_> = WAITING.rows(transaction, ids).await?.iter().map(WaitingEvent::read).collect();
        let outcomes: Vec<_> = rows.into_iter().map(|row| retried(row, &free)).collect();
        let changed: Vec<_> = outcomes.iter().filter(|outcome| outcome.changed).collect();
        let due: Vec<i64> = changed.iter().map(|outcome| outcome.id).collect();
        transaction.execute("UPDATE tidemill.waiting SET due = clock_timestamp() WHERE id = ANY($1)", &[&due]).await?;
        record(transaction, order, Self::ACTION, &lines(&changed, |row| row.details())).await?;
        Ok(outcomes)
    }
}

fn retried(row: WaitingEvent, free: &HashSet<i64>) -> Outcome<WaitingEvent> {
    match row.state {
        "behind" => {
            let head = row.behind.map_or("another event of its key".to_owned(), |head| head.to_string());
            Outcome::failed(row.id, "behind", format!("waits behind {head}"), Some(row))
        }
        "running" => Outcome::left(row.id, "running", "it is being run right now".to_owned(), row),
        _ if free.contains(&row.id) => Outcome::done(row.id, "retried", None, row),
        _ => Outcome::left(row.id, "running", "somebody works on it right now".to_owned(), row),
    }
}

#[async_trait]
impl Step for DeadLetterNow {
    type Row = WaitingEvent;
    const ACTION: &'static str = "waiting.dead-letter";

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<WaitingEvent>>, OperateError> {
        lock_keys(transaction, buckets(transaction, ids).await?.into_iter()).await?;
        let free = numbers(transaction, FREE, ids).await?;
        let rows: Vec<_> = WAITING.rows(transaction, ids).await?.iter().map(WaitingEvent::read).collect();
        let (replays, events): (Vec<_>, Vec<_>) =
            rows.iter().filter(|row| free.contains(&row.id)).partition(|row| row.dead_letter.is_some());
        take_back(transaction, &replays.iter().map(|row| row.id).collect::<Vec<_>>()).await?;
        let letters = bury(transaction, &events.iter().map(|row| row.id).collect::<Vec<_>>(), &self.message(order)).await?;
        let outcomes: Vec<_> = rows.into_iter().map(|row| given_up(row, &free, &letters, order.dry_run)).collect();
        let changed: Vec<_> = outcomes.iter().filter(|outcome| outcome.changed).collect();
        let lines = lines(&changed, |row| {
            let mut details = row.details();
            details["dead_letter"] = json!(row.dead_letter.or_else(|| letters.get(&row.id).copied()));
            details["reason"] = json!(self.reason);
            details
        });
        record(transaction, order, Self::ACTION, &lines).await?;
        Ok(outcomes)
    }
}

impl DeadLetterNow {
    fn message(&self, order: &Order) -> String {
        match &self.reason {
            Some(reason) => format!("{reason} (given up by {})", order.actor.name()),
            None => format!("given up by {}", order.actor.name()),
        }
    }
}

fn given_up(row: WaitingEvent, free: &[i64], letters: &HashMap<i64, i64>, dry_run: bool) -> Outcome<WaitingEvent> {
    let running = "it is running; try again";
    match (row.dead_letter, letters.get(&row.id)) {
        _ if !free.contains(&row.id) => Outcome::failed(row.id, "running", running, Some(row)),
        (Some(letter), _) => Outcome::done(row.id, "taken-back", Some(format!("the replay of dead letter {letter}")), row),
        // The number of a dry run is nobody's.
        (None, Some(letter)) => Outcome::done(row.id, "dead-lettered", (!dry_run).then(|| format!("dead letter {letter}")), row),
        (None, None) => Outcome::failed(row.id, "missing", "it was gone in the meantime", Some(row)),
    }
}

/// The locks of the rows' keys, and of those keys in the dead-letter topic.
async fn buckets(transaction: &Transaction<'_>, ids: &[i64]) -> Result<Vec<i16>, OperateError> {
    let rows = transaction.query("SELECT scope, topic, key FROM tidemill.waiting WHERE id = ANY($1)", &[&ids]).await?;
    let buckets = rows.iter().flat_map(|row| {
        let (scope, topic, key): (i32, &str, Option<&[u8]>) = (row.get(0), row.get(1), row.get(2));
        [key_lock(scope, topic, key), key_bucket(&format!("{topic}.dlq"), key)]
    });
    Ok(buckets.collect())
}

/// Dead letters of waiting rows, by the row's number.
async fn bury(transaction: &Transaction<'_>, ids: &[i64], message: &str) -> Result<HashMap<i64, i64>, OperateError> {
    let sql = "SELECT id, tidemill.bury(id, 'operator', $2, NULL) FROM unnest($1::int8[]) AS id";
    let rows = transaction.query(sql, &[&ids, &message]).await?;
    Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<i64>>(1)?))).collect())
}

/// Takes queued replays back. They were never tried, so their dead letters keep their story; what waits behind them goes on.
async fn take_back(transaction: &Transaction<'_>, ids: &[i64]) -> Result<(), OperateError> {
    let gone = "DELETE FROM tidemill.waiting WHERE id = ANY($1) RETURNING scope, topic, key";
    for row in transaction.query(gone, &[&ids]).await? {
        let (scope, topic, key): (i32, &str, Option<&[u8]>) = (row.get(0), row.get(1), row.get(2));
        if key.is_some() {
            transaction.execute("SELECT tidemill.promote($1, $2, $3)", &[&scope, &topic, &key]).await?;
        }
    }
    Ok(())
}

fn lines(
    changed: &[&Outcome<WaitingEvent>],
    details: impl Fn(&WaitingEvent) -> serde_json::Value,
) -> Vec<(String, serde_json::Value)> {
    changed.iter().filter_map(|outcome| Some((format!("waiting/{}", outcome.id), details(outcome.row.as_ref()?)))).collect()
}
