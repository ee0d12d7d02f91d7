//! One deploy's part of the fleet: one at a time, by a session lock; it puts a candidate up, hears what the replicas say, and moves the pointers.
//!
//! Everything goes over the connection that holds the lock, so a deploy that has lost the lock can't switch.

use super::super::Pool;
use super::super::error::Unavailable;
use super::super::operate::{Actor, OperateError, record_all};
use super::revisions::{COLUMNS, NewRevision, Revision, save};
use super::view::{Replica, replicas};
use super::{HEARD, LOOK, alive, failed};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_postgres::{Client, GenericClient, Transaction};

/// How long a deploy waits for another one.
const TURN: Duration = Duration::from_secs(20);
/// Without a word the server takes a frozen deploy's lock away, well before an urgent one has waited for [`TURN`]; a deploy says something at
/// least every [`Desk::PATIENCE`].
const SETUP: &str = "SET idle_session_timeout = '10s'; SET statement_timeout = '60s'; SET lock_timeout = '10s'; LISTEN tidemill_votes; \
     SET application_name = 'tidemill deploy'";

/// Why a deploy was not made.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DeskError {
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// There is no such handler or revision.
    #[error("{0}")]
    Missing(String),
    /// Another one is under way.
    #[error("{0}")]
    Busy(String),
    /// It was given up for something urgent, or its command had ended; nothing is switched. It can be repeated.
    #[error("{0}")]
    GivenUp(String),
    /// It was refused; nothing is switched.
    #[error("{0}")]
    Refused(String),
    /// What is active has changed meanwhile.
    #[error("what is active has changed while this was prepared; nothing was switched: repeat it")]
    Moved,
    /// The database did not do it.
    #[error("{0}")]
    Unavailable(String),
}

impl DeskError {
    /// Whether the same may succeed in a moment: nothing is wrong with what was asked for.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::GivenUp(_) | Self::Moved | Self::Unavailable(_))
    }
}

impl From<Unavailable> for DeskError {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.0)
    }
}

impl From<tokio_postgres::Error> for DeskError {
    fn from(error: tokio_postgres::Error) -> Self {
        failed(error).into()
    }
}

impl From<OperateError> for DeskError {
    fn from(error: OperateError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// A change of what is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Some handlers run other revisions, others run no more: all of it in one step.
    Set {
        /// Handlers and the revisions that they run from now on.
        moves: Vec<(String, String)>,
        /// Handlers that run no more.
        gone: Vec<String>,
    },
    /// The handler rests.
    Pause(String),
    /// It goes on.
    Resume(String),
}

impl Change {
    fn handlers(&self) -> Vec<&str> {
        match self {
            Self::Set { moves, gone } => moves.iter().map(|(handler, _)| handler).chain(gone).map(String::as_str).collect(),
            Self::Pause(handler) | Self::Resume(handler) => vec![handler],
        }
    }
}

/// A replica that has a say in a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// `HOST/PID`.
    pub name: String,
    /// What it said: none yet, yes, or no with the reason.
    pub vote: Option<Result<(), String>>,
}

/// An SQL condition: the replica `r` has a say in the candidate `c`. One that has not loaded anything yet serves nothing, and loads what is active
/// by then; no rollback waits until it has compiled everything else.
macro_rules! has_a_say {
    () => {
        concat!("(", alive!(), " AND (r.loaded IS NOT NULL OR c.action <> 'rollback'))")
    };
}

/// The connection of a deploy.
pub struct Desk {
    client: Client,
    heard: Arc<Notify>,
}

impl Desk {
    /// The longest that a deploy may say nothing while it has its turn.
    pub const PATIENCE: Duration = Duration::from_secs(2);

    /// Only looks, until it takes its turn.
    pub async fn open(pool: &Pool) -> Result<Self, DeskError> {
        let heard = Arc::new(Notify::new());
        let client = pool.dedicated_hearing(SETUP, Some(heard.clone())).await?;
        Ok(Self { client, heard })
    }

