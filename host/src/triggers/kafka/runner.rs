//! What partitions and retries share: running a handler over events, and writing down what became of a failed one.

use super::KafkaTrigger;
use super::breaker::Breaker;
use super::cloudevent;
use super::gate::Gate;
use crate::engine::{Answer, Batch, Call, Failure, Fence, Handler, Item, Origin};
use crate::manifest::{Payload, Subscription};
use crate::store::fleet::Term;
use crate::store::{Attempt, Consumer, Journal, Outcome, Parked, Record, Running};
use crate::telemetry::{FailureLabels, lock};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, watch};

/// Shared by all consumers of the process.
#[derive(Debug)]
pub(super) struct Runner {
    pub(super) trigger: KafkaTrigger,
    pub(super) gate: Gate,
    pub(super) journal: Journal,
    pub(super) running: Running,
    /// Rings when an event has been parked for a retry.
    pub(super) bell: Notify,
    breakers: Mutex<HashMap<Arc<str>, Arc<Breaker>>>,
}

/// Ends runs under way as a fault of the host's own: they are rolled back, and the places and claims of this process are given up in order.
#[derive(Debug, Clone)]
pub(super) struct Cut(watch::Sender<bool>);

impl Cut {
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Now, and whatever begins later under it.
    pub(super) fn now(&self) {
        self.0.send_replace(true);
    }
}

/// An event on its way to a handler.
#[derive(Debug, Clone)]
pub(super) struct Work(Arc<Item>);

impl std::ops::Deref for Work {
    type Target = Item;

    fn deref(&self) -> &Item {
        &self.0
    }
}

impl Work {
    /// The event of a record, or why it is none.
    pub(super) fn decode(record: Arc<Record>, payload: Payload) -> Result<Self, String> {
        Ok(Self(cloudevent::decode(record, payload)?.into()))
    }

    /// What the breaker counts it by: its key, or itself.
    pub(super) fn key(&self) -> &[u8] {
        self.record.key.as_deref().unwrap_or(self.identity.id.as_bytes())
    }
}

/// A batch that has committed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) handled: usize,
    pub(super) parked: usize,
}

impl Runner {
    pub(super) fn new(trigger: KafkaTrigger) -> Self {
        let pool = trigger.engine.pool().clone();
        let journal = Journal::new(pool.clone());
        Self {
            gate: Gate::new(pool.clone(), trigger.board.clone(), trigger.engine.pulse().clone()),
            running: Running::new(pool, journal.owner()),
            journal,
            bell: Notify::new(),
            breakers: Mutex::default(),
            trigger,
        }
    }

    /// What the records of a topic hold, by its owner's word.
    pub(super) fn payload(&self, topic: &str) -> Payload {
        let handlers = self.trigger.registry.handlers();
        handlers
            .iter()
            .find_map(|handler| handler.manifest.declares.get(topic))
            .map_or(Payload::CloudEvents, |topic| topic.payload)
    }

    /// The breaker of a group.
    pub(super) fn breaker(&self, group: &Arc<str>) -> Arc<Breaker> {
        lock(&self.breakers).entry(group.clone()).or_insert_with(|| Arc::new(Breaker::new(group.clone()))).clone()
    }

