//! Records that no broker brings: handed over as one batch of a partition, run to the end, and each with its outcome. For tests of handlers.
//!
//! The way is a worker's: the inbox, one transaction, and cutting a batch that fails down to the event at fault. Only what comes after a failure
//! is left out: nothing is kept of an event that fails, so it can be delivered again at once.

use super::runner::{Cut, Runner, Work, wants};
use super::solve::{Part, cut};
use super::{Group, KafkaTrigger};
use crate::engine::{Failure, Fence, Handler};
use crate::store::fleet::Term;
use crate::store::{Consumer, InboxDays, Record, Scopes};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio::sync::Mutex;

/// What became of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivered {
    /// Handled now, and committed.
    Handled,
    /// Handled before.
    Duplicate,
    /// Of a type that the manifest does not ask for.
    Skipped,
    /// Not run, since an earlier one of its key would wait for a retry.
    Waiting,
    /// It failed, alone.
    Failed {
        /// What went wrong.
        reason: String,
        /// Whether it would be tried again; otherwise it would be a dead letter.
        again: bool,
    },
}

/// Delivers to the active handlers, one batch at a time.
#[derive(Debug)]
pub struct Delivery {
    runner: Runner,
    scopes: Scopes,
    days: InboxDays,
    /// The next offset of each topic.
    offsets: Mutex<HashMap<String, i64>>,
}

impl Delivery {
    /// To the handlers of this trigger's registry. Its brokers are never asked.
    pub fn new(trigger: KafkaTrigger) -> Self {
        let (scopes, days) = (Scopes::new(trigger.engine.pool().clone()), trigger.days.clone());
        Self { runner: Runner::new(trigger), scopes, days, offsets: Mutex::default() }
    }

    /// Hands over records of one partition; where several handlers read the topic, `handler` says whose they are. Their place and time are set
    /// here. An error is a fault of the host's own parts, or nobody reads the topic.
    pub async fn deliver(&self, handler: Option<&str>, topic: &str, records: Vec<Record>) -> Result<Vec<Delivered>, String> {
        // Held to the end: what the inbox knows must not change under a batch.
        let mut offsets = self.offsets.lock().await;
        let group = self.reader(handler, topic)?;
        let mut batch = self.open(&group).await?;
        let first = offsets.entry(topic.to_owned()).or_default();
        batch.first = *first;
        let payload = self.runner.payload(topic);
        let timestamp = jiff::Timestamp::now().as_millisecond();
        let mut works = Vec::new();
        for record in records {
            let record = Arc::new(Record { topic: topic.into(), partition: 0, offset: *first, timestamp, ..record });
            *first += 1;
            match Work::decode(record, payload) {
                Ok(work) if batch.wants(&work) => {
                    works.push(work);
                    batch.outcomes.push(None);
                }
                Ok(_) => batch.outcomes.push(Some(Delivered::Skipped)),
                Err(reason) => {
                    let reason = format!("the record is no event: {reason}");
                    batch.outcomes.push(Some(Delivered::Failed { reason, again: false }));
                }
            }
        }
        let most = usize::try_from(batch.handler.manifest.limits.batch).unwrap_or(usize::MAX).max(1);
        while !works.is_empty() {
            let rest = works.split_off(works.len().min(most));
            batch.solve(&self.runner, std::mem::replace(&mut works, rest)).await?;
        }
        // Every record has an outcome by now.
        Ok(batch.outcomes.into_iter().flatten().collect())
    }

    fn reader(&self, handler: Option<&str>, topic: &str) -> Result<Group, String> {
        let groups = self.runner.trigger.groups();
        let reads = |group: &&Group| group.topics.contains_key(topic) && handler.is_none_or(|name| *group.handler == *name);
        let mut readers = groups.values().filter(reads);
        let group = readers.next().ok_or_else(|| {
            let read: Vec<String> = groups
                .values()
                .flat_map(|group| group.topics.keys().map(|topic| format!("`{}` reads `{topic}`", group.handler)))
                .collect();
            let who = handler.map_or("no handler".to_owned(), |name| format!("handler `{name}` does not read, or no handler"));
            format!(
                "{who} reads topic `{topic}` here; {}",
                if read.is_empty() { "none reads any".to_owned() } else { read.join(", ") }
            )
        })?;
        match readers.next() {
            Some(other) => Err(format!(
                "topic `{topic}` is read by `{}` and by `{}`: say which one (`deliver_to`)",
                group.handler, other.handler
            )),
            None => Ok(group.clone()),
        }
    }