    /// Waits for its turn. The error says who has it and since when. What is `urgent` does not wait for a deploy that is still being
    /// prepared: that one is given up, unless it is a rollback itself.
    pub async fn take_turn(&self, actor: &Actor, urgent: bool) -> Result<(), DeskError> {
        let until = Instant::now() + TURN;
        while !self.client.query_one("SELECT pg_try_advisory_lock(7010, 0)", &[]).await?.get::<_, bool>(0) {
            if urgent {
                give_up(&self.client, &format!("for what {} does", actor.name()), Some("rollback")).await?;
            }
            if Instant::now() >= until {
                return Err(busy(&self.client).await);
            }
            self.wait(Duration::from_millis(50)).await;
        }
        let holder = "UPDATE tidemill.fleet SET holder = $1, held_since = clock_timestamp()";
        self.client.execute(holder, &[&actor.name()]).await?;
        Ok(())
    }

    /// The version of the fleet, and what is active: the revisions with the state of their handlers.
    pub async fn active(&self) -> Result<(i64, Vec<(Revision, bool)>), DeskError> {
        let sql = format!(
            "SELECT a.state = 'paused' AS paused, {COLUMNS} FROM tidemill.active a JOIN tidemill.revisions v USING (revision)"
        );
        let version = "SELECT version FROM tidemill.fleet";
        // The version first: if it is still the same at the switch, nothing has changed since.
        let version = self.client.query_one(version, &[]).await?.get(0);
        let rows = self.client.query(&sql, &[]).await?;
        Ok((version, rows.iter().map(|row| (Revision::read(row), row.get("paused"))).collect()))
    }

