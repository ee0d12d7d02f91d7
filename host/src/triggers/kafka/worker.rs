//! The worker of one partition: batches in offset order, one at a time. An event that fails is written down and waits in the database, or is a
//! dead letter; the partition goes on. Only faults of the host's own parts, and an open breaker, make it wait.
//!
//! A batch is whatever has been read meanwhile, up to the limit `batch`: one event where the consumer keeps up, hundreds where it is behind.

use super::Group;
use super::breaker::Turn;
use super::care::Care;
use super::cloudevent;
use super::queue::Queue;
use super::record::Arrived;
use super::runner::{Cut, Runner, Work, subscription, wants};
use super::solve::{Part, Pieces, cut as parts_of, halves};
use crate::engine::{Failure, Fence, Handler};
use crate::store::fleet::Term;
use crate::store::{Attempt, Consumer, Parked, Place, Record, Unavailable};
use crate::telemetry::{PartitionLabels, PausedPartition};
use std::sync::Arc;
use std::time::Duration;

/// A batch is at most this large, so that it fits into a guest's memory several times over.
const BATCH_BYTES: usize = 4 << 20;
/// How many events a probe of an open breaker tries.
const PROBE: usize = 10;
/// An event that was running when so many processes ended is given up.
pub(super) const DEATHS: i32 = 3;
/// How long others believe that a group has stopped; longer than two probes are apart.
const STOPPED: Duration = Duration::from_secs(150);
const FIRST_DELAY: Duration = Duration::from_millis(50);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// How long to wait for a revision that reads the topic; the consumer usually ends before that.
const RESTING: Duration = Duration::from_secs(1);

pub(super) struct Worker {
    pub(super) runner: Arc<Runner>,
    pub(super) consumer: Consumer,
    pub(super) place: Place,
    group: Arc<Group>,
    queue: Arc<Queue>,
    cut: Cut,
    labels: PartitionLabels,
    failures: u32,
    failing_since: String,
}

/// The partition is another's now, or the host stops.
pub(super) struct Closed;

impl Worker {
    pub(super) fn new(runner: Arc<Runner>, group: Arc<Group>, consumer: Consumer, queue: Arc<Queue>, cut: Cut) -> Self {
        let labels = PartitionLabels { group: group.id.to_string(), topic: queue.topic.to_string(), partition: queue.partition };
        let place = Place { scope: consumer.scope, topic: queue.topic.to_string(), partition: queue.partition };
        Self { runner, group, consumer, place, queue, cut, labels, failures: 0, failing_since: String::new() }
    }

    /// Works until the queue is closed. What is under way at that moment is finished, or rolls back.
    pub(super) async fn run(mut self) {
        let Ok(mut care) = self.take().await else { return };
        let breaker = self.runner.breaker(&self.consumer.group);
        breaker.enter();
        while let Some(records) = self.queue.take(self.batch_limit(), BATCH_BYTES).await {
            if self.step(records, &mut care).await.is_err() {
                break;
            }
        }
        if let Some(revision) = breaker.leave(&self.runner.trigger.board) {
            self.tell(&revision, false).await;
        }
        self.off_the_board();
        // Not in order if this fails: the next owner only works with care for a while.
        let _ = self.runner.running.leave(&self.place).await;
    }

    async fn take(&mut self) -> Result<Care, Closed> {
        let found = loop {
            match self.runner.running.take(&self.place).await {
                Ok(found) => break found,
                Err(error) => self.host_fault(0, &error.to_string()).await?,
            }
        };
        Ok(Care::after(found, self.batch_limit()))
    }

    fn batch_limit(&self) -> usize {
        let handler = self.runner.trigger.registry.handler(&self.group.handler);
        handler.map_or(1, |handler| usize::try_from(handler.manifest.limits.batch).unwrap_or(1))
    }