    async fn open(&self, group: &Group) -> Result<OpenBatch, String> {
        let term = self.runner.trigger.engine.term().map_err(|failure| failure.to_string())?;
        let handler = self.runner.trigger.registry.handler(&group.handler);
        let handler = handler.ok_or_else(|| format!("handler `{}` is not active", group.handler))?;
        let away = |error: crate::store::Unavailable| error.0;
        self.days.prepare(InboxDays::today(), InboxDays::today() + 1).await.map_err(away)?;
        self.scopes.ensure(&[&*group.name], &[&*group.handler]).await.map_err(away)?;
        let (generations, _) = self.scopes.live(&[&*group.name]).await.map_err(away)?;
        let scope = generations.first().ok_or_else(|| format!("group `{}` has no generation", group.name))?.scope;
        let known = self.scopes.handled(scope).await.map_err(away)?;
        let consumer = Consumer { scope, group: group.name.clone(), handler: group.handler.clone() };
        Ok(OpenBatch { term, handler, consumer, known, held: HashSet::new(), first: 0, outcomes: Vec::new() })
    }
}

/// A delivery under way.
struct OpenBatch {
    /// From before the handler was looked up.
    term: Term,
    handler: Arc<Handler>,
    consumer: Consumer,
    /// What the inbox knows.
    known: HashSet<(String, String)>,
    /// Keys with an event that would be tried again.
    held: HashSet<Vec<u8>>,
    /// The offset of the first record.
    first: i64,
    outcomes: Vec<Option<Delivered>>,
}

impl OpenBatch {
    async fn solve(&mut self, runner: &Runner, works: Vec<Work>) -> Result<(), String> {
        let mut parts = VecDeque::from([Part::whole(works)]);
        while let Some(Part { works, .. }) = parts.pop_front() {
            let (works, waiting): (Vec<Work>, Vec<Work>) = works.into_iter().partition(|work| !self.is_held(work));
            waiting.iter().for_each(|work| self.note(work, Delivered::Waiting));
            match runner.invoke((self.term, &self.handler), &self.consumer, Fence::Inbox, &works, (false, &Cut::new())).await {
                _ if works.is_empty() => {}
                Ok(_) => works.iter().for_each(|work| self.done(work)),
                Err(failure) if failure.is_host_fault() => return Err(failure.to_string()),
                Err(failure) if works.len() == 1 => works.iter().for_each(|work| self.failed(runner, work, &failure)),
                Err(failure) => cut(works, &failure).into_iter().rev().for_each(|part| parts.push_front(part)),
            }
        }
        Ok(())
    }

    fn wants(&self, work: &Work) -> bool {
        wants(&self.handler, &self.consumer.group, &work.record.topic)(work.event_type())
    }

    fn is_held(&self, work: &Work) -> bool {
        work.record.key.as_ref().is_some_and(|key| self.held.contains(&**key))
    }

    fn done(&mut self, work: &Work) {
        let new = self.known.insert((work.identity.source.to_string(), work.identity.id.to_string()));
        self.note(work, if new { Delivered::Handled } else { Delivered::Duplicate });
    }

    fn failed(&mut self, runner: &Runner, work: &Work, failure: &Failure) {
        let again = !runner.attempt(&self.handler, failure, 1).exhausted;
        if again {
            self.held.extend(work.record.key.as_deref().map(<[u8]>::to_vec));
        }
        self.note(work, Delivered::Failed { reason: failure.to_string(), again });
    }

    fn note(&mut self, work: &Work, outcome: Delivered) {
        let position = usize::try_from(work.record.offset - self.first).unwrap_or(usize::MAX);
        if let Some(place) = self.outcomes.get_mut(position) {
            *place = Some(outcome);
        }
    }
}
