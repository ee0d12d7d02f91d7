//! The host's metrics, in the OpenMetrics text format (`/metrics`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Labels of one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    /// The handler that answered, or empty where no route matched.
    pub handler: String,
    /// The HTTP status.
    pub status: u16,
}

/// Labels of one invocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OutcomeLabels {
    /// The handler.
    pub handler: String,
    /// `ok`, or the kind of failure.
    pub outcome: &'static str,
}

/// Labels of one partition of one consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabels {
    /// The consumer group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// Labels of a failure of one handler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    /// The handler.
    pub handler: String,
    /// The error class, such as `trap`.
    pub class: &'static str,
}

/// Labels of one handler.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HandlerLabels {
    /// The handler.
    pub handler: String,
}

/// Labels of one consumer group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct GroupLabels {
    /// The consumer group.
    pub group: String,
}

/// Labels of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TopicLabels {
    /// The topic.
    pub topic: String,
}

/// All metrics of the process. Names follow the Prometheus conventions; units are in the names.
pub struct Metrics {
    registry: Registry,
    /// Requests answered on the public port.
    pub http_requests: Family<HttpLabels, Counter>,
    /// Seconds from a request's arrival to its answer.
    pub http_seconds: Histogram,
    /// Guest invocations by outcome.
    pub invocations: Family<OutcomeLabels, Counter>,
    /// Events that a group has handled (committed).
    pub events_handled: Family<PartitionLabels, Counter>,
    /// Events that were in the inbox already.
    pub events_duplicate: Family<PartitionLabels, Counter>,
    /// Events of types that the handler does not ask for.
    pub events_skipped: Family<PartitionLabels, Counter>,
    /// Events that wait behind an earlier one of their key.
    pub events_parked: Family<PartitionLabels, Counter>,
    /// Failed attempts at single events.
    pub attempts_failed: Family<FailureLabels, Counter>,
    /// Events that were given up.
    pub dead_lettered: Family<FailureLabels, Counter>,
    /// Events that wait in the database, counted up to 10,000.
    pub waiting: Family<HandlerLabels, Gauge>,
    /// Dead letters that nobody has worked, counted up to 10,000.
    pub dead: Family<HandlerLabels, Gauge>,
    /// Seconds from a retry's due time to its start.
    pub retry_lateness: Histogram,
    /// Events of jobs that have fired.
    pub jobs_fired: Counter,
    /// Seconds from a job's scheduled time to its firing, by the database's clock.
    pub jobs_lateness: Histogram,
    /// Jobs that wait, counted up to 10,000.
    pub jobs_waiting: Gauge,
    /// Events whose day the inbox has forgotten: they may have been handled, and are not run.
    pub events_expired: Family<PartitionLabels, Counter>,
    /// Records that were gone before the group had read them; above 0 while the partition waits for a person.
    pub records_missed: Family<PartitionLabels, Gauge>,
    /// 1 while a partition is paused because its batch fails.
    pub partition_paused: Family<PartitionLabels, Gauge>,
    /// 1 while a group has stopped, because many distinct keys fail on one revision.
    pub group_stopped: Family<GroupLabels, Gauge>,
    /// Events that the broker has acknowledged.
    pub relay_sent: Family<TopicLabels, Counter>,
    /// Outbox rows of this replica's slices that wait, as the relay last saw it; counted up to 100,000.
    pub outbox_waiting: Gauge,
    /// Outbox rows that the broker refuses.
    pub outbox_stuck: Gauge,
    /// Slices of the outbox that this replica's relay holds.
    pub relay_slices: Gauge,
    /// Seconds from an event's commit to the broker's acknowledgement.
    pub relay_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("tidemill");
        let buckets = || [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0].into_iter();
        let metrics = Self {
            http_requests: Family::default(),
            http_seconds: Histogram::new(buckets()),
            invocations: Family::default(),
            events_handled: Family::default(),
            events_duplicate: Family::default(),
            events_skipped: Family::default(),
            events_parked: Family::default(),
            attempts_failed: Family::default(),
            dead_lettered: Family::default(),
            waiting: Family::default(),
            dead: Family::default(),
            retry_lateness: Histogram::new(buckets()),
            jobs_fired: Counter::default(),
            jobs_lateness: Histogram::new(buckets()),
            jobs_waiting: Gauge::default(),
            events_expired: Family::default(),
            records_missed: Family::default(),
            partition_paused: Family::default(),
            group_stopped: Family::default(),
            relay_sent: Family::default(),
            outbox_waiting: Gauge::default(),
            outbox_stuck: Gauge::default(),
            relay_slices: Gauge::default(),
            relay_seconds: Histogram::new(buckets()),
            registry: Registry::default(),
        };
        registry.register("http_requests", "Requests answered on the public port", metrics.http_requests.clone());
        registry.register_with_unit(
            "http_request_duration",
            "Time from a request's arrival to its answer",
            Unit::Seconds,
            metrics.http_seconds.clone(),
        );
        registry.register("invocations", "Guest invocations by outcome", metrics.invocations.clone());
        registry.register("events_handled", "Events handled and committed", metrics.events_handled.clone());
        registry.register("events_duplicate", "Events that the inbox knew already", metrics.events_duplicate.clone());
        registry.register("events_skipped", "Events of types that the handler does not ask for", metrics.events_skipped.clone());
        registry.register("events_parked", "Events that wait behind an earlier one of their key", metrics.events_parked.clone());
        registry.register("attempts_failed", "Failed attempts at single events, by error class", metrics.attempts_failed.clone());
        registry.register("dead_lettered", "Events given up, by error class", metrics.dead_lettered.clone());
        registry.register("waiting_events", "Events waiting in the database, up to 10,000 counted", metrics.waiting.clone());
        registry.register("dead_letters", "Dead letters that nobody has worked, up to 10,000 counted", metrics.dead.clone());
        registry.register_with_unit(
            "retry_lateness",
            "Time from a retry's due time to its start",
            Unit::Seconds,
            metrics.retry_lateness.clone(),
        );
        registry.register("jobs_fired", "Events of jobs that this replica has fired", metrics.jobs_fired.clone());
        registry.register_with_unit(
            "jobs_lateness",
            "Time from a job's scheduled time to its firing, by the database's clock",
            Unit::Seconds,
            metrics.jobs_lateness.clone(),
        );
        registry.register("jobs_waiting", "Jobs that wait for their time, up to 10,000 counted", metrics.jobs_waiting.clone());
        registry.register(
            "events_expired",
            "Events not run because the inbox has forgotten their day",
            metrics.events_expired.clone(),
        );
        registry.register(
            "records_missed",
            "Records gone before the group had read them, while the partition is paused for it",
            metrics.records_missed.clone(),
        );
        registry.register(
            "partition_paused",
            "1 while a partition is paused because its batch fails",
            metrics.partition_paused.clone(),
        );
        registry.register(
            "group_stopped",
            "1 while a group has stopped here because many distinct keys fail on one revision",
            metrics.group_stopped.clone(),
        );
        registry.register("relay_sent", "Events that the broker acknowledged", metrics.relay_sent.clone());
        registry.register(
            "outbox_waiting",
            "Outbox rows waiting in the slices of this replica, as the relay last saw it",
            metrics.outbox_waiting.clone(),
        );
        registry.register("outbox_stuck", "Outbox rows that the broker refuses", metrics.outbox_stuck.clone());
        registry.register("relay_slices", "Slices of the outbox that this replica's relay holds", metrics.relay_slices.clone());
        registry.register_with_unit(
            "relay_delay",
            "Time from an event's outbox row to the broker's acknowledgement",
            Unit::Seconds,
            metrics.relay_seconds.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Everything as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}
