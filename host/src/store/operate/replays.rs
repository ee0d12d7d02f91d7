//! What became of replays that were ordered.

use super::{APPLICATION, OperateError, Session};

/// A dead letter some time after its replay was queued.
#[derive(Debug, Clone)]
pub struct ReplayState {
    /// The dead letter.
    pub id: i64,
    /// `dead`, `replayed` or `discarded`.
    pub state: String,
    /// How often a replay was tried and failed.
    pub replays: i32,
    /// The class of its error.
    pub error_class: String,
    /// The message of its error.
    pub error: String,
    /// Whether the replay still waits, and how: `ready`, `scheduled`, `running` or `behind`.
    pub waits: Option<String>,
}

impl Session {
    /// How these dead letters are now.
    pub async fn replay_states(&self, ids: &[i64]) -> Result<Vec<ReplayState>, OperateError> {
        let sql = "SELECT d.id, d.state, d.replays, d.error_class, d.error, \
                          CASE WHEN w.id IS NULL THEN NULL WHEN w.due IS NULL THEN 'behind' WHEN w.due <= clock_timestamp() THEN 'ready' \
                               WHEN w.claim IS NULL THEN 'scheduled' ELSE 'running' END \
                     FROM tidemill.dead_letters d LEFT JOIN tidemill.waiting w ON w.dead_letter = d.id \
                    WHERE d.id = ANY($1) ORDER BY d.id";
        let rows = self.client.query(sql, &[&ids]).await?;
        let state = |row: &tokio_postgres::Row| ReplayState {
            id: row.get(0),
            state: row.get(1),
            replays: row.get(2),
            error_class: row.get(3),
            error: row.get(4),
            waits: row.get(5),
        };
        Ok(rows.iter().map(state).collect())
    }

    /// Whether a host is connected to this database: a session of the same login that is no operator's.
    pub async fn a_host_is_there(&self) -> Result<bool, OperateError> {
        let sql = "SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity \
                    WHERE datname = current_database() AND usename = session_user AND application_name <> $1)";
        Ok(self.client.query_one(sql, &[&APPLICATION]).await?.get(0))
    }
}
