//! `tidemill:publish`: events as outbox rows, in the form of CloudEvents 1.0 (structured JSON, section 3 of its JSON event format).

use crate::bindings::publish::{self, Error, ErrorKind, Event};
use crate::store::{Envelope, StatementError, StatementErrorKind, Unit};
use base64::Engine as _;
use serde::Serialize;
use serde_json::value::RawValue;
use wasmtime::component::{HasData, Linker};

/// The content type of what is published.
pub const STRUCTURED: &str = "application/cloudevents+json; charset=UTF-8";

/// All events of one unit together, whatever its limits say: they wait in memory for the end of the unit.
const LARGEST_UNIT: usize = 64 << 20;

/// How a structured event without id and time begins. They are put behind it when a job fires.
const DEFERRED_FROM: usize = "{\"specversion\":\"1.0\",".len();

/// The longest `id`, `source` or `type`, in bytes.
const LONGEST: usize = 1_000;

/// What id and time take of a structured event, in bytes.
const IDENTITY: usize = 90;

/// Attributes that are not extensions, or that the host sets itself.
const RESERVED: &[&str] = &[
    "specversion",
    "id",
    "source",
    "type",
    "time",
    "subject",
    "datacontenttype",
    "dataschema",
    "data",
    "data_base64",
    "correlationid",
    "traceparent",
    "tracestate",
];

/// What caused the invocation, or one event of its batch: it goes on in everything that is published.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// The correlation id of the request or event.
    pub correlation_id: Option<String>,
    /// W3C trace context for what follows.
    pub traceparent: Option<String>,
}

/// What the publish calls of one invocation work with.
pub struct PublishContext<'a> {
    /// The invocation's unit of work.
    pub unit: &'a mut Unit,
    /// The topics that the manifest grants.
    pub topics: &'a [String],
    /// The request, or each event of the batch.
    pub causes: &'a [Cause],
    /// How many events one invocation may publish.
    pub max_events: usize,
    /// How many distinct keys they may have.
    pub max_keys: usize,
    /// The size of one record (key and value) in bytes.
    pub max_size: usize,
}

/// State that can lend a [`PublishContext`].
pub trait PublishView: Send {
    /// Lends it.
    fn publish(&mut self) -> PublishContext<'_>;
}

struct HasPublish;

impl HasData for HasPublish {
    type Data<'a> = PublishContext<'a>;
}

/// Links `tidemill:publish/publish`.
pub fn add_to_linker<T: PublishView + 'static>(linker: &mut Linker<T>) -> wasmtime::Result<()> {
    publish::add_to_linker::<T, HasPublish>(linker, T::publish)
}

impl publish::Host for PublishContext<'_> {
    async fn publish(&mut self, event: Event, cause: Option<u32>) -> wasmtime::Result<Result<String, Error>> {
        if let Err(error) = self.unit.ensure_sound() {
            return Ok(Err(Error { kind: ErrorKind::TransactionFailed, message: error.message }));
        }
        let published = self.envelope(event, cause).and_then(|envelope| {
            let id = envelope.event_id.clone();
            self.unit.publish(envelope).map_err(|error| Error { kind: ErrorKind::TransactionFailed, message: error.message })?;
            Ok(id)
        });
        if let Err(error) = &published {
            let kind = match error.kind {
                ErrorKind::Limit => StatementErrorKind::Limit,
                _ => StatementErrorKind::Refused,
            };
            self.unit.doom(StatementError::new(kind, error.message.clone()));
        }
        Ok(published)
    }
}

