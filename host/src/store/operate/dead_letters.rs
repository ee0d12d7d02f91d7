//! Dead letters: list, show, replay, discard.

use super::actions::record;
use super::change::Step;
use super::filter::Table;
use super::{Bytes, Detail, Filter, OperateError, Order, Outcome, Page, Report, Session, Time};
use super::{key_lock, lock_keys, numbers};
use async_trait::async_trait;
use serde::Serialize;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::time::SystemTime;
use tokio_postgres::{Row, Transaction};

pub(super) const DEAD_LETTERS: Table = Table {
    what: "dead letter",
    name: "tidemill.dead_letters",
    columns: "r.id, r.state, r.consumer_group, r.handler, r.topic, r.partition, r.record_offset, r.record_time, r.key, r.source, r.event_id, \
        r.type, r.attempts, r.revision, r.error_class, r.error, r.died_at, r.replays, r.ended_at, r.ended_by, \
        octet_length(r.value) AS value_bytes, (SELECT q.id FROM tidemill.waiting q WHERE q.dead_letter = r.id) AS waiting",
    handled: true,
    time: "died_at",
    error: "strpos(r.error, $?) > 0",
    states: &[
        ("dead", "r.state = 'dead'"),
        ("queued", "r.state = 'dead' AND EXISTS (SELECT 1 FROM tidemill.waiting q WHERE q.dead_letter = r.id)"),
        ("replayed", "r.state = 'replayed'"),
        ("discarded", "r.state = 'discarded'"),
        ("all", "true"),
    ],
    usual_state: Some("dead"),
};

/// Locks the dead ones. Whoever has one locked is not waited for.
const DEAD: &str =
    "SELECT id FROM tidemill.dead_letters WHERE id = ANY($1) AND state = 'dead' ORDER BY id FOR UPDATE SKIP LOCKED";

/// Those of another generation of their group whose event the current one has handled, or given up, itself.
const ANEW: &str = "\
    SELECT d.id FROM unnest($1::int8[], $2::int4[]) AS chosen(id, scope) \
      JOIN tidemill.dead_letters d ON d.id = chosen.id AND d.scope <> chosen.scope \
     WHERE EXISTS (SELECT 1 FROM tidemill.inbox i WHERE i.scope = chosen.scope AND i.source = d.source AND i.id = d.event_id)";

/// Queues them at the end of their keys. With the keys' locks and the dead letters' rows held, so that nobody else can.
const QUEUE: &str = "\
    INSERT INTO tidemill.waiting (scope, consumer_group, handler, topic, partition, record_offset, record_time, key, value, \
           header_names, header_values, source, event_id, type, due, dead_letter, ordered_by) \
    SELECT s.scope, d.consumer_group, coalesce(s.handler, d.handler), d.topic, d.partition, d.record_offset, d.record_time, d.key, d.value, \
           d.header_names, d.header_values, d.source, d.event_id, d.type, \
           CASE WHEN d.key IS NOT NULL \
                 AND (row_number() OVER (PARTITION BY s.scope, d.topic, d.key ORDER BY d.id) > 1 \
                      OR EXISTS (SELECT 1 FROM tidemill.waiting w WHERE w.scope = s.scope AND w.topic = d.topic \
                                   AND sha256(w.key) = sha256(d.key) AND w.key = d.key)) \
                THEN NULL ELSE clock_timestamp() END, \
           d.id, $3 \
      FROM unnest($1::int8[], $2::int4[]) AS chosen(id, scope) \
      JOIN tidemill.dead_letters d ON d.id = chosen.id AND d.state = 'dead' \
      JOIN tidemill.scopes s ON s.scope = chosen.scope AND s.consumer_group = d.consumer_group AND s.state = 'current' \
     ORDER BY d.id \
    ON CONFLICT (dead_letter) DO NOTHING \
    RETURNING dead_letter, id, due IS NULL";

/// An event that a group has given up.
#[derive(Debug, Clone, Serialize)]
pub struct DeadLetter {
    /// Its number.
    pub id: i64,
    /// `dead`, `queued` (dead, its replay waits), `replayed` or `discarded`.
    pub state: String,
    /// The waiting event that replays it.
    pub waiting: Option<i64>,
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
    /// The event's `source`; where the bytes are no event, this and `event_id` name the record.
    pub source: String,
    /// Its `id`.
    pub event_id: String,
    /// Its `type`; empty where the bytes are no event.
    pub r#type: String,
    /// How often the handler had failed it.
    pub attempts: i32,
    /// The revision that failed it.
    pub revision: Option<String>,
    /// The class of the error that ended it, or of its last replay.
    pub error_class: String,
    /// The message of that error.
    pub error: String,
    /// When it was given up.
    pub died_at: Time,
    /// How often a replay was tried and failed.
    pub replays: i32,
    /// When it was replayed or discarded.
    pub ended_at: Option<Time>,
    /// By whom.
    pub ended_by: Option<String>,
    /// Bytes of the value; none where the record has none.
    pub value_bytes: Option<i32>,
}