    /// The revisions of a handler whose names begin so, the newest first.
    pub async fn named(&self, handler: &str, prefix: &str) -> Result<Vec<Revision>, DeskError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM tidemill.revisions v WHERE v.handler = $1 AND starts_with(v.revision, $2) ORDER BY v.created_at DESC"
        );
        Ok(self.client.query(&sql, &[&handler, &prefix]).await?.iter().map(Revision::read).collect())
    }

    /// The revision that a handler ran before the one that it runs, or that it ran last.
    pub async fn before(&self, handler: &str) -> Result<Option<String>, DeskError> {
        // The last one that became active before the active one did: there may lie a time between in which it was not deployed at all.
        let sql = "SELECT s.to_revision FROM tidemill.switches s LEFT JOIN tidemill.active a ON a.handler = s.handler \
                   WHERE s.handler = $1 AND s.to_revision IS NOT NULL AND s.to_revision IS DISTINCT FROM a.revision \
                     AND (a.revision IS NULL OR s.id < (SELECT max(l.id) FROM tidemill.switches l WHERE l.handler = a.handler \
                         AND l.to_revision = a.revision AND l.from_revision IS DISTINCT FROM l.to_revision)) \
                   ORDER BY s.id DESC LIMIT 1";
        Ok(self.client.query_opt(sql, &[&handler]).await?.and_then(|row| row.get(0)))
    }

    /// Lets the next deploy have its turn. What was switched stays; this one only looks from now on.
    pub async fn release(&self) {
        // If it fails the connection is lost, and the lock with it.
        let _ = self.client.batch_execute(&format!("SELECT pg_advisory_unlock(7010, 0); NOTIFY {HEARD}")).await;
    }

    /// All handlers that an app ever had.
    pub async fn handlers_of(&self, app: &str) -> Result<Vec<String>, DeskError> {
        let sql = "SELECT DISTINCT handler FROM tidemill.revisions WHERE app = $1 ORDER BY 1";
        Ok(self.client.query(sql, &[&app]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// The migrations of an app that are applied, by number, with their checksums.
    pub async fn applied(&self, app: &str) -> Result<Vec<(i32, Vec<u8>)>, DeskError> {
        let sql = "SELECT number, checksum FROM tidemill.migrations WHERE app = $1 ORDER BY number";
        Ok(self.client.query(sql, &[&app]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Those of these database roles that the host can't assume yet.
    pub async fn missing_roles(&self, roles: &[&str]) -> Result<Vec<String>, DeskError> {
        let sql = "SELECT r.name FROM unnest($1::text[]) AS r(name) LEFT JOIN pg_catalog.pg_roles p ON p.rolname = r.name \
                   WHERE p.oid IS NULL OR NOT pg_has_role(session_user, p.oid, 'MEMBER')";
        Ok(self.client.query(sql, &[&roles]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Those of these tables (schema, name) that are not there.
    pub async fn missing_tables(&self, tables: &[(String, String)]) -> Result<Vec<String>, DeskError> {
        let (schemas, names): (Vec<&str>, Vec<&str>) =
            tables.iter().map(|(schema, name)| (schema.as_str(), name.as_str())).unzip();
        let sql = "SELECT t.schema || '.' || t.name FROM unnest($1::text[], $2::text[]) AS t(schema, name) \
                   WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
                                     WHERE n.nspname = t.schema AND c.relname = t.name)";
        Ok(self.client.query(sql, &[&schemas, &names]).await?.iter().map(|row| row.get(0)).collect())
    }

    /// Adds a revision; one that is there stays as it is.
    pub async fn save(&self, new: &NewRevision<'_>) -> Result<(), DeskError> {
        Ok(save(&self.client, new).await?)
    }

    /// Puts a candidate up and calls the replicas. Whoever left one behind can't go on with it: the lock is ours.
    pub async fn propose(
        &mut self,
        action: &str,
        moves: &[(String, String)],
        base: i64,
        actor: &Actor,
        note: Option<&str>,
    ) -> Result<i64, DeskError> {
        let (handlers, revisions): (Vec<&str>, Vec<&str>) = moves.iter().map(|(h, r)| (h.as_str(), r.as_str())).unzip();
        give_up(&self.client, "since its command ended before it was decided", None).await?;
        let transaction = self.client.transaction().await?;
        transaction.execute("DELETE FROM tidemill.votes WHERE at < clock_timestamp() - interval '7 days'", &[]).await?;
        let insert = "INSERT INTO tidemill.candidates (action, handlers, revisions, base, actor, note) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id";
        let id = transaction.query_one(insert, &[&action, &handlers, &revisions, &base, &actor.name(), &note]).await?.get(0);
        notify(&transaction).await?;
        transaction.commit().await?;
        Ok(id)
    }

    /// What the replicas that have a say in a candidate say of it, and any refusal.
    pub async fn voters(&self, candidate: i64) -> Result<Vec<Voter>, DeskError> {
        stands(&self.client, candidate).await?;
        let sql = concat!(
            "SELECT r.host || '/' || r.pid, v.ok, v.reason FROM tidemill.candidates c CROSS JOIN tidemill.replicas r \
             LEFT JOIN tidemill.votes v ON v.candidate = c.id AND v.replica = r.id WHERE c.id = $1 AND (",
            has_a_say!(),
            " OR NOT v.ok) ORDER BY r.started_at"
        );
        let voter = |row: &tokio_postgres::Row| Voter {
            name: row.get(0),
            vote: row.get::<_, Option<bool>>(1).map(|ok| match ok {
                true => Ok(()),
                false => Err(row.get::<_, Option<String>>(2).unwrap_or_default()),
            }),
        };
        Ok(self.client.query(sql, &[&candidate]).await?.iter().map(voter).collect())
    }

    /// Ends a candidate that is not to become active.
    pub async fn refuse(&self, candidate: i64, reason: &str) -> Result<(), DeskError> {
        let sql = "UPDATE tidemill.candidates SET state = 'refused', reason = $2, ended_at = clock_timestamp() \
                   WHERE id = $1 AND state = 'preparing'";
        self.client.execute(sql, &[&candidate, &reason]).await?;
        Ok(())
    }

    /// Makes the change, if nothing has changed since `base` and no replica that is alive has still to agree; returns the new version.
    pub async fn switch(
        &mut self,
        candidate: Option<i64>,
        base: i64,
        change: &Change,
        action: &str,
        actor: &Actor,
        note: Option<&str>,
    ) -> Result<i64, DeskError> {
        let transaction = self.client.transaction().await?;
        let version: i64 = transaction.query_one("SELECT version FROM tidemill.fleet FOR UPDATE", &[]).await?.get(0);
        if version != base {
            return Err(DeskError::Moved);
        }
        if let Some(candidate) = candidate {
            agreed(&transaction, candidate).await?;
        }
        let version = version + 1;
        let from = before(&transaction, &change.handlers()).await?;
        apply(&transaction, change, actor, note).await?;
        let after = before(&transaction, &change.handlers()).await?;
        let history = "INSERT INTO tidemill.switches (version, action, handler, from_revision, to_revision, candidate, actor, note) \
                       SELECT $1::int8, $2::text, s.handler, s.was, s.became, $6::int8, $7::text, $8::text FROM unnest($3::text[], $4::text[], $5::text[]) AS s(handler, was, became)";
        let handlers = change.handlers();
        transaction.execute(history, &[&version, &action, &handlers, &from, &after, &candidate, &actor.name(), &note]).await?;
        let lines: Vec<(String, serde_json::Value)> = handlers
            .iter()
            .zip(from.iter().zip(&after))
            .map(|(handler, (from, to))| (format!("handler/{handler}"), json!({ "from": from, "to": to, "note": note })))
            .collect();
        record_all(&transaction, actor, &format!("handlers.{action}"), &lines).await?;
        transaction.execute("UPDATE tidemill.fleet SET version = $1", &[&version]).await?;
        if let Some(candidate) = candidate {
            let sql = "UPDATE tidemill.candidates SET state = 'switched', ended_at = clock_timestamp() WHERE id = $1";
            transaction.execute(sql, &[&candidate]).await?;
        }
        notify(&transaction).await?;
        transaction.commit().await?;
        Ok(version)
    }

    /// Whether a change whose answer was lost was made on top of version `base`. Asks over a new connection.
    pub async fn was_made(
        pool: &Pool,
        (base, candidate): (i64, Option<i64>),
        change: &Change,
        action: &str,
        actor: &Actor,
    ) -> Result<bool, Unavailable> {
        let client = pool.dedicated("SET statement_timeout = '5s'").await?;
        // Behind a switch that the server may still be about to commit.
        client.query_one("SELECT version FROM tidemill.fleet FOR SHARE", &[]).await.map_err(failed)?;
        let sql = "SELECT count(*) = cardinality($2::text[]) FROM tidemill.switches \
                   WHERE version = $1 AND handler = ANY($2) AND action = $3 AND actor = $4 AND candidate IS NOT DISTINCT FROM $5";
        let row = client.query_one(sql, &[&(base + 1), &change.handlers(), &action, &actor.name(), &candidate]).await;
        Ok(row.map_err(failed)?.get(0))
    }

    /// The replicas that are alive, and what they have loaded.
    pub async fn replicas(&self) -> Result<Vec<Replica>, DeskError> {
        Ok(replicas(&self.client).await?.into_iter().filter(|replica| replica.alive).collect())
    }

    /// How many events of a handler wait in the database, and how many of its jobs wait for their time (1,000: or more).
    pub async fn waiting(&self, handler: &str) -> Result<(i64, i64), DeskError> {
        let sql = "SELECT (SELECT count(*) FROM tidemill.waiting WHERE handler = $1), \
                          (SELECT count(*) FROM (SELECT FROM tidemill.jobs WHERE handler = $1 LIMIT 1000) some)";
        let row = self.client.query_one(sql, &[&handler]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Does something that may take long without losing the turn. Ends with the candidate, if it is for one: what is urgent does not wait for it.
    pub async fn holding<T>(&self, candidate: Option<i64>, work: impl Future<Output = T>) -> Result<T, DeskError> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = self.wait(Self::PATIENCE) => match candidate {
                    Some(candidate) => stands(&self.client, candidate).await?,
                    None => self.client.batch_execute("SELECT 1").await?,
                }
            }
        }
    }

    /// Waits until a replica has said something, or for a moment.
    pub async fn wait(&self, most: Duration) {
        let _ = tokio::time::timeout(most, self.heard.notified()).await;
    }
}

/// Ends the candidate that is still being prepared, if there is one and it is no `but`; whoever prepares it hears of it.
async fn give_up(client: &Client, reason: &str, but: Option<&str>) -> Result<(), DeskError> {
    let sql = "WITH ended AS (UPDATE tidemill.candidates SET state = 'abandoned', ended_at = clock_timestamp(), reason = $1 \
               WHERE state = 'preparing' AND action IS DISTINCT FROM $3 RETURNING 1) SELECT pg_notify($2, '') FROM ended";
    client.execute(sql, &[&reason, &HEARD, &but]).await.map(drop).map_err(DeskError::from)
}

async fn busy(client: &Client) -> DeskError {
    let sql = "SELECT holder, to_char(held_since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM tidemill.fleet";
    match client.query_one(sql, &[]).await {
        Ok(row) => {
            let text = |column| row.get::<_, Option<String>>(column).unwrap_or_else(|| "somebody".to_owned());
            DeskError::Busy(format!(
                "another deploy is under way: {} has it since {}; `tidemill ps` shows what it does; try again when it is over",
                text(0),
                text(1)
            ))
        }
        Err(error) => failed(error).into(),
    }
}

/// Checks that a candidate still stands, and that every replica that is alive has agreed. The row of the fleet is locked: who registers from
/// now on loads what this switch makes.
async fn agreed(transaction: &Transaction<'_>, candidate: i64) -> Result<(), DeskError> {
    transaction.query_one("SELECT FROM tidemill.candidates WHERE id = $1 FOR UPDATE", &[&candidate]).await?;
    stands(transaction, candidate).await?;
    let sql = concat!(
        "SELECT string_agg(r.host || '/' || r.pid, ', ') FROM tidemill.candidates c CROSS JOIN tidemill.replicas r WHERE c.id = $1 AND ",
        has_a_say!(),
        " AND NOT EXISTS (SELECT 1 FROM tidemill.votes v WHERE v.candidate = c.id AND v.replica = r.id AND v.ok)"
    );
    match transaction.query_one(sql, &[&candidate]).await?.get::<_, Option<String>>(0) {
        None => Ok(()),
        Some(_) => Err(DeskError::Moved),
    }
}

/// Whether a candidate still waits for its switch; else why not.
async fn stands(client: &impl GenericClient, candidate: i64) -> Result<(), DeskError> {
    let sql = "SELECT state, coalesce(reason, '') FROM tidemill.candidates WHERE id = $1";
    let row = client.query_one(sql, &[&candidate]).await?;
    match row.get(0) {
        "preparing" => Ok(()),
        "abandoned" => {
            Err(DeskError::GivenUp(format!("it was given up {}; nothing was switched: repeat it", row.get::<_, &str>(1))))
        }
        state => Err(DeskError::Refused(format!("it was {state}: {}; nothing was switched", row.get::<_, &str>(1)))),
    }
}

/// The revisions that these handlers run, in the same order.
async fn before(transaction: &Transaction<'_>, handlers: &[&str]) -> Result<Vec<Option<String>>, DeskError> {
    let sql = "SELECT a.revision FROM unnest($1::text[]) WITH ORDINALITY AS h(name, n) LEFT JOIN tidemill.active a ON a.handler = h.name ORDER BY h.n";
    Ok(transaction.query(sql, &[&handlers]).await?.iter().map(|row| row.get(0)).collect())
}

async fn apply(transaction: &Transaction<'_>, change: &Change, actor: &Actor, note: Option<&str>) -> Result<(), DeskError> {
    let who = actor.name();
    match change {
        Change::Set { moves, gone } => {
            let (handlers, revisions): (Vec<&str>, Vec<&str>) = moves.iter().map(|(h, r)| (h.as_str(), r.as_str())).unzip();
            // A handler that was paused stays so: whoever paused it decides.
            let sql = "INSERT INTO tidemill.active AS a (handler, revision, changed_by, note) \
                       SELECT m.handler, m.revision, $3::text, $4::text FROM unnest($1::text[], $2::text[]) AS m(handler, revision) \
                       ON CONFLICT (handler) DO UPDATE SET revision = excluded.revision, since = clock_timestamp(), \
                           changed_by = excluded.changed_by, note = excluded.note";
            transaction.execute(sql, &[&handlers, &revisions, &who, &note]).await?;
            transaction.execute("DELETE FROM tidemill.active WHERE handler = ANY($1)", &[gone]).await?;
        }
        Change::Pause(handler) | Change::Resume(handler) => {
            let state = if matches!(change, Change::Pause(_)) { "paused" } else { "active" };
            let sql = "UPDATE tidemill.active SET state = $2, since = clock_timestamp(), changed_by = $3 WHERE handler = $1";
            transaction.execute(sql, &[handler, &state, &who]).await?;
        }
    }
    Ok(())
}

async fn notify(transaction: &Transaction<'_>) -> Result<(), DeskError> {
    transaction.batch_execute(&format!("NOTIFY {LOOK}; NOTIFY {HEARD}")).await.map_err(DeskError::from)
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}