    /// Handles what was read, and notes the offset behind it: every record is done then, or waits, or is a dead letter.
    async fn step(&mut self, records: Vec<Arrived>, care: &mut Care) -> Result<(), Closed> {
        let Some(last) = records.last().map(|arrived| arrived.record.offset) else { return Ok(()) };
        // Of records that were read after others went on without this replica, only the revision that is active by then may skip any.
        self.pass().await?;
        let payload = self.runner.payload(&self.place.topic);
        let handler = self.handler();
        let wants = handler.as_ref().map(|handler| self.wants(handler));
        let mut works = Vec::with_capacity(records.len());
        let (mut skipped, mut expired) = (0, 0);
        for arrived in records {
            let record = arrived.record.clone();
            if self.runner.trigger.days.expired(record.timestamp) {
                expired += 1;
                continue;
            }
            match arrived.work(payload) {
                Ok(work) if wants.as_ref().is_none_or(|wants| wants(work.event_type())) => works.push(work),
                Ok(_) => skipped += 1,
                Err(reason) => self.no_event(record, reason).await?,
            }
        }
        self.runner.trigger.metrics.events_skipped.get_or_create(&self.labels).inc_by(skipped);
        self.runner.trigger.report_expired(&self.labels, expired);
        let careful = care.share(self, &mut works).await?;
        for work in careful {
            care.run(self, work).await?;
        }
        if !works.is_empty() {
            self.solve(Part::whole(works)).await?;
        }
        self.succeeded();
        self.queue.store(last + 1);
        Ok(())
    }

    /// Leaves out the events that the inbox knows.
    pub(super) async fn leave_out_done(&mut self, works: &mut Vec<Work>) -> Result<(), Closed> {
        let Some(first) = works.first().map(|work| work.record.offset) else { return Ok(()) };
        let done = loop {
            let identities: Vec<_> = works.iter().map(|work| &work.identity).collect();
            match self.runner.running.done(&self.place, &identities).await {
                Ok(done) => break done,
                Err(error) => self.host_fault(first, &error.to_string()).await?,
            }
        };
        self.runner.trigger.metrics.events_duplicate.get_or_create(&self.labels).inc_by(done.len() as u64);
        let mut position = 0..;
        works.retain(|_| position.next().is_none_or(|position| !done.contains(&position)));
        Ok(())
    }

    /// The active revision, if it reads this topic in this group. Another one may have moved on; then this worker ends soon.
    fn handler(&self) -> Option<Arc<Handler>> {
        let handler = self.runner.trigger.registry.handler(&self.group.handler)?;
        subscription(&handler, &self.group.name, &self.place.topic).is_some().then_some(handler)
    }

    /// Leaves out what a revision does not ask for.
    fn skip(&self, handler: &Handler, works: &mut Vec<Work>) {
        let (wants, read) = (self.wants(handler), works.len());
        works.retain(|work| wants(work.event_type()));
        self.runner.trigger.metrics.events_skipped.get_or_create(&self.labels).inc_by((read - works.len()) as u64);
    }