impl DeadLetter {
    fn read(row: &Row) -> Self {
        let (state, waiting): (String, Option<i64>) = (row.get("state"), row.get("waiting"));
        Self {
            id: row.get("id"),
            state: if waiting.is_some() && state == "dead" { "queued".to_owned() } else { state },
            waiting,
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
            revision: row.get("revision"),
            error_class: row.get("error_class"),
            error: row.get("error"),
            died_at: Time::from_column(row.get("died_at")),
            replays: row.get("replays"),
            ended_at: row.get::<_, Option<SystemTime>>("ended_at").map(Time::from_column),
            ended_by: row.get("ended_by"),
            value_bytes: row.get("value_bytes"),
        }
    }

    fn details(&self) -> serde_json::Value {
        json!({ "handler": self.handler, "topic": self.topic, "source": self.source, "event_id": self.event_id, "error_class": self.error_class })
    }

    /// What to say of one that is not dead any more.
    fn ending(&self) -> String {
        let at = self.ended_at.map(|at| at.to_string()).unwrap_or_default();
        format!("it was {} at {at} by {}", self.state, self.ended_by.as_deref().unwrap_or("nobody known"))
    }
}

/// Hands dead letters to their group once more, each at the end of its key. The unit that handles one ends it.
#[derive(Debug, Clone, Copy)]
pub struct Replay;

/// Ends dead letters: nobody wants them replayed. Their rows stay.
#[derive(Debug, Clone, Copy)]
pub struct Discard;

impl Session {
    /// A page of the dead letters; those that are dead, if no state is named.
    pub async fn dead_letters(&self, filter: &Filter) -> Result<Page<DeadLetter>, OperateError> {
        self.page(&DEAD_LETTERS, filter, DeadLetter::read).await
    }

    /// One of them whole.
    pub async fn dead_letter(&self, id: i64) -> Result<Detail<DeadLetter>, OperateError> {
        let row = self.whole(&DEAD_LETTERS, id).await?;
        Ok(Detail::read(DeadLetter::read(&row), &row))
    }

    /// Queues their replays.
    pub async fn replay_dead_letters(&mut self, order: &Order) -> Result<Report<DeadLetter>, OperateError> {
        self.change(&DEAD_LETTERS, &Replay, order).await
    }

    /// Discards them.
    pub async fn discard_dead_letters(&mut self, order: &Order) -> Result<Report<DeadLetter>, OperateError> {
        self.change(&DEAD_LETTERS, &Discard, order).await
    }
}

#[async_trait]
impl Step for Replay {
    type Row = DeadLetter;
    const ACTION: &'static str = "dead-letters.replay";

    fn changeable(&self) -> &'static str {
        "NOT EXISTS (SELECT 1 FROM tidemill.waiting q WHERE q.dead_letter = r.id)"
    }

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<DeadLetter>>, OperateError> {
        let scopes = lock_places(transaction, ids).await?;
        let mine = numbers(transaction, DEAD, ids).await?;
        let rows: Vec<_> = DEAD_LETTERS.rows(transaction, ids).await?.iter().map(DeadLetter::read).collect();
        let (chosen, chosen_scopes): (Vec<i64>, Vec<i32>) = mine.iter().filter_map(|id| Some((*id, *scopes.get(id)?))).unzip();
        let anew = transaction.query(ANEW, &[&chosen, &chosen_scopes]).await?;
        let anew: HashSet<i64> = anew.iter().map(|row| row.get(0)).collect();
        let places = chosen.into_iter().zip(chosen_scopes).filter(|(id, _)| !anew.contains(id));
        let (chosen, chosen_scopes): (Vec<i64>, Vec<i32>) = places.unzip();
        let queued = transaction.query(QUEUE, &[&chosen, &chosen_scopes, &order.actor.name()]).await?;
        let queued: HashMap<i64, (i64, bool)> = queued.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
        let lines: Vec<_> = rows
            .iter()
            .filter_map(|row| {
                let mut details = row.details();
                details["waiting"] = json!(queued.get(&row.id)?.0);
                Some((format!("dead-letter/{}", row.id), details))
            })
            .collect();
        record(transaction, order, Self::ACTION, &lines).await?;
        let outcome = |row: DeadLetter| {
            if anew.contains(&row.id) {
                let text = "a newer generation of its group has handled this event itself, or has a dead letter of its own: discard this one";
                return Outcome::failed(row.id, "handled-anew", text, Some(row));
            }
            let (queued, has_group) = (queued.get(&row.id).copied(), scopes.contains_key(&row.id));
            replayed(row, &mine, queued, has_group)
        };
        Ok(rows.into_iter().map(outcome).collect())
    }
}

