//! Events in: a batch of one partition, in offset order.
//!
//! **Batches are only faster**: they differ in size from one run to the next, and the outcome must be that of one event at a time. So
//! what a handler publishes names the event that caused it ([`publish_caused_by`](crate::publish_caused_by)), and a [`Failure`]
//! names the events at fault: those are tried alone, the rest runs again without them.

use std::{fmt, mem::ManuallyDrop};

use serde::Deserialize;

use crate::{
    EventData, Timestamp, Uuid, bindings::events::exports::tidemill::events::events as wit, derived_id, jobs, log, publish, sql,
};

/// One event of a batch.
#[derive(Debug, Clone)]
pub struct Event {
    position: u32,
    topic: &'static str,
    partition: i32,
    inner: wit::Event,
}

impl Event {
    pub(crate) fn new((topic, partition): (&'static str, i32), position: u32, inner: wit::Event) -> Self {
        Self { position, topic, partition, inner }
    }

    /// Its position in the batch.
    pub fn position(&self) -> u32 {
        self.position
    }

    /// CloudEvents `id`; with [`source`](Self::source) the event's identity.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// CloudEvents `source`.
    pub fn source(&self) -> &str {
        &self.inner.source
    }

    /// CloudEvents `type`.
    pub fn event_type(&self) -> &str {
        &self.inner.type_
    }

    /// Whether its type is that of `T`.
    pub fn is<T: EventData>(&self) -> bool {
        self.event_type() == T::TYPE
    }

    /// CloudEvents `time`, or, where it has none, the record's timestamp.
    pub fn time(&self) -> Timestamp {
        self.inner.time.map_or(Timestamp::from_millis(self.inner.timestamp), Timestamp::from_micros)
    }

    /// CloudEvents `subject`.
    pub fn subject(&self) -> Option<&str> {
        self.inner.subject.as_deref()
    }

    /// An extension attribute.
    pub fn extension(&self, name: &str) -> Option<&str> {
        match name {
            "correlationid" => self.correlation_id(),
            "traceparent" => self.inner.traceparent.as_deref(),
            _ => self.inner.extensions.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str()),
        }
    }

    /// The id that follows a request through everything that it causes.
    pub fn correlation_id(&self) -> Option<&str> {
        self.inner.correlationid.as_deref()
    }

    /// The record's key.
    pub fn key(&self) -> Option<&[u8]> {
        self.inner.key.as_deref()
    }

    /// The topic that it was read from.
    pub fn topic(&self) -> &str {
        self.topic
    }

    /// Its partition.
    pub fn partition(&self) -> i32 {
        self.partition
    }

    /// Its offset in the partition.
    pub fn offset(&self) -> i64 {
        self.inner.offset
    }

    /// The payload as it was sent.
    pub fn raw_data(&self) -> Option<&[u8]> {
        self.inner.data.as_deref()
    }

    /// The payload as text, which is JSON where its content type says so. Bytes that are no text never will be: the failure rejects this event.
    pub fn json(&self) -> Result<&str, Failure> {
        std::str::from_utf8(self.raw_data().unwrap_or(b"null")).map_err(|error| self.reject_data(error))
    }

    /// The payload as `T`, which may borrow from it. Data that does not fit never will: the failure rejects this event.
    pub fn data<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        let data = self.raw_data().unwrap_or(b"null");
        serde_json::from_slice(data).map_err(|error| self.reject_data(error))
    }

    /// An id for what this event causes: the same one whenever the event is handled again, another one for each `purpose`.
    ///
    /// What leaves PostgreSQL may leave twice; who receives it tells by such an id that it is the same.
    pub fn derived_id(&self, purpose: &str) -> Uuid {
        derived_id(self.time(), &[purpose, self.source(), self.id()])
    }

    /// A failure of this event that will not go away.
    pub fn reject(&self, message: impl Into<String>) -> Failure {
        Failure::reject(message).naming([self])
    }

    /// Data that can be read but not used: rejects this event, naming it and what is wrong with its data.
    pub fn reject_data(&self, why: impl fmt::Display) -> Failure {
        // Ids are foreign text: quoted, they cannot break a line of a log.
        self.reject(format!("data of {} {:?}: {why}", self.event_type(), self.id()))
    }

    /// A failure of this event that may go away.
    pub fn retry(&self, message: impl Into<String>) -> Failure {
        Failure::retry(message).naming([self])
    }
}

/// Why a batch failed, and by which of its events. The whole batch is rolled back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    reject: bool,
    message: String,
    events: Option<Vec<u32>>,
}

impl Failure {
    /// It may succeed later.
    pub fn retry(message: impl Into<String>) -> Self {
        Self { reject: false, message: message.into(), events: None }
    }

    /// It never will: the events at fault become dead letters without another try.
    pub fn reject(message: impl Into<String>) -> Self {
        Self { reject: true, message: message.into(), events: None }
    }

