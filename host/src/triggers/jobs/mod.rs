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
use std::collections::BTreeMap;
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
const SPOILT_NOTE: &str = "repeating jobs";
/// How long a job is shown whose next time could not be computed; it is tried again each minute.
const SPOILT_SHOWN: Duration = Duration::from_secs(150);

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
        let mut spoilt = BTreeMap::new();
        while !*stop.borrow() {
            // A replica whose heart beats late begins nothing.
            tokio::select! {
                () = self.pulse.alive() => {}
                _ = stop.changed() => continue,
            }
            let rung = self.bell.take();
            let fired = due.fire(BATCH, look.since(Instant::now(), rung)).await?;
            let repeating = fired.next_repeating.is_some_and(|next| next <= fired.moment);
            let repeated = if repeating { self.repeat(due, &mut spoilt).await? } else { false };
            self.note(&fired.late);
            if Instant::now() >= next_count {
                self.metrics.jobs_waiting.set(due.waiting().await?);
                self.show(&mut spoilt);
                next_count = Instant::now() + COUNT;
            }
            let wait = look.after(&fired, repeated);
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
    async fn repeat(&self, due: &JobsDue, spoilt: &mut SpoiltJobs) -> Result<bool, Unavailable> {
        let (late, found) = due.fire_repeating().await?;
        self.note(&late);
        for Spoilt { app, name, reason } in found {
            tracing::error!(app, name, reason, "the next time of a job cannot be computed; it waits");
            let words = format!("job `{name}` of app `{app}` waits, since its next time cannot be computed: {reason}");
            spoilt.insert((app, name), (words, Instant::now()));
        }
        self.show(spoilt);
        Ok(!late.is_empty())
    }

    /// Shows the jobs that were found spoilt of late; who was mended or cancelled is not found again.
    fn show(&self, spoilt: &mut SpoiltJobs) {
        spoilt.retain(|_, (_, found)| found.elapsed() < SPOILT_SHOWN);
        match spoilt.is_empty() {
            true => self.board.clear(SPOILT_NOTE),
            false => {
                let words: Vec<&str> = spoilt.values().map(|(words, _)| words.as_str()).collect();
                self.board.note(SPOILT_NOTE, words.join("; "));
            }
        }
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

/// Apps and names of jobs whose next time could not be computed, with what is said of each and when it was found.
type SpoiltJobs = BTreeMap<(String, String), (String, Instant)>;

/// The time of the next job of either kind.
fn next(fired: &Fired) -> Option<i64> {
    [fired.next_single, fired.next_repeating].into_iter().flatten().min()
}
