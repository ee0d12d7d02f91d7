//! What operators are shown of the fleet.

use super::super::Pool;
use super::super::error::Unavailable;
use super::super::operate::Time;
use super::{alive, failed};
use serde::Serialize;
use std::time::SystemTime;
use tokio_postgres::{Client, Row};

/// What is deployed and which hosts run.
#[derive(Debug, Clone, Serialize)]
pub struct FleetView {
    /// Counts every change of what is active.
    pub version: i64,
    /// The handlers, by name.
    pub handlers: Vec<DeployedHandler>,
    /// The running hosts, oldest first; and those that ended without a word, for some minutes.
    pub replicas: Vec<Replica>,
    /// The deploy that is under way.
    pub candidate: Option<UnderWay>,
}

/// A handler that is deployed.
#[derive(Debug, Clone, Serialize)]
pub struct DeployedHandler {
    /// Its name.
    pub handler: String,
    /// Its app.
    pub app: String,
    /// Its revision: 64 hex digits.
    pub revision: String,
    /// `active` or `paused`.
    pub state: String,
    /// Since when that is so.
    pub since: Time,
    /// Who did it.
    pub by: String,
    /// What they said of it.
    pub note: Option<String>,
}

/// A running host.
#[derive(Debug, Clone, Serialize)]
pub struct Replica {
    /// Its id.
    pub id: String,
    /// Its machine.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// The program's version.
    pub program: String,
    /// When it started.
    pub started_at: Time,
    /// How old its last heartbeat is, in milliseconds.
    pub beat_age_ms: i64,
    /// Whether others wait for it.
    pub alive: bool,
    /// The version of the fleet that it works by.
    pub loaded: Option<i64>,
    /// Whether it takes requests.
    pub ready: bool,
    /// Why it can't load what is active.
    pub trouble: Option<String>,
}

/// A deploy that is under way.
#[derive(Debug, Clone, Serialize)]
pub struct UnderWay {
    /// Its number.
    pub id: i64,
    /// `deploy` or `rollback`.
    pub action: String,
    /// The handlers.
    pub handlers: Vec<String>,
    /// Their revisions.
    pub revisions: Vec<String>,
    /// Who.
    pub by: String,
    /// Since when.
    pub since: Time,
}

/// A revision in a list.
#[derive(Debug, Clone, Serialize)]
pub struct RevisionEntry {
    /// Its name: 64 hex digits.
    pub revision: String,
    /// The handler.
    pub handler: String,
    /// `active` or `paused`, if it is what the handler runs.
    pub state: Option<String>,
    /// Bytes of all of it.
    pub size: i64,
    /// When it was first deployed.
    pub created_at: Time,
    /// By whom.
    pub created_by: String,
    /// What they said of it.
    pub note: Option<String>,
    /// When it became active last.
    pub active_at: Option<Time>,
}

fn time(row: &Row, column: &str) -> Time {
    Time::from_column(row.get::<_, SystemTime>(column))
}

/// All replicas that are known.
pub(super) async fn replicas(client: &Client) -> Result<Vec<Replica>, Unavailable> {
    let sql = concat!(
        "SELECT r.id::text, r.host, r.pid, r.program, r.started_at, r.loaded, r.ready, r.trouble, ",
        alive!(),
        " AS alive, (extract(epoch FROM clock_timestamp() - r.beat_at) * 1000)::int8 AS age FROM tidemill.replicas r ORDER BY r.started_at, r.id"
    );
    let replica = |row: &Row| Replica {
        id: row.get("id"),
        host: row.get("host"),
        pid: row.get("pid"),
        program: row.get("program"),
        started_at: time(row, "started_at"),
        beat_age_ms: row.get("age"),
        alive: row.get("alive"),
        loaded: row.get("loaded"),
        ready: row.get("ready"),
        trouble: row.get("trouble"),
    };
    Ok(client.query(sql, &[]).await.map_err(failed)?.iter().map(replica).collect())
}

impl FleetView {
    /// Looks.
    pub async fn read(pool: &Pool) -> Result<Self, Unavailable> {
        let client = pool.dedicated("SET statement_timeout = '30s'; SET application_name = 'tidemill operate'").await?;
        let handlers = "SELECT a.handler, v.app, a.revision, a.state, a.since, a.changed_by, coalesce(a.note, v.note) AS note \
                        FROM tidemill.active a JOIN tidemill.revisions v USING (revision) ORDER BY a.handler";
        // One whose deploy has died is not under way any more; the next one clears it away.
        let candidate = "SELECT id, action, handlers, revisions, actor, created_at FROM tidemill.candidates WHERE state = 'preparing' \
             AND EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND classid = 7010 AND objid = 0 AND granted \
                 AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))";
        let version = client.query_one("SELECT version FROM tidemill.fleet", &[]).await.map_err(failed)?.get(0);
        let handlers = client.query(handlers, &[]).await.map_err(failed)?;
        let candidate = client.query_opt(candidate, &[]).await.map_err(failed)?;
        Ok(Self {
            version,
            handlers: handlers.iter().map(deployed).collect(),
            replicas: replicas(&client).await?,
            candidate: candidate.map(|row| UnderWay {
                id: row.get("id"),
                action: row.get("action"),
                handlers: row.get("handlers"),
                revisions: row.get("revisions"),
                by: row.get("actor"),
                since: time(&row, "created_at"),
            }),
        })
    }
}

fn deployed(row: &Row) -> DeployedHandler {
    DeployedHandler {
        handler: row.get("handler"),
        app: row.get("app"),
        revision: row.get("revision"),
        state: row.get("state"),
        since: time(row, "since"),
        by: row.get("changed_by"),
        note: row.get("note"),
    }
}

impl RevisionEntry {
    /// The revisions of a handler, the newest first; those of all handlers if none is named. Only those whose names begin with `prefix`.
    pub async fn list(pool: &Pool, handler: Option<&str>, prefix: &str) -> Result<Vec<Self>, Unavailable> {
        let client = pool.dedicated("SET statement_timeout = '30s'; SET application_name = 'tidemill operate'").await?;
        let sql = "SELECT v.revision, v.handler, a.state, v.size, v.created_at, v.created_by, v.note, s.active_at \
                   FROM tidemill.revisions v LEFT JOIN tidemill.active a USING (handler, revision) \
                   LEFT JOIN (SELECT handler, to_revision AS revision, max(at) AS active_at FROM tidemill.switches \
                              WHERE from_revision IS DISTINCT FROM to_revision GROUP BY 1, 2) s USING (handler, revision) \
                   WHERE ($1::text IS NULL OR v.handler = $1) AND starts_with(v.revision, $2) ORDER BY v.created_at DESC, v.revision";
        let entry = |row: &Row| Self {
            revision: row.get("revision"),
            handler: row.get("handler"),
            state: row.get("state"),
            size: row.get("size"),
            created_at: time(row, "created_at"),
            created_by: row.get("created_by"),
            note: row.get("note"),
            active_at: row.get::<_, Option<SystemTime>>("active_at").map(Time::from_column),
        };
        Ok(client.query(sql, &[&handler, &prefix]).await.map_err(failed)?.iter().map(entry).collect())
    }
}