fn replayed(row: DeadLetter, mine: &[i64], queued: Option<(i64, bool)>, has_group: bool) -> Outcome<DeadLetter> {
    match (row.state.as_str(), queued) {
        (_, Some((_, behind))) => {
            let behind = behind.then(|| "behind what waits of its key already".to_owned());
            Outcome::done(row.id, "queued", behind, row)
        }
        ("queued", None) => {
            let waiting = row.waiting.map(|id| format!("as waiting event {id}")).unwrap_or_default();
            Outcome::left(row.id, "already-queued", waiting, row)
        }
        ("replayed", None) => Outcome::left(row.id, "already-replayed", row.ending(), row),
        ("discarded", None) => Outcome::failed(row.id, "discarded", row.ending(), Some(row)),
        (_, None) if !mine.contains(&row.id) => {
            Outcome::failed(row.id, "busy", "somebody works on it right now; try again", Some(row))
        }
        (_, None) if !has_group => {
            let text = format!("nobody reads as the group `{}`: no host with its handler has run here", row.group);
            Outcome::failed(row.id, "no-group", text, Some(row))
        }
        (_, None) => Outcome::failed(row.id, "busy", "its group has just begun a new generation; try again", Some(row)),
    }
}

#[async_trait]
impl Step for Discard {
    type Row = DeadLetter;
    const ACTION: &'static str = "dead-letters.discard";

    async fn step(
        &self,
        transaction: &Transaction<'_>,
        ids: &[i64],
        order: &Order,
    ) -> Result<Vec<Outcome<DeadLetter>>, OperateError> {
        lock_places(transaction, ids).await?;
        let mine = numbers(transaction, DEAD, ids).await?;
        let rows: Vec<_> = DEAD_LETTERS.rows(transaction, ids).await?.iter().map(DeadLetter::read).collect();
        // A statement of its own: only with the rows locked is it certain that no replay is being queued.
        let sql = "UPDATE tidemill.dead_letters d SET state = 'discarded', ended_at = clock_timestamp(), ended_by = $2 \
                    WHERE id = ANY($1) AND state = 'dead' AND NOT EXISTS (SELECT 1 FROM tidemill.waiting q WHERE q.dead_letter = d.id) \
                RETURNING id";
        let ended = transaction.query(sql, &[&mine, &order.actor.name()]).await?;
        let ended: HashSet<i64> = ended.iter().map(|row| row.get(0)).collect();
        let lines: Vec<_> = rows
            .iter()
            .filter(|row| ended.contains(&row.id))
            .map(|row| (format!("dead-letter/{}", row.id), row.details()))
            .collect();
        record(transaction, order, Self::ACTION, &lines).await?;
        Ok(rows.into_iter().map(|row| discarded(row, &ended)).collect())
    }
}

fn discarded(row: DeadLetter, ended: &HashSet<i64>) -> Outcome<DeadLetter> {
    match row.state.as_str() {
        _ if ended.contains(&row.id) => Outcome::done(row.id, "discarded", None, row),
        "discarded" => Outcome::left(row.id, "already-discarded", row.ending(), row),
        "replayed" => Outcome::failed(row.id, "replayed", row.ending(), Some(row)),
        "queued" => {
            let waiting = row.waiting.map(|id| id.to_string()).unwrap_or_default();
            let text = format!("its replay waits; take that back first: `tidemill waiting dead-letter {waiting}`");
            Outcome::failed(row.id, "queued", text, Some(row))
        }
        _ => Outcome::failed(row.id, "busy", "somebody works on it right now; try again", Some(row)),
    }
}

/// Takes the locks of the keys that these would wait under, and says in which scope each would: none if its group has no current one.
async fn lock_places(transaction: &Transaction<'_>, ids: &[i64]) -> Result<HashMap<i64, i32>, OperateError> {
    let sql = "SELECT d.id, d.topic, d.key, s.scope FROM tidemill.dead_letters d \
                 JOIN tidemill.scopes s ON s.consumer_group = d.consumer_group AND s.state = 'current' WHERE d.id = ANY($1)";
    let rows = transaction.query(sql, &[&ids]).await?;
    let bucket = |row: &Row| key_lock(row.get(3), row.get(1), row.get(2));
    lock_keys(transaction, rows.iter().map(bucket)).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(3))).collect())
}