impl PublishContext<'_> {
    /// An event that is published now.
    fn envelope(&self, event: Event, cause: Option<u32>) -> Result<Envelope, Error> {
        if self.unit.published() >= self.max_events {
            return Err(limit(format!("more than {} events in one invocation (limit `events`)", self.max_events)));
        }
        let id = event.id.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let time = event.time.unwrap_or_else(|| jiff::Timestamp::now().as_microsecond());
        self.checked(event, cause, Some((id, time)))
    }

    /// An event that is published later, when its id and time are known: its value is what follows them.
    pub(super) fn deferred(&self, event: Event, cause: Option<u32>) -> Result<Envelope, Error> {
        let mut envelope = self.checked(event, cause, None)?;
        envelope.value.drain(..DEFERRED_FROM);
        Ok(envelope)
    }

    fn checked(&self, event: Event, cause: Option<u32>, identity: Option<(String, i64)>) -> Result<Envelope, Error> {
        if !self.topics.contains(&event.topic) {
            let message =
                format!("the manifest does not grant topic `{}`; add it to `[publish] topics` in handler.toml", event.topic);
            return Err(Error { kind: ErrorKind::NotGranted, message });
        }
        if let Some((keys, false)) = event.key.as_ref().map(|key| self.unit.published_keys(key))
            && keys >= self.max_keys
        {
            return Err(limit(format!("events of more than {} distinct keys in one invocation (limit `keys`)", self.max_keys)));
        }
        let cause = self.cause(cause)?;
        let value = structured(&event, identity.as_ref().map(|(id, time)| (id.as_str(), *time)), cause)?;
        let later = if identity.is_some() { 0 } else { IDENTITY };
        let size = value.len() + later + event.key.as_ref().map_or(0, Vec::len);
        if size > self.max_size {
            return Err(limit(format!(
                "an event of {size} bytes is larger than the limit `event_size` ({} bytes)",
                self.max_size
            )));
        }
        if self.unit.published_bytes() + size > LARGEST_UNIT {
            return Err(limit(format!("the events of one invocation are larger than {LARGEST_UNIT} bytes together")));
        }
        Ok(Envelope {
            topic: event.topic,
            key: event.key,
            value,
            content_type: STRUCTURED,
            event_id: identity.map(|(id, _)| id).unwrap_or_default(),
            correlation_id: cause.correlation_id.clone(),
            traceparent: cause.traceparent.clone(),
        })
    }

    fn cause(&self, position: Option<u32>) -> Result<&Cause, Error> {
        match (position.map(|p| p as usize), self.causes) {
            (None, [only]) => Ok(only),
            (None, causes) => {
                Err(invalid(format!("the batch has {} events: `cause` must say which one caused this one", causes.len())))
            }
            (Some(position), causes) => causes
                .get(position)
                .ok_or_else(|| invalid(format!("`cause` is {position}, but the batch has {} events", causes.len()))),
        }
    }
}

#[derive(Serialize)]
struct Structured<'a> {
    specversion: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    source: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    datacontenttype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataschema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlationid: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    #[serde(flatten)]
    extensions: std::collections::BTreeMap<&'a str, &'a str>,
}

/// `identity` is id and time in microseconds since 1970, where they are known.
fn structured(event: &Event, identity: Option<(&str, i64)>, cause: &Cause) -> Result<Vec<u8>, Error> {
    let id = identity.map(|(id, _)| id);
    for (name, value) in [("id", id.unwrap_or("later")), ("source", &event.source), ("type", &event.type_)] {
        if value.is_empty() {
            return Err(invalid(format!("attribute `{name}` is empty")));
        }
        // No consumer of ours could note it.
        storable(name, value).map_err(|reason| invalid(format!("the event cannot be published: {reason}")))?;
    }
    for (name, _) in &event.extensions {
        let well_formed =
            !name.is_empty() && name.len() <= 20 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !well_formed || RESERVED.contains(&name.as_str()) {
            return Err(invalid(format!(
                "`{name}` cannot be an extension: 1 to 20 lower-case letters and digits, and no attribute of CloudEvents or of the host"
            )));
        }
    }
    let time = identity.map(|(_, micros)| jiff::Timestamp::from_microsecond(micros)).transpose();
    let time = time.map_err(|_| invalid("attribute `time` is out of range".to_owned()))?;
    let content_type = event.datacontenttype.as_deref().unwrap_or("application/json");
    let attributes = Structured {
        specversion: "1.0",
        id,
        source: &event.source,
        r#type: &event.type_,
        time: time.map(|time| format!("{time:.6}")),
        subject: event.subject.as_deref(),
        datacontenttype: content_type,
        dataschema: event.dataschema.as_deref(),
        correlationid: cause.correlation_id.as_deref(),
        traceparent: cause.traceparent.as_deref(),
        extensions: event.extensions.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
    };
    let mut json = serde_json::to_vec(&attributes).map_err(|error| invalid(error.to_string()))?;
    let Some(data) = &event.data else { return Ok(json) };
    // The payload goes in as it is, last, so that it is neither parsed into a tree nor printed again.
    json.pop();
    if is_json(content_type) {
        let raw: &RawValue =
            serde_json::from_slice(data).map_err(|error| invalid(format!("data is not what `{content_type}` says: {error}")))?;
        json.extend(b",\"data\":");
        json.extend(raw.get().as_bytes());
    } else {
        json.extend(b",\"data_base64\":\"");
        json.extend(base64::engine::general_purpose::STANDARD.encode(data).as_bytes());
        json.push(b'"');
    }
    json.push(b'}');
    Ok(json)
}