    /// Runs a handler that was looked up in `term` over events of one partition, until `cut`. `rehearse`: and keeps nothing.
    pub(super) async fn invoke(
        &self,
        (term, handler): (Term, &Arc<Handler>),
        consumer: &Consumer,
        fence: Fence,
        works: &[Work],
        (rehearse, cut): (bool, &Cut),
    ) -> Result<Done, Failure> {
        let items: Vec<_> = works.iter().map(|work| work.0.clone()).collect();
        let correlation_id = items.iter().find_map(|item| item.correlation_id()).unwrap_or_default().to_owned();
        let origin = Origin { correlation_id, rehearse, ..Origin::default() };
        let call = Call::Events(Batch { consumer: consumer.clone(), fence, items });
        // In a task of its own: neither a panic nor the end of the caller may cut a commit in two.
        let (engine, invoked) = (self.trigger.engine.clone(), handler.clone());
        let mut cut = cut.0.subscribe();
        let invocation = async move {
            tokio::select! {
                biased;
                ended = engine.invoke(&invoked, term, origin, call) => ended,
                _ = cut.wait_for(|cut| *cut) => Err(Failure::Unavailable("its run did not end in time".to_owned())),
            }
        };
        match tokio::spawn(invocation).await {
            Ok(Ok(Answer::Events { handled, parked })) => Ok(Done { handled, parked }),
            Ok(Ok(Answer::Http(_) | Answer::Replayed(_))) => {
                Err(Failure::Trap("the engine answered a batch with a response".to_owned()))
            }
            Ok(Err(failure)) => Err(failure),
            Err(error) => Err(Failure::Trap(format!("the host failed while it ran: {error}"))),
        }
    }

    /// What a failure of a handler means for the event that it stands alone with.
    pub(super) fn attempt(&self, handler: &Handler, failure: &Failure, attempts: u32) -> Attempt {
        let delay = handler.manifest.retry.jittered(attempts, rand());
        let fatal = matches!(failure, Failure::Returned { reject: true, .. } | Failure::Overflow { .. });
        Attempt {
            class: failure.kind(),
            reason: failure.to_string(),
            revision: handler.revision.to_string(),
            delay: delay.unwrap_or_default(),
            exhausted: fatal || delay.is_none(),
        }
    }

    /// Logs and counts what became of a failed attempt, and wakes the retries.
    pub(super) fn record(&self, consumer: &Consumer, parked: &Parked, attempt: &Attempt, outcome: Outcome) {
        let labels = || FailureLabels { handler: consumer.handler.to_string(), class: attempt.class };
        let Record { topic, partition, offset, .. } = &*parked.record;
        let (group, handler, revision) = (&*consumer.group, &*consumer.handler, attempt.revision.as_str());
        let topic = &**topic;
        let (id, source, class) = (&*parked.identity.id, &*parked.identity.source, attempt.class);
        self.trigger.metrics.attempts_failed.get_or_create(&labels()).inc();
        match outcome {
            Outcome::Retry => {
                tracing::warn!(group, handler, revision, topic, partition, offset, source, id, class, retry_in = ?attempt.delay,
                    "an event failed and waits for its next attempt: {}", attempt.reason);
                self.bell.notify_one();
            }
            Outcome::Dead => {
                self.trigger.metrics.dead_lettered.get_or_create(&labels()).inc();
                tracing::error!(
                    group,
                    handler,
                    revision,
                    topic,
                    partition,
                    offset,
                    source,
                    id,
                    class,
                    "an event is given up (`tidemill dlq list`): {}",
                    attempt.reason
                );
                // The copy for the dead-letter topic, and the events behind it.
                self.trigger.engine.outbox_bell().notify_one();
                self.bell.notify_one();
            }
            Outcome::Skipped | Outcome::Gone => {}
        }
    }
}

/// What a revision asks for of a topic in a group, if anything.
pub(super) fn subscription<'h>(handler: &'h Handler, group: &str, topic: &str) -> Option<&'h Subscription> {
    handler.manifest.topics.iter().find(|subscription| subscription.name == topic && subscription.group == group)
}

/// Whether a revision asks for an event, by its type, of a topic that it reads.
pub(super) fn wants<'h>(handler: &'h Handler, group: &str, topic: &str) -> impl Fn(&str) -> bool + use<'h> {
    let types = subscription(handler, group, topic).and_then(|subscription| subscription.types.as_ref());
    move |type_| types.is_none_or(|types| types.iter().any(|wanted| wanted == type_))
}

/// Randomness for jitter: nothing depends on its quality.
fn rand() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}