    /// Names the events at fault.
    #[must_use]
    pub fn naming<'a>(mut self, events: impl IntoIterator<Item = &'a Event>) -> Self {
        self.events = Some(events.into_iter().map(Event::position).collect());
        self
    }

    /// Whether trying again is of no use.
    pub fn is_reject(&self) -> bool {
        self.reject
    }

    /// The positions of the events at fault, where they are known.
    pub fn events(&self) -> Option<&[u32]> {
        self.events.as_deref()
    }

    /// What happened, for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Runs `each` for every event and collects what it returns. Events that it rejects are named together, in one failure; any
    /// other failure ends the walk.
    pub fn collect<'a, T>(events: &'a [Event], each: impl Fn(&'a Event) -> Result<T, Failure>) -> Result<Vec<T>, Failure> {
        let mut done = Vec::with_capacity(events.len());
        let mut rejected: Option<Failure> = None;
        for event in events {
            match each(event) {
                Ok(value) => done.push(value),
                Err(failure) if failure.reject => {
                    let known = rejected.get_or_insert_with(|| Failure::reject("").naming([]));
                    let separator = if known.message.is_empty() { "" } else { "; " };
                    known.message += &format!("{separator}{}", failure.message);
                    known.events.get_or_insert_default().push(event.position);
                }
                Err(failure) => return Err(failure),
            }
        }
        rejected.map_or(Ok(done), Err)
    }
}

impl From<sql::Error> for Failure {
    fn from(error: sql::Error) -> Self {
        Self::retry(error.to_string())
    }
}

impl From<publish::Error> for Failure {
    fn from(error: publish::Error) -> Self {
        Self::retry(error.to_string())
    }
}

impl From<jobs::Error> for Failure {
    fn from(error: jobs::Error) -> Self {
        Self::retry(error.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// What [`event_handler!`](crate::event_handler) calls.
#[doc(hidden)]
pub fn run(batch: wit::Batch, handle: fn(&[Event]) -> Result<(), Failure>) -> Result<(), wit::Failure> {
    // Nothing of it is ever freed: the instance ends with this invocation, and to free the texts of each event would cost as much as reading them.
    let place = (&*batch.topic.leak(), batch.partition);
    let events: Vec<Event> = (0..).zip(batch.events).map(|(position, inner)| Event::new(place, position, inner)).collect();
    let events = ManuallyDrop::new(events);
    handle(&events).map_err(|Failure { reject, message, events }| {
        log::debug("a batch failed", &[("error", &message)]);
        wit::Failure { kind: if reject { wit::FailureKind::Reject } else { wit::FailureKind::Retry }, message, events }
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::testing;

    #[derive(Deserialize, Debug)]
    struct Data {
        n: u32,
    }

    #[test]
    fn data_that_does_not_fit_rejects_its_event() {
        assert_eq!(testing::event(0, "t", &json!({"n": 1})).data::<Data>().unwrap().n, 1);
        let failure = testing::event(3, "t", &json!({"n": "one"})).data::<Data>().unwrap_err();
        assert!(failure.is_reject());
        assert_eq!(failure.events(), Some(&[3][..]));
        assert!(failure.message().starts_with("data of t \"event-3\": "), "{failure}");
        assert!(testing::raw_event(0, "t", None).data::<Data>().is_err());
    }

    #[test]
    fn an_extension_is_found_by_its_name_also_where_it_has_a_place_of_its_own() {
        let mut event = testing::event(0, "t", &json!({}));
        event.inner.traceparent = Some("00-a".to_owned());
        event.inner.extensions.push(("tenant".to_owned(), "acme".to_owned()));
        let found = ["correlationid", "traceparent", "tenant", "other"].map(|name| event.extension(name));
        assert_eq!(found, [Some("correlation-1"), Some("00-a"), Some("acme"), None]);
        assert_eq!(event.correlation_id(), Some("correlation-1"));
    }

    #[test]
    fn what_an_event_causes_has_the_same_id_every_time() {
        // Alone or in a batch, and whatever was delivered before it: the position is not part of it.
        let (mut again, other) = (testing::event(0, "t", &json!({})), testing::event(1, "t", &json!({})));
        again.position = 7;
        let id = testing::event(0, "t", &json!({})).derived_id("invoice");
        assert_eq!(id, again.derived_id("invoice"));
        assert_ne!(id, again.derived_id("receipt"));
        assert_ne!(id, other.derived_id("invoice"));
    }

    #[test]
    fn rejected_events_are_named_together_and_a_retry_goes_first() {
        let events: Vec<Event> = (0..4).map(|n| testing::event(n, "t", &json!({"n": n}))).collect();
        let odd = Failure::collect(&events, |event| {
            if event.position() % 2 == 1 { Err(event.reject(event.id())) } else { Ok(event.position()) }
        });
        let odd = odd.unwrap_err();
        assert_eq!((odd.events(), odd.message()), (Some(&[1, 3][..]), "event-1; event-3"));
        let last = Failure::collect::<()>(&events, |event| match event.position() {
            3 => Err(event.retry("later")),
            _ => Err(event.reject("no")),
        });
        assert_eq!(last.unwrap_err(), Failure::retry("later").naming([&events[3]]));
        assert_eq!(Failure::collect(&events, |event| Ok(event.position())).unwrap(), [0, 1, 2, 3]);
    }

    #[test]
    fn an_event_without_time_has_that_of_its_record() {
        let mut event = testing::event(0, "t", &json!({}));
        assert_eq!(event.time().to_string(), "2026-02-10T09:30:00Z");
        event.inner.time = None;
        assert_eq!(event.time().to_string(), "2026-02-10T09:30:00.001000Z");
    }
}
