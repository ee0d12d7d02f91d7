//! Events out, with the unit of work: an event leaves if, and only if, the handler's SQL commits.

use std::fmt;

use serde::Serialize;

use crate::{Event, Timestamp, Uuid, bindings::imports::tidemill::publish::publish as host};

pub use host::ErrorKind;

/// The data of an event, and what it is published as. Its JSON is the event's `data`.
pub trait EventData: Serialize {
    /// CloudEvents `type`.
    const TYPE: &'static str;
    /// The topic; one of the manifest's `[publish] topics`.
    const TOPIC: &'static str;
    /// CloudEvents `source`.
    const SOURCE: &'static str;

    /// The record's key. Within one topic the events of one key keep their order; without a key there is none.
    fn key(&self) -> Option<&str> {
        None
    }

    /// CloudEvents `time`; `None`: now.
    fn time(&self) -> Option<Timestamp> {
        None
    }

    /// CloudEvents `id`; `None`: a new UUIDv7.
    fn id(&self) -> Option<Uuid> {
        None
    }

    /// CloudEvents `subject`.
    fn subject(&self) -> Option<&str> {
        None
    }
}

/// A refused event. The unit is doomed.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// Why.
    pub kind: ErrorKind,
    /// For people and logs.
    pub message: String,
}

/// Publishes an event of a request, or of a batch of one event, and returns the event's id.
pub fn publish<E: EventData>(event: &E) -> Result<String, Error> {
    send(event, None)
}

/// Publishes an event that an event of the batch caused, and returns the new event's id.
pub fn publish_caused_by<E: EventData>(event: &E, cause: &Event) -> Result<String, Error> {
    send(event, Some(cause.position()))
}

fn send<E: EventData>(event: &E, cause: Option<u32>) -> Result<String, Error> {
    let event = outgoing(event)?;
    host::publish(&event, cause).map_err(|error| Error { kind: error.kind, message: error.message })
}

pub(crate) fn outgoing<E: EventData>(event: &E) -> Result<host::Event, Error> {
    let data = serde_json::to_vec(event)
        .map_err(|error| Error { kind: ErrorKind::Invalid, message: format!("data of {} as JSON: {error}", E::TYPE) })?;
    Ok(host::Event {
        topic: E::TOPIC.to_owned(),
        key: event.key().map(|key| key.as_bytes().to_vec()),
        id: event.id().map(|id| id.to_string()),
        source: E::SOURCE.to_owned(),
        type_: E::TYPE.to_owned(),
        time: event.time().map(Timestamp::as_micros),
        subject: event.subject().map(str::to_owned),
        datacontenttype: None,
        dataschema: None,
        extensions: Vec::new(),
        data: Some(data),
    })
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Written {
        author: String,
        note: Option<String>,
    }

    impl EventData for Written {
        const TYPE: &'static str = "note.written";
        const TOPIC: &'static str = "notes.events";
        const SOURCE: &'static str = "notes";

        fn key(&self) -> Option<&str> {
            Some(&self.author)
        }
    }

    #[test]
    fn an_event_carries_its_key_and_its_nulls() {
        let event = outgoing(&Written { author: "alice".into(), note: None }).unwrap();
        assert_eq!(
            (event.topic.as_str(), event.type_.as_str(), event.source.as_str()),
            ("notes.events", "note.written", "notes")
        );
        assert_eq!(event.key.as_deref(), Some(&b"alice"[..]));
        assert_eq!(event.data.as_deref(), Some(&br#"{"author":"alice","note":null}"#[..]));
        assert_eq!((event.id, event.time), (None, None));
    }
}
