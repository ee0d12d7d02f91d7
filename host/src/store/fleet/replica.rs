//! One running host's part of the fleet: it registers, writes its heartbeat, hears what is to be loaded or prepared, and says what came of it.

use super::super::Pool;
use super::super::error::Unavailable;
use super::super::operate::Time;
use super::{HEARD, LOOK, alive, failed};
use futures_util::future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement, ToStatement};
use uuid::Uuid;

/// How long the database may take for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The connection over which a replica takes part. One for the heartbeat alone, another for the rest, so that nothing holds the beat up.
pub struct ReplicaDesk {
    client: Client,
    id: Uuid,
    statements: Statements,
}

/// What is asked again and again: a switch should take one trip a question.
struct Statements {
    beat: Statement,
    look: Statement,
    active: Statement,
    loaded: Statement,
    vote: Statement,
}

/// Only of one that the others still wait for: a dead one must register again, which waits for a switch that does not count it.
const BEAT: &str = concat!(
    "UPDATE tidemill.replicas AS r SET beat_at = clock_timestamp() WHERE r.id = $1 AND ",
    alive!(),
    " RETURNING (SELECT version FROM tidemill.fleet)"
);
const TO_DO: &str =
    "SELECT f.version, c.id, c.revisions FROM tidemill.fleet f LEFT JOIN tidemill.candidates c ON c.state = 'preparing'";
const ACTIVE: &str = "SELECT f.version, a.handler, a.revision, a.state, a.changed_by, a.since FROM tidemill.fleet f \
    LEFT JOIN tidemill.active a ON true ORDER BY a.handler";
const LOADED: &str = "WITH said AS (UPDATE tidemill.replicas SET loaded = $2, ready = $3, trouble = NULL WHERE id = $1 RETURNING 1) \
    SELECT pg_notify($4, '') FROM said";
const VOTE: &str = "WITH said AS (INSERT INTO tidemill.votes (candidate, replica, ok, reason) VALUES ($1, $2, $3, $4) \
        ON CONFLICT (candidate, replica) DO UPDATE SET ok = excluded.ok, reason = excluded.reason, at = clock_timestamp() RETURNING 1) \
    SELECT pg_notify($5, '') FROM said";

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The version of the fleet.
    pub version: i64,
    /// What is to be prepared, if anything.
    pub candidate: Option<Candidate>,
}

/// What a deploy wants to make active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its number.
    pub id: i64,
    /// The revisions, by name.
    pub revisions: Vec<String>,
}

/// The pointer of one handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer {
    /// The handler.
    pub handler: String,
    /// Its revision: 64 hex digits.
    pub revision: String,
    /// Who has paused it and when; none if it runs.
    pub paused: Option<(String, Time)>,
}

impl ReplicaDesk {
    /// Opens a connection for the replica with this id; `heard` rings when there is something to look at.
    pub async fn open(pool: &Pool, id: Uuid, heard: Option<Arc<Notify>>) -> Result<Self, Unavailable> {
        // A heartbeat that a crash of the server loses is no loss.
        let listen = if heard.is_some() { LOOK } else { "tidemill_nobody" };
        let setup = format!(
            "SET application_name = 'tidemill replica'; SET statement_timeout = '3s'; SET synchronous_commit = off; LISTEN {listen}"
        );
        let client = pool.dedicated_hearing(&setup, heard).await?;
        let prepared = future::try_join5(
            client.prepare(BEAT),
            client.prepare(TO_DO),
            client.prepare(ACTIVE),
            client.prepare(LOADED),
            client.prepare(VOTE),
        );
        let (beat, look, active, loaded, vote) = in_time(prepared).await?;
        let statements = Statements { beat, look, active, loaded, vote };
        Ok(Self { client, id, statements })
    }

