//! The worker of one partition: batches in offset order, one at a time. A batch that fails, or a record that is no event, pauses the
//! partition with a growing delay and is shown; the other partitions go on.

use super::queue::Queue;
use super::record::Record;
use super::{Group, KafkaTrigger, cloudevent};
use crate::bindings::events::Event;
use crate::engine::{Answer, Call, Origin};
use crate::store::{Identity, Scope, bucket_of};
use crate::telemetry::{PartitionLabels, PausedPartition};
use std::sync::Arc;
use std::time::Duration;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// A batch is at most this large, so that it fits into a guest's memory several times over.
const BATCH_BYTES: usize = 4 << 20;

pub(super) struct Worker {
    trigger: KafkaTrigger,
    group: Arc<Group>,
    scope: Scope,
    queue: Arc<Queue>,
    labels: PartitionLabels,
    failures: u32,
    failing_since: String,
}

/// Why the partition cannot go on.
struct Obstacle {
    offset: i64,
    reason: String,
}

impl Worker {
    pub(super) fn new(trigger: KafkaTrigger, group: Arc<Group>, scope: Scope, queue: Arc<Queue>) -> Self {
        let labels = PartitionLabels { group: group.id.to_string(), topic: queue.topic.clone(), partition: queue.partition };
        Self { trigger, group, scope, queue, labels, failures: 0, failing_since: String::new() }
    }

    /// Works until the queue is closed. A batch under way at that moment is finished.
    pub(super) async fn run(mut self) {
        while let Some(batch) = self.queue.take(self.batch_limit(), BATCH_BYTES).await {
            let mut rest = batch.as_slice();
            while !rest.is_empty() {
                match self.step(rest).await {
                    Ok(done) => {
                        rest = rest.get(done..).unwrap_or_default();
                        self.succeeded();
                    }
                    Err(obstacle) => {
                        if !self.pause(obstacle).await {
                            return;
                        }
                    }
                }
            }
        }
    }

    fn batch_limit(&self) -> usize {
        let handler = self.trigger.registry.handler(&self.group.handler);
        handler.map_or(1, |handler| usize::try_from(handler.manifest.limits.batch).unwrap_or(1))
    }

    /// Handles the records up to the first that is no event, and returns how many are done.
    async fn step(&self, records: &[Record]) -> Result<usize, Obstacle> {
        let first = records.first().map_or(0, |record| record.offset);
        let mut events = Vec::with_capacity(records.len());
        let (mut skipped, mut expired) = (0, 0);
        let mut count = 0usize;
        for record in records {
            let event = match cloudevent::decode(record) {
                Ok(event) => event,
                // What comes before it is done first.
                Err(_) if count > 0 => break,
                Err(reason) => {
                    let reason = format!(
                        "the record is no event: {reason}; it holds this partition up. The way out: stop the host and move the group's \
                         offset past {} (kafka-consumer-groups --reset-offsets), or delete the records up to it (kafka-delete-records)",
                        record.offset
                    );
                    return Err(Obstacle { offset: record.offset, reason });
                }
            };
            count += 1;
            match self.wants(&event) {
                true if self.trigger.days.expired(record.timestamp) => expired += 1,
                true => events.push((identity(record, &event), event)),
                false => skipped += 1,
            }
        }
        let handled = self.handle(events).await.map_err(|reason| Obstacle { offset: first, reason })?;
        let last = records.get(count.saturating_sub(1)).map_or(first, |record| record.offset);
        self.queue.store(last + 1);
        let metrics = &self.trigger.metrics;
        metrics.events_handled.get_or_create(&self.labels).inc_by(handled as u64);
        metrics.events_skipped.get_or_create(&self.labels).inc_by(skipped);
        metrics
            .events_duplicate
            .get_or_create(&self.labels)
            .inc_by((count as u64).saturating_sub(skipped + expired + handled as u64));
        self.trigger.report_expired(&self.labels, expired);
        Ok(count)
    }

    fn wants(&self, event: &Event) -> bool {
        match self.group.topics.get(&event.topic) {
            Some(Some(types)) => types.contains(&event.type_),
            _ => true,
        }
    }

    /// Runs the handler over a batch; returns how many events it handled for the first time.
    async fn handle(&self, events: Vec<(Identity, Event)>) -> Result<usize, String> {
        if events.is_empty() {
            return Ok(0);
        }
        let Some(handler) = self.trigger.registry.handler(&self.group.handler) else {
            return Err(format!("handler `{}` is not active", self.group.handler));
        };
        let causes: Vec<_> = events.iter().map(|(_, event)| cloudevent::cause(event)).collect();
        let correlation_id = causes.iter().find_map(|cause| cause.correlation_id.clone()).unwrap_or_default();
        let origin = Origin { subject: String::new(), correlation_id, causes, rehearse: false };
        let count = events.len();
        let call = Call::Events { scope: self.scope, events };
        // In a task of its own: neither a panic nor the end of this worker may cut a commit in two.
        let (engine, invoked) = (self.trigger.engine.clone(), handler.clone());
        let invoked = tokio::spawn(async move { engine.invoke(&invoked, origin, call).await });
        match invoked.await {
            Ok(Ok(Answer::Events { handled })) => Ok(handled),
            Ok(Ok(Answer::Http(_))) => Err("the engine answered a batch with a response".to_owned()),
            Err(error) => Err(format!("the host failed while handler `{}` ran: {error}", handler.name)),
            Ok(Err(failure)) => Err(format!(
                "handler `{}` revision {} failed a batch of {count}: {failure}; it runs again by itself, once the handler or what it needs is mended",
                handler.name, handler.revision
            )),
        }
    }

    fn succeeded(&mut self) {
        if self.failures > 0 {
            self.failures = 0;
            self.trigger.board.resume(&self.labels.group, &self.labels.topic, self.labels.partition);
            self.trigger.metrics.partition_paused.get_or_create(&self.labels).set(0);
            tracing::info!(
                group = self.labels.group,
                topic = self.labels.topic,
                partition = self.labels.partition,
                "the partition goes on"
            );
        }
    }

    /// Shows the obstacle and waits; false if the partition is another's meanwhile.
    async fn pause(&mut self, obstacle: Obstacle) -> bool {
        if self.failures == 0 {
            self.failing_since = format!("{:.3}", jiff::Timestamp::now());
        }
        self.failures += 1;
        let delay = (FIRST_DELAY * 2u32.saturating_pow((self.failures - 1).min(16))).min(LONGEST_DELAY);
        let PartitionLabels { group, topic, partition } = self.labels.clone();
        tracing::warn!(group, topic, partition, offset = obstacle.offset, failures = self.failures, retry_in = ?delay,
            "the partition is paused: {}", obstacle.reason);
        self.trigger.metrics.partition_paused.get_or_create(&self.labels).set(1);
        self.trigger.board.pause(PausedPartition {
            group,
            topic,
            partition,
            offset: obstacle.offset,
            reason: obstacle.reason,
            since: self.failing_since.clone(),
            failures: self.failures,
            retry_in_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
        let waited = tokio::time::timeout(delay, self.queue.closed()).await;
        if waited.is_ok() {
            self.trigger.board.resume(&self.labels.group, &self.labels.topic, self.labels.partition);
            self.trigger.metrics.partition_paused.get_or_create(&self.labels).set(0);
        }
        waited.is_err()
    }
}

fn identity(record: &Record, event: &Event) -> Identity {
    Identity { source: event.source.clone(), id: event.id.clone(), bucket: bucket_of(record.timestamp) }
}
