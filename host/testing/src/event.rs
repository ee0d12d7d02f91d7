//! Events that are delivered, what became of them, and what a handler left behind.

use crate::wire::{self, Record};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// A CloudEvent to deliver.
///
/// Without more words it has an id of its own, the source `test`, a time of 2026 and no key. The same event again is a clone.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    attributes: Map<String, Value>,
    key: Option<String>,
}

impl Event {
    /// An event of a type.
    pub fn new(event_type: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = format!("event-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let attributes = json!({"specversion": "1.0", "id": id, "source": "test", "type": event_type,
            "time": "2026-02-10T09:30:00Z", "datacontenttype": "application/json"});
        let Value::Object(attributes) = attributes else { unreachable!("an object was written") };
        Self { attributes, key: None }
    }

    /// An event as it was published, for the handler that comes next.
    pub fn published(published: &Published) -> Self {
        let attributes = published.event.as_object().cloned().unwrap_or_default();
        Self { attributes, key: published.key.clone() }
    }

    /// Sets its id.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.attribute("id", id)
    }

    /// Sets its source.
    #[must_use]
    pub fn source(self, source: &str) -> Self {
        self.attribute("source", source)
    }

    /// Sets its time, RFC 3339.
    #[must_use]
    pub fn time(self, time: &str) -> Self {
        self.attribute("time", time)
    }

    /// Sets any attribute or extension.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.attributes.insert(name.to_owned(), value.into());
        self
    }

    /// Sets its data.
    ///
    /// # Panics
    /// If the value cannot be written as JSON.
    #[must_use]
    pub fn data(mut self, data: impl Serialize) -> Self {
        let data = serde_json::to_value(data).expect("data can be written as JSON");
        self.attributes.insert("data".to_owned(), data);
        self
    }

    /// Sets the record's key. The events of one key keep their order.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub(crate) fn record(self) -> Record {
        let value = Value::Object(self.attributes).to_string();
        let content_type = ("content-type".to_owned(), "application/cloudevents+json; charset=UTF-8".to_owned());
        Record { key: self.key, headers: vec![content_type], value: wire::hex(value.as_bytes()) }
    }
}

/// What became of a delivered event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The handler has handled it, and the unit has committed.
    Handled,
    /// It had been handled before: the handler did not see it.
    Duplicate,
    /// Its type is none that the manifest asks for.
    Skipped,
    /// An earlier event of its key failed and would be tried again; this one would wait behind it. It was not run.
    Waiting,
    /// It failed, alone, and nothing of it was kept; the host would try again.
    Retry {
        /// What went wrong: the handler's own words, a trap, a limit, a statement.
        reason: String,
    },
    /// It failed, alone, and would be a dead letter: the handler rejected it, or it is no event.
    Rejected {
        /// What went wrong.
        reason: String,
    },
}

impl Outcome {
    /// What went wrong, if something did.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Retry { reason } | Self::Rejected { reason } => Some(reason),
            _ => None,
        }
    }
}

/// An event as a handler has published it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Where to.
    pub topic: String,
    /// The record's key.
    pub key: Option<String>,
    /// The CloudEvent: attributes, extensions, `data`.
    pub event: Value,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name, unique in the app.
    pub name: String,
    /// The handler that scheduled it.
    pub handler: String,
    /// When it fires next, RFC 3339 in UTC.
    pub due: String,
    /// Whether it fires again after that.
    pub repeats: bool,
    /// Where its event goes.
    pub topic: String,
    /// The event's key.
    pub key: Option<String>,
    /// The event, without the `id` and `time` that it gets when it fires.
    pub event: Value,
}