    /// Whether the connection is lost.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Makes the replica known, or known again, and returns the version of the fleet. From then on no deploy goes on without it as long as
    /// its heart beats.
    pub async fn register(&self, host: &str, pid: i32, program: &str) -> Result<i64, Unavailable> {
        // Behind a switch that is under way, or before it: never beside.
        let sql = "WITH fleet AS MATERIALIZED (SELECT version FROM tidemill.fleet FOR KEY SHARE), \
                        swept AS (DELETE FROM tidemill.replicas WHERE beat_at < clock_timestamp() - interval '10 min') \
                   INSERT INTO tidemill.replicas AS r (id, host, pid, program) SELECT $1::uuid, $2::text, $3::int4, $4::text FROM fleet \
                   ON CONFLICT (id) DO UPDATE SET beat_at = clock_timestamp(), loaded = NULL, ready = false RETURNING (SELECT version FROM fleet)";
        Ok(in_time(self.client.query_one(sql, &[&self.id, &host, &pid, &program])).await?.get(0))
    }

    /// The heartbeat, and the version of the fleet; none if the replica is not known, or dead to the others.
    pub async fn beat(&self) -> Result<Option<i64>, Unavailable> {
        let row = in_time(self.client.query_opt(&self.statements.beat, &[&self.id])).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// What there is to do.
    pub async fn look(&self) -> Result<Look, Unavailable> {
        let row = in_time(self.client.query_one(&self.statements.look, &[])).await?;
        let candidate = row.get::<_, Option<i64>>(1).map(|id| Candidate { id, revisions: row.get(2) });
        Ok(Look { version: row.get(0), candidate })
    }

    /// What is active, and the version of the fleet that this is.
    pub async fn active(&self) -> Result<(i64, Vec<Pointer>), Unavailable> {
        let rows = in_time(self.client.query(&self.statements.active, &[])).await?;
        let version = rows.first().map_or(0, |row| row.get(0));
        let pointers = rows.iter().filter_map(|row| {
            let paused = (row.get::<_, Option<&str>>(3)? == "paused")
                .then(|| (row.get(4), Time::from_column(row.get::<_, SystemTime>(5))));
            Some(Pointer { handler: row.get(1), revision: row.get(2), paused })
        });
        Ok((version, pointers.collect()))
    }

    /// Says that this version is loaded, and whether requests may come.
    pub async fn loaded(&self, version: i64, ready: bool) -> Result<(), Unavailable> {
        self.execute(&self.statements.loaded, &[&self.id, &version, &ready, &HEARD]).await.map(drop)
    }

    /// Says why what is active cannot be loaded.
    pub async fn trouble(&self, reason: &str) -> Result<(), Unavailable> {
        let sql = "UPDATE tidemill.replicas SET trouble = $2 WHERE id = $1";
        self.execute(sql, &[&self.id, &reason]).await.map(drop)
    }

    /// Says what came of a candidate.
    pub async fn vote(&self, candidate: i64, refused: Option<&str>) -> Result<(), Unavailable> {
        let said: [&(dyn ToSql + Sync); 5] = [&candidate, &self.id, &refused.is_none(), &refused, &HEARD];
        self.execute(&self.statements.vote, &said).await.map(drop)
    }

    /// Takes the replica out of the fleet: nobody waits for it any more.
    pub async fn deregister(&self) -> Result<(), Unavailable> {
        let sql = "WITH gone AS (DELETE FROM tidemill.replicas WHERE id = $1 RETURNING 1) SELECT pg_notify($2, '') FROM gone";
        self.execute(sql, &[&self.id, &HEARD]).await.map(drop)
    }

    async fn execute(&self, sql: &(impl ToStatement + ?Sized), params: &[&(dyn ToSql + Sync)]) -> Result<u64, Unavailable> {
        in_time(self.client.execute(sql, params)).await
    }
}

async fn in_time<T>(asked: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Unavailable> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(failed),
        Err(_) => Err(Unavailable(format!("PostgreSQL did not answer within {PATIENCE:?}"))),
    }
}

impl std::fmt::Debug for ReplicaDesk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaDesk").field("id", &self.id).finish_non_exhaustive()
    }
}
