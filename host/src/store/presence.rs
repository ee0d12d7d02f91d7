//! Which processes are alive: each holds a session lock under its name for as long as it has a connection. Whether a run ended with its
//! process, or only with a connection or a rebalance, is read from that; nothing else depends on it.

use super::Pool;
use super::error::{Unavailable, describe};
use std::time::Duration;
use tokio_postgres::Client;
use uuid::Uuid;

/// The class of the session locks (`pg_advisory_lock(7006, hashtext(owner))`).
const HOLD: &str = "SELECT pg_try_advisory_lock_shared(7006, hashtext($1))";

/// An SQL condition: the process named by this expression (a uuid) is gone.
macro_rules! gone {
    ($owner:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM pg_catalog.pg_locks l WHERE l.locktype = 'advisory' AND l.classid = 7006 \
             AND l.objid::int8 = (hashtext(",
            $owner,
            "::text)::int8 & 4294967295) AND l.granted \
             AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()))"
        )
    };
}
pub(super) use gone;

/// How often a process looks whether it still has its connection.
const LOOK: Duration = Duration::from_secs(1);

/// A process's sign of life.
#[derive(Debug, Clone)]
pub struct Presence {
    pool: Pool,
    owner: Uuid,
}

impl Presence {
    /// The sign of life of the process with this name.
    pub fn new(pool: Pool, owner: Uuid) -> Self {
        Self { pool, owner }
    }

    /// Holds the lock for ever, that is, for as long as the process lives: work under way at its end is still its own. A lost connection is
    /// made again.
    pub async fn hold(self) {
        let mut held: Option<Client> = None;
        loop {
            if held.as_ref().is_none_or(Client::is_closed) {
                held = self.held().await.ok();
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn held(&self) -> Result<Client, Unavailable> {
        let client = self.pool.dedicated("SET application_name = 'tidemill presence'").await?;
        client.query_one(HOLD, &[&self.owner.to_string()]).await.map_err(|error| Unavailable(describe(&error)))?;
        Ok(client)
    }
}
