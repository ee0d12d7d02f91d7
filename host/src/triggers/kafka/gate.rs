//! The circuit breaker for faults of the host's own parts: when the database is away, every consumer waits here while one task asks
//! whether it is back. Such a fault is nobody's attempt (promise 8).

use crate::store::Pool;
use crate::store::fleet::Pulse;
use crate::telemetry::Board;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const NOTE: &str = "consumers";

/// Open or shut, for all consumers of the process. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    shut: Arc<watch::Sender<bool>>,
    pool: Pool,
    board: Arc<Board>,
    pulse: Arc<Pulse>,
}

impl Gate {
    pub(super) fn new(pool: Pool, board: Arc<Board>, pulse: Arc<Pulse>) -> Self {
        Self { shut: Arc::new(watch::Sender::new(false)), pool, board, pulse }
    }

    /// Waits until the gate is open, and until this replica's heartbeat is in time.
    pub(super) async fn pass(&self) {
        self.pulse.alive().await;
        // The sender lives as long as the gate.
        let _ = self.shut.subscribe().wait_for(|shut| !*shut).await;
    }

    /// A fault was met: shuts the gate, and opens it when the database answers. At once if it does already (a deadlock, for instance).
    pub(super) fn fault(&self, reason: &str) {
        if self.shut.send_replace(true) {
            return;
        }
        let (gate, reason) = (self.clone(), reason.to_owned());
        tokio::spawn(async move {
            let mut wait = FIRST_WAIT;
            let mut noted = false;
            while let Err(error) = gate.pool.check().await {
                if !noted {
                    tracing::warn!(%error, reason, "the consumers wait for the database; nothing is lost and no attempt is used up");
                    gate.board.note(NOTE, format!("the consumers wait for the database: {error}"));
                    noted = true;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST_WAIT);
            }
            if noted {
                tracing::info!("the database is back; the consumers go on");
                gate.board.clear(NOTE);
            }
            gate.shut.send_replace(false);
        });
    }
}