/// Whether a media type is JSON (RFC 6839's `+json` included).
pub fn is_json(content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = media.len().checked_sub("+json".len()).and_then(|begin| media.get(begin..));
    media.eq_ignore_ascii_case("application/json") || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case("+json"))
}

fn invalid(message: String) -> Error {
    Error { kind: ErrorKind::Invalid, message }
}

fn limit(message: String) -> Error {
    Error { kind: ErrorKind::Limit, message }
}

/// Whether an attribute can be noted: what identifies an event is kept in an index.
pub fn storable(name: &str, value: &str) -> Result<(), String> {
    if value.len() > LONGEST {
        return Err(format!("its `{name}` has {} bytes; {LONGEST} are the most", value.len()));
    }
    match value.contains('\0') {
        true => Err(format!("its `{name}` contains a zero character")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTIFIED: Option<(&str, i64)> = Some(("e-1", 0));

    fn event(data: Option<&[u8]>) -> Event {
        Event {
            topic: "orders".into(),
            key: None,
            id: None,
            source: "shop".into(),
            type_: "order.placed".into(),
            time: None,
            subject: None,
            datacontenttype: None,
            dataschema: None,
            extensions: vec![("tenant".into(), "a\"b".into())],
            data: data.map(<[u8]>::to_vec),
        }
    }

    #[test]
    fn c12_an_event_is_structured_json_with_its_cause() {
        let cause = Cause { correlation_id: Some("c-1".into()), traceparent: Some("00-a-b-01".into()) };
        let json = structured(&event(Some(b"{\"n\": 1.10}")), IDENTIFIED, &cause).unwrap();
        let text = String::from_utf8(json).unwrap();
        assert!(text.ends_with(",\"data\":{\"n\": 1.10}}"), "the payload is kept to the letter: {text}");
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["specversion"], "1.0");
        assert_eq!(value["time"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(value["correlationid"], "c-1");
        assert_eq!(value["traceparent"], "00-a-b-01");
        assert_eq!(value["tenant"], "a\"b");
    }

    #[test]
    fn c12_data_that_is_not_what_it_says_is_refused() {
        let error = structured(&event(Some(b"{")), IDENTIFIED, &Cause::default()).unwrap_err();
        assert!(error.message.contains("application/json"), "{}", error.message);
        let mut named = event(None);
        named.extensions = vec![("traceparent".into(), "x".into())];
        assert!(structured(&named, IDENTIFIED, &Cause::default()).unwrap_err().message.contains("traceparent"));
        // What no consumer could note in its inbox.
        for (source, says) in [("x".repeat(1_001), "1001 bytes"), ("a\0b".to_owned(), "zero character")] {
            let unnotable = Event { source, ..event(None) };
            let error = structured(&unnotable, IDENTIFIED, &Cause::default()).unwrap_err();
            assert!(error.message.contains("`source`") && error.message.contains(says), "{error:?}");
        }
    }

    #[test]
    fn c12_json_is_known_by_its_media_type() {
        for media in ["application/json", "Application/JSON; charset=UTF-8", "application/cloudevents+JSON", "+json"] {
            assert!(is_json(media), "{media}");
        }
        for media in ["text/plain", "json", "", "application/jsonl", "application/cloudevents+jsön", "ö"] {
            assert!(!is_json(media), "{media}");
        }
    }

    #[test]
    fn c12_bytes_travel_as_base64() {
        let mut binary = event(Some(&[0, 255]));
        binary.datacontenttype = Some("application/octet-stream".into());
        let value: serde_json::Value =
            serde_json::from_slice(&structured(&binary, IDENTIFIED, &Cause::default()).unwrap()).unwrap();
        assert_eq!(value["data_base64"], "AP8=");
    }

    #[test]
    fn c13_an_event_for_later_lacks_only_its_id_and_time() {
        let later = structured(&event(Some(b"{}")), None, &Cause::default()).unwrap();
        let front = format!(r#"{{"specversion":"1.0","id":"e-1","time":"{}","#, "1970-01-01T00:00:00.000000Z");
        assert_eq!(front.len() - DEFERRED_FROM, r#""id":"e-1","time":"1970-01-01T00:00:00.000000Z","#.len());
        let whole = [front.as_bytes(), &later[DEFERRED_FROM..]].concat();
        let now = structured(&event(Some(b"{}")), IDENTIFIED, &Cause::default()).unwrap();
        let read = |json: &[u8]| serde_json::from_slice::<serde_json::Value>(json).unwrap();
        assert_eq!(read(&whole), read(&now));
        let longest = r#""id":"00000000-0000-8000-8000-000000000000","time":"9999-12-30T22:00:00.000000Z","#;
        assert!(longest.len() <= IDENTITY);
    }
}
