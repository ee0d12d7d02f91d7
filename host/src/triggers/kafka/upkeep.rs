//! The inbox's days: made ahead of time, and forgotten when no topic that is read can still hold a record of them.
//!
//! A topic is read by whoever has begun to, until that generation of its group is retired: a handler that rests, or is not deployed at the moment,
//! goes on where it was. So the database is asked as well as the active handlers, and nothing is forgotten before those are known.

use super::KafkaTrigger;
use crate::config::KafkaAccess;
use crate::engine::Registry;
use crate::kafka::{Retention, longest_retention};
use crate::store::fleet::Pulse;
use crate::store::{InboxDays, Scopes, Unavailable};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

const DAY: Duration = Duration::from_secs(86_400);
/// Beyond retention: a segment is deleted when its last record is too old, and it holds a day of them; and a day for the clocks.
const SLACK: i32 = 2;
/// Days made ahead.
const AHEAD: i32 = 2;
/// Days made in one step: units wait meanwhile.
const STEP: i32 = 8;
/// Days with a partition at most; older ones share the default partition, whose rows are never forgotten.
const MOST: i32 = 400;
/// The retention of a topic that nobody declares, until the broker says another; also the days kept ready of what is kept for good.
const USUAL: Duration = Duration::from_secs(7 * 86_400);
/// How often this process looks.
const ROUND: Duration = Duration::from_secs(60);
/// How often the brokers are asked.
const ASK: Duration = Duration::from_secs(3_600);

/// Looks after the inbox's days.
pub(super) struct Upkeep {
    days: InboxDays,
    scopes: Scopes,
    registry: Arc<Registry>,
    pulse: Arc<Pulse>,
    kafka: Arc<KafkaAccess>,
    /// What the brokers said last, and when.
    known: Option<(Retention, Instant)>,
    /// The topics that this was said of.
    topics: BTreeSet<String>,
    /// Why they said nothing, as it was logged.
    silence: String,
}

impl Upkeep {
    pub(super) fn new(trigger: &KafkaTrigger) -> Self {
        Self {
            days: trigger.days.clone(),
            scopes: Scopes::new(trigger.engine.pool().clone()),
            registry: trigger.registry.clone(),
            pulse: trigger.engine.pulse().clone(),
            kafka: trigger.kafka.clone(),
            known: None,
            topics: BTreeSet::new(),
            silence: String::new(),
        }
    }

    /// Makes the days that what arrives now needs, waiting for the database; false when stopped first.
    pub(super) async fn first(&self, stop: &mut watch::Receiver<bool>) -> bool {
        while !*stop.borrow() {
            match self.ready().await {
                Ok(()) => return true,
                Err(error) => tracing::warn!(%error, "the consumers wait for the database"),
            }
            let _ = tokio::time::timeout(Duration::from_secs(1), stop.changed()).await;
        }
        false
    }

    async fn ready(&self) -> Result<(), Unavailable> {
        let today = InboxDays::today();
        self.days.prepare(today - 1, today + AHEAD).await?;
        self.days.refresh().await.map(drop)
    }

    /// Looks after the days until stopped.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut changes = self.registry.changes();
        while !*stop.borrow() {
            let loaded = self.pulse.term().is_ok();
            let wait = match self.round(loaded).await {
                Ok(()) => ROUND,
                Err(error) => {
                    tracing::warn!(%error, "the inbox's days cannot be looked after; trying again");
                    Duration::from_secs(5)
                }
            };
            // Other handlers may read topics that keep their records for longer.
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.pulse.alive(), if !loaded => {}
                _ = changes.changed() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Makes days and forgets some; `loaded`: the registry has what is active.
    async fn round(&mut self, loaded: bool) -> Result<(), Unavailable> {
        self.ready().await?;
        match loaded {
            true => self.ask().await?,
            false => self.known = None,
        }
        let today = InboxDays::today();
        let reach = self.reach();
        let oldest = today - reach.unwrap_or(days(USUAL)).min(MOST);
        let mut last = today - 2;
        while last >= oldest {
            let first = (last - STEP + 1).max(oldest);
            self.days.prepare(first, last).await?;
            last = first - 1;
        }
        // Without the brokers' word nothing is forgotten: a topic may keep its records longer than its declaration says.
        if let (Some(reach), Some(_)) = (reach, self.known) {
            self.forget(today - reach).await;
        }
        self.days.refresh().await.map(drop)
    }

    async fn forget(&self, before: i32) {
        loop {
            match self.days.forget(before).await {
                Ok(Some(day)) => {
                    tracing::info!(day, "the inbox has forgotten a day: no topic that is read holds its records any more")
                }
                Ok(None) => return,
                Err(error) => {
                    // Units hold its locks all day; the next round has another try.
                    tracing::debug!(%error, "a day of the inbox is not forgotten yet");
                    return;
                }
            }
        }
    }

    /// How many days back records may still be read; none: all.
    fn reach(&self) -> Option<i32> {
        let declared = declared(&self.registry, &self.topics);
        match self.known {
            Some((Retention::Endless, _)) => None,
            Some((Retention::For(kept), _)) => Some(days(kept.max(declared))),
            None => Some(days(declared.max(USUAL))),
        }
    }

    async fn ask(&mut self) -> Result<(), Unavailable> {
        let mut topics = self.scopes.topics().await?;
        topics.extend(self.registry.handlers().iter().flat_map(|h| h.manifest.topics.iter().map(|t| t.name.clone())));
        if topics != self.topics {
            self.known = None;
        } else if self.known.is_some_and(|(_, asked)| asked.elapsed() < ASK) {
            return Ok(());
        }
        self.topics = topics;
        // Where nothing is read, nothing says how long to remember.
        if self.topics.is_empty() {
            return Ok(());
        }
        let names: Vec<String> = self.topics.iter().cloned().collect();
        match longest_retention(&self.kafka, &names).await {
            Ok(retention) => {
                self.known = Some((retention, Instant::now()));
                self.silence.clear();
            }
            Err(error) => self.say(error.to_string()),
        }
        Ok(())
    }

    /// Says once why no day is forgotten: a topic of a group may be gone for good, and the inbox grows meanwhile.
    fn say(&mut self, error: String) {
        if error != self.silence {
            tracing::info!(
                error,
                "it is not known how long all topics that groups have begun to read keep their records; the inbox forgets no day yet"
            );
            self.silence = error;
        }
    }
}

/// The longest retention that manifests declare for these topics.
fn declared(registry: &Registry, topics: &BTreeSet<String>) -> Duration {
    let handlers = registry.handlers();
    let declares = handlers.iter().flat_map(|h| &h.manifest.declares);
    declares.filter(|(name, _)| topics.contains(*name)).map(|(_, topic)| topic.retention).max().unwrap_or_default()
}

/// Whole days that a retention reaches back, with the slack.
fn days(retention: Duration) -> i32 {
    i32::try_from(retention.as_secs().div_ceil(DAY.as_secs())).unwrap_or(i32::MAX / 2).min(i32::MAX / 2) + SLACK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reach_is_retention_a_segment_and_a_day() {
        assert_eq!(days(Duration::ZERO), 2);
        assert_eq!(days(DAY), 3);
        assert_eq!(days(DAY + Duration::from_secs(1)), 4);
        assert_eq!(days(Duration::from_secs(7 * 86_400)), 9);
        assert!(days(Duration::MAX) > 0);
    }
}