    fn wants<'h>(&self, handler: &'h Handler) -> impl Fn(&str) -> bool + use<'h> {
        wants(handler, &self.group.name, &self.place.topic)
    }

    /// Waits until the database can be reached and this replica's heartbeat is in time.
    async fn pass(&self) -> Result<(), Closed> {
        tokio::select! {
            () = self.runner.gate.pass() => {}
            () = self.queue.closed() => {}
        }
        match self.queue.is_closed() {
            true => Err(Closed),
            false => Ok(()),
        }
    }

    /// Bytes that are no event are a dead letter at first sight; they have no place in any order.
    async fn no_event(&mut self, record: Arc<Record>, reason: String) -> Result<(), Closed> {
        let parked = Parked { identity: cloudevent::identity_of(&record), record, type_: String::new() };
        self.give_up(&parked, "not-an-event", format!("the record is no event: {reason}")).await
    }

    /// Makes an event a dead letter that no handler has failed.
    pub(super) async fn give_up(&mut self, parked: &Parked, class: &'static str, reason: String) -> Result<(), Closed> {
        let revision = self.runner.trigger.registry.handler(&self.group.handler).map(|handler| handler.revision.to_string());
        self.write_down(parked, &Attempt::last(class, reason, revision.unwrap_or_default())).await
    }

    /// Runs a part of a batch to the end, cutting it where it fails.
    pub(super) async fn solve(&mut self, part: Part) -> Result<(), Closed> {
        // On the heap, not on the stack: a handler that names one event at a time cuts a batch as often as it has events.
        let mut cuts = vec![Pieces::of(vec![part])];
        while let Some(pieces) = cuts.last_mut() {
            let Some(Part { mut works, suspect }) = pieces.next() else {
                cuts.pop();
                continue;
            };
            if suspect && works.len() > 1 {
                pieces.failed = true;
                cuts.push(Pieces::of(halves(works)));
                continue;
            }
            let behind = cuts.iter().rev().flat_map(Pieces::works).take(PROBE).cloned().collect();
            let Err((handler, failure)) = self.attempt(&mut works, behind).await? else { continue };
            if let Some(pieces) = cuts.last_mut() {
                pieces.failed = true;
            }
            match (works.len(), works.pop()) {
                (1, Some(work)) => {
                    let again = self.failed(work, &handler, &failure).await?;
                    if let (Some(pieces), Some(again)) = (cuts.last_mut(), again) {
                        pieces.parts.push_front(Part::whole(vec![again]));
                    }
                }
                (_, last) => {
                    works.extend(last);
                    cuts.push(Pieces::of(parts_of(works, &failure)));
                }
            }
        }
        Ok(())
    }

    /// Runs the handler until there is an outcome that is its own. `behind`: the next events of the batch.
    async fn attempt(&mut self, works: &mut Vec<Work>, behind: Vec<Work>) -> Result<Result<(), (Arc<Handler>, Failure)>, Closed> {
        loop {
            let offset = works.first().map_or(0, |work| work.record.offset);
            let (term, handler) = self.ready(works, &behind).await?;
            // It may be another revision than when they were read.
            self.skip(&handler, works);
            if works.is_empty() {
                return Ok(Ok(()));
            }
            let invoked = self.runner.invoke((term, &handler), &self.consumer, Fence::Inbox, works, (false, &self.cut));
            match invoked.await {
                Ok(done) => {
                    let metrics = &self.runner.trigger.metrics;
                    metrics.events_handled.get_or_create(&self.labels).inc_by(done.handled as u64);
                    metrics.events_parked.get_or_create(&self.labels).inc_by(done.parked as u64);
                    let known = works.len().saturating_sub(done.handled + done.parked);
                    metrics.events_duplicate.get_or_create(&self.labels).inc_by(known as u64);
                    self.runner.breaker(&self.consumer.group).succeeded(&handler.revision, done.handled);
                    self.succeeded();
                    return Ok(Ok(()));
                }
                Err(failure) if failure.is_host_fault() => {
                    self.host_fault(offset, &failure.to_string()).await?;
                    // A day that was forgotten since they were read looks like that: the database does not take them any more.
                    let read = works.len();
                    works.retain(|work| !self.runner.trigger.days.expired(work.record.timestamp));
                    self.runner.trigger.report_expired(&self.labels, (read - works.len()) as u64);
                }
                Err(failure) => return Ok(Err((handler, failure))),
            }
        }
    }

    /// Waits until there is a handler, the database can be reached and the breaker is shut. The term is from before the handler was looked up.
    async fn ready(&mut self, works: &[Work], behind: &[Work]) -> Result<(Term, Arc<Handler>), Closed> {
        let mut waited = false;
        loop {
            self.pass().await?;
            let Ok(term) = self.runner.trigger.engine.term() else { continue };
            let Some(handler) = self.handler() else {
                let offset = works.first().map_or(0, |work| work.record.offset);
                let reason = format!("handler `{}` is not active, or does not read this topic any more", self.group.handler);
                self.pause(offset, reason, RESTING).await?;
                continue;
            };
            let breaker = self.runner.breaker(&self.consumer.group);
            let turn = breaker.turn(&handler.revision);
            if waited || turn != Turn::Go {
                // Also when somebody else has shut it, or another revision is active.
                breaker.show(&handler.revision, &self.runner.trigger.board);
                waited = true;
            }
            match turn {
                Turn::Go => return Ok((term, handler)),
                Turn::Wait(wait) => {
                    let _ = tokio::time::timeout(wait, self.queue.closed()).await;
                }
                Turn::Probe => {
                    let (succeeded, tried) = self.probe((term, &handler), works, behind).await;
                    breaker.probed(&handler.revision, succeeded, tried);
                    self.tell(&handler.revision, breaker.is_open(&handler.revision)).await;
                    if tried == 0 && !works.is_empty() {
                        // All of them are done, or wait behind others of their keys: that can't fail, and tells nothing.
                        return Ok((term, handler));
                    }
                }
            }
        }
    }

    /// Tries the next events one by one and keeps nothing: of the part at hand, of the batch, and of what has been read behind it. Only those count
    /// that really run.
    async fn probe(&self, (term, handler): (Term, &Arc<Handler>), works: &[Work], behind: &[Work]) -> (usize, usize) {
        let (mut succeeded, mut tried) = (0, 0);
        let payload = self.runner.payload(&self.place.topic);
        let read = self.queue.ahead(PROBE, payload);
        let wants = self.wants(handler);
        for work in works.iter().take(PROBE).chain(behind).chain(&read).filter(|work| wants(work.event_type())) {
            let work = std::slice::from_ref(work);
            match self.runner.invoke((term, handler), &self.consumer, Fence::Inbox, work, (true, &self.cut)).await {
                Ok(done) if done.handled == 0 => continue,
                Ok(_) => succeeded += 1,
                // No room to wait: it has not run.
                Err(Failure::Overflow { .. }) => continue,
                Err(failure) if failure.is_host_fault() => continue,
                Err(_) => {}
            }
            tried += 1;
            if tried == PROBE {
                break;
            }
        }
        (succeeded, tried)
    }

    /// An event has failed alone: it is written down, unless so many did that the revision is at fault. Then it has to run again later.
    async fn failed(&mut self, work: Work, handler: &Arc<Handler>, failure: &Failure) -> Result<Option<Work>, Closed> {
        let breaker = self.runner.breaker(&self.consumer.group);
        let counts = !matches!(failure, Failure::Overflow { .. });
        if counts && breaker.failed(&handler.revision, work.key(), &failure.to_string()) {
            breaker.show(&handler.revision, &self.runner.trigger.board);
            self.tell(&handler.revision, true).await;
            return Ok(Some(work));
        }
        let attempt = self.runner.attempt(handler, failure, 1);
        self.write_down(&work.parked(), &attempt).await.map(|()| None)
    }

    /// Tells the retries of all replicas whether the group has stopped. If that fails, it is said with the next probe.
    async fn tell(&self, revision: &str, stopped: bool) {
        let told = self.runner.journal.stop(self.consumer.scope, revision, stopped.then_some(STOPPED)).await;
        if let Err(error) = told {
            tracing::debug!(group = &*self.consumer.group, %error, "other replicas do not know yet whether the group has stopped");
        }
    }

    async fn write_down(&mut self, parked: &Parked, attempt: &Attempt) -> Result<(), Closed> {
        loop {
            match self.runner.journal.failed(&self.consumer, parked, attempt).await {
                Ok(outcome) => {
                    self.runner.record(&self.consumer, parked, attempt, outcome);
                    return Ok(());
                }
                // Its day has been forgotten meanwhile: the database does not take it any more.
                Err(_) if self.runner.trigger.days.expired(parked.record.timestamp) => {
                    self.runner.trigger.report_expired(&self.labels, 1);
                    return Ok(());
                }
                Err(Unavailable(error)) => self.host_fault(parked.record.offset, &error).await?,
            }
        }
    }

    /// Waits out a fault of the host's own parts; the longer the more of them came in a row.
    pub(super) async fn host_fault(&mut self, offset: i64, reason: &str) -> Result<(), Closed> {
        self.runner.gate.fault(reason);
        let delay = FIRST_DELAY * 2u32.saturating_pow(self.failures.min(16));
        self.pause(offset, reason.to_owned(), delay.min(LONGEST_DELAY)).await
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.off_the_board();
            let PartitionLabels { group, topic, partition } = &self.labels;
            tracing::info!(group, topic, partition, "the partition goes on");
        }
    }

    /// The partition does not wait any more, or is no longer this worker's.
    fn off_the_board(&self) {
        let PartitionLabels { group, topic, partition } = &self.labels;
        self.runner.trigger.board.resume(group, topic, *partition);
        self.runner.trigger.metrics.partition_paused.get_or_create(&self.labels).set(0);
    }

    /// Shows why the partition cannot go on, and waits.
    async fn pause(&mut self, offset: i64, reason: String, delay: Duration) -> Result<(), Closed> {
        if self.failures == 0 {
            self.failing_since = format!("{:.3}", jiff::Timestamp::now());
        }
        self.failures += 1;
        let PartitionLabels { group, topic, partition } = self.labels.clone();
        tracing::warn!(group, topic, partition, offset, failures = self.failures, retry_in = ?delay,
            "the partition waits: {reason}");
        self.runner.trigger.metrics.partition_paused.get_or_create(&self.labels).set(1);
        self.runner.trigger.board.pause(PausedPartition {
            group,
            topic,
            partition,
            offset,
            reason,
            since: self.failing_since.clone(),
            failures: self.failures,
            retry_in_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
        match tokio::time::timeout(delay, self.queue.closed()).await {
            Ok(()) => Err(Closed),
            Err(_) => Ok(()),
        }
    }
}
