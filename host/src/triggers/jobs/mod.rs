//! Due jobs: one task for each replica moves them to the outbox, from where the relay sends them. There is no leader: what one replica has
//! claimed, the others step over, and whatever one leaves behind is there for all.
//!
//! - `look`: from which time on to look, and when again
//!
//! Only the database's clock decides what is due; this machine's measures nothing but how long to sleep.

mod look;

use crate::engine::JobsBell;
use crate::store::fleet::Pulse;
use crate::store::{Fired, JobsDue, Pool, Spoilt, Unavailable};
use crate::telemetry::{Board, Metrics};
use look::Look;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// Jobs fired in one transaction.
const BATCH: i32 = 1_000;
/// How often waiting jobs are counted.
const COUNT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const NOTE: &str = "jobs";

/// What fires jobs.
#[derive(Debug, Clone)]
pub struct JobsTrigger {
    /// The database.
    pub pool: Pool,
    /// Says what the units of this process schedule.
    pub bell: Arc<JobsBell>,
    /// Rung when there are rows for the relay.
    pub outbox: Arc<Notify>,
    /// Whether this replica may begin anything.
    pub pulse: Arc<Pulse>,
    /// Counts what fired.
    pub metrics: Arc<Metrics>,
    /// Says what cannot fire.
    pub board: Arc<Board>,
}

impl JobsTrigger {
    /// Fires until `stop` turns true. A database that is away is waited for: what became due meanwhile fires then.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut pause = FIRST_PAUSE;
        let mut away = false;
        while !*stop.borrow() {
            let ended = match JobsDue::open(&self.pool).await {
                Ok(due) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("the database is back; jobs fire again");
                    }
                    self.board.clear(NOTE);
                    pause = FIRST_PAUSE;
                    self.session(&due, &mut stop).await
                }
                Err(error) => Err(error),
            };
            if let Err(error) = ended {
                if !std::mem::replace(&mut away, true) {
                    tracing::warn!(%error, "no job can fire until the database is back; those that are due then fire late");
                }
                self.board.note(NOTE, format!("no job can fire: {error}"));
                let _ = tokio::time::timeout(pause, stop.changed()).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Fires on one connection until it breaks or `stop` turns true.
    async fn session(&self, due: &JobsDue, stop: &mut watch::Receiver<bool>) -> Result<(), Unavailable> {
        let mut look = Look::default();
        let mut next_count = Instant::now();
        while !*stop.borrow() {
            // A replica whose heart beats late begins nothing.
            tokio::select! {
                () = self.pulse.alive() => {}
                _ = stop.changed() => continue,
            }
            let rung = self.bell.take();
            let fired = due.fire(BATCH, look.since(Instant::now(), rung)).await?;
            let repeating = fired.next_repeating.is_some_and(|next| next <= fired.moment);
            let repeated = if repeating { self.repeat(due).await? } else { false };
            self.note(&fired.late);
            if Instant::now() >= next_count {
                self.metrics.jobs_waiting.set(due.waiting().await?);
                next_count = Instant::now() + COUNT;
            }
            let wait = look.after(&fired, repeated, BATCH as usize);
            self.bell.plan(next(&fired));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.bell.heard() => {}
                _ = stop.changed() => {}
            }
        }
        Ok(())
    }

    /// Fires repeating jobs; whether any event came of it.
    async fn repeat(&self, due: &JobsDue) -> Result<bool, Unavailable> {
        let (late, spoilt) = due.fire_repeating().await?;
        self.note(&late);
        for Spoilt { app, name, reason } in spoilt {
            tracing::error!(app, name, reason, "the next time of a job cannot be computed; it waits");
            self.board.note(
                "repeating jobs",
                format!("job `{name}` of app `{app}` waits, since its next time cannot be computed: {reason}"),
            );
        }
        Ok(!late.is_empty())
    }

    fn note(&self, late: &[f64]) {
        if late.is_empty() {
            return;
        }
        self.outbox.notify_one();
        self.metrics.jobs_fired.inc_by(late.len() as u64);
        late.iter().for_each(|late| self.metrics.jobs_lateness.observe(*late));
    }
}

/// The time of the next job of either kind.
fn next(fired: &Fired) -> Option<i64> {
    [fired.next_single, fired.next_repeating].into_iter().flatten().min()
}
