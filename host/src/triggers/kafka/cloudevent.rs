//! Record → CloudEvent 1.0, by the Kafka protocol binding: structured (`content-type: application/cloudevents+json`) or binary (`ce_…`
//! headers). A record without either that holds a structured event all the same is taken as one, so that `kcat` can be used by hand.

use crate::bindings::events::Event;
use crate::capabilities::publish::{Cause, is_json, storable};
use crate::manifest::Payload;
use crate::store::{Identity, Record, bucket_of};
use base64::Engine as _;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The event of a record, or why it is none.
pub(super) fn decode(record: &Record, payload: Payload) -> Result<Event, String> {
    match payload {
        Payload::CloudEvents => cloudevent(record),
        Payload::Raw => Ok(raw(record)),
    }
}

/// The identity of a record that carries none of its own: its partition as `source`, its offset as `id`.
pub(super) fn identity_of(record: &Record) -> Identity {
    let source = format!("//kafka/{}/{}", record.topic, record.partition);
    Identity { source, id: record.offset.to_string(), bucket: bucket_of(record.timestamp) }
}

/// Any bytes, as an event of the type `raw`. A trace is taken from the record's headers.
fn raw(record: &Record) -> Event {
    let carried = ["correlationid", "traceparent", "tracestate"];
    let extension = |name: &str| Some((name.to_owned(), record.header(name)?.to_owned()));
    let Identity { source, id, .. } = identity_of(record);
    Event {
        id,
        source,
        type_: "raw".to_owned(),
        time: None,
        subject: None,
        datacontenttype: record.header("content-type").map(str::to_owned),
        dataschema: None,
        extensions: carried.into_iter().filter_map(extension).collect(),
        data: record.value.clone(),
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        key: record.key.clone(),
        timestamp: record.timestamp,
    }
}

fn cloudevent(record: &Record) -> Result<Event, String> {
    let content_type = record.header("content-type").unwrap_or_default();
    let begins = |with: &str| content_type.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    if begins("application/cloudevents-batch") {
        return Err("it is a batch of CloudEvents; one record holds one event".to_owned());
    }
    let structured = begins("application/cloudevents");
    if structured && !is_json(&content_type.to_ascii_lowercase()) {
        return Err(format!("its format `{content_type}` is not JSON"));
    }
    if !structured && record.header("ce_specversion").is_some() {
        return binary(record);
    }
    let value = record.value.as_deref().ok_or("it has no value (a tombstone), so there is no event")?;
    from_json(record, value).map_err(|reason| match structured {
        true => reason,
        false => format!(
            "{reason} (and it has neither the content-type of a structured CloudEvent nor the ce_ headers of a binary one)"
        ),
    })
}

/// What an event's effects go on from.
pub(super) fn cause(event: &Event) -> Cause {
    let extension = |name: &str| event.extensions.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    Cause { correlation_id: extension("correlationid"), traceparent: extension("traceparent") }
}

/// The name of a member, copied only if it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// By name, each name once, the last one given. There are about ten, for which a vector is much cheaper than a map.
#[derive(Debug)]
struct ByName<'a, T>(Vec<(Cow<'a, str>, T)>);

/// Context attributes in their string form.
type Attributes<'a> = ByName<'a, String>;

impl<'a, T> ByName<'a, T> {
    fn new(mut pairs: Vec<(Cow<'a, str>, T)>) -> Self {
        // Stable, so of two with one name the later one stands behind; it is kept.
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        Self(pairs)
    }

    fn get(&self, name: &str) -> Option<&T> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn remove(&mut self, name: &str) -> Option<T> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.remove(at).1)
    }
}

impl<'de> Deserialize<'de> for ByName<'de, &'de RawValue> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = ByName<'de, &'de RawValue>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::with_capacity(16);
                while let Some((Name(name), value)) = map.next_entry()? {
                    pairs.push((name, value));
                }
                Ok(ByName::new(pairs))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

fn from_json(record: &Record, value: &[u8]) -> Result<Event, String> {
    let members: ByName<'_, &RawValue> =
        serde_json::from_slice(value).map_err(|error| format!("it is no JSON object: {error}"))?;
    let mut text = Vec::with_capacity(members.0.len());
    let mut data = None;
    for (name, raw) in members.0 {
        match &*name {
            "data" => data = (raw.get() != "null").then(|| raw.get().as_bytes().to_vec()),
            "data_base64" => {
                let encoded: String = serde_json::from_str(raw.get()).map_err(|_| "`data_base64` is no string".to_owned())?;
                let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
                data = Some(decoded.map_err(|error| format!("`data_base64` is no base64: {error}"))?);
            }
            _ => {
                if let Some(value) = attribute(&name, raw)? {
                    text.push((name, value));
                }
            }
        }
    }
    let text = ByName(text);
    // A payload of another kind travels as a JSON string (JSON event format, 3.1): the handler gets what is in it.
    let media = text.get("datacontenttype").map_or("application/json", String::as_str);
    if !is_json(media)
        && let Some(Ok(content)) = data.as_deref().map(serde_json::from_slice::<String>)
    {
        data = Some(content.into_bytes());
    }
    event(record, text, data)
}

/// The string form of a context attribute; null counts as absent.
fn attribute(name: &str, raw: &RawValue) -> Result<Option<String>, String> {
    // Nearly all are text without an escape, which needs no second parser.
    if let Some(text) = raw.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && !text.contains('\\')
    {
        return Ok(Some(text.to_owned()));
    }
    match serde_json::from_str::<serde_json::Value>(raw.get()) {
        Ok(serde_json::Value::Null) => Ok(None),
        Ok(serde_json::Value::String(text)) => Ok(Some(text)),
        Ok(serde_json::Value::Bool(value)) => Ok(Some(value.to_string())),
        Ok(serde_json::Value::Number(number)) => Ok(Some(number.to_string())),
        _ => Err(format!("attribute `{name}` is neither text, number nor boolean")),
    }
}

fn binary(record: &Record) -> Result<Event, String> {
    let mut text = Vec::new();
    for (key, value) in &record.headers {
        let key = key.to_ascii_lowercase();
        let name = match (key.strip_prefix("ce_"), key.as_str()) {
            (Some(name), _) => name,
            (None, "content-type") => "datacontenttype",
            _ => continue,
        };
        let value =
            std::str::from_utf8(value.as_deref().unwrap_or_default()).map_err(|_| format!("header `{key}` is not UTF-8"))?;
        text.push((Cow::Owned(name.to_owned()), value.to_owned()));
    }
    event(record, ByName::new(text), record.value.clone())
}

fn event(record: &Record, mut attributes: Attributes<'_>, data: Option<Vec<u8>>) -> Result<Event, String> {
    match attributes.remove("specversion").as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(format!("its specversion is `{other}`; 1.0 is understood")),
        None => return Err("it has no `specversion`, so it is no CloudEvent".to_owned()),
    }
    let mut required = |name: &str| match attributes.remove(name) {
        Some(value) if !value.is_empty() => Ok(value),
        _ => Err(format!("it has no `{name}`")),
    };
    let (id, source, type_) = (required("id")?, required("source")?, required("type")?);
    for (name, value) in [("id", &id), ("source", &source), ("type", &type_)] {
        storable(name, value)?;
    }
    let time = match attributes.remove("time") {
        None => None,
        Some(text) => {
            let time: jiff::Timestamp = text.parse().map_err(|_| format!("its time `{text}` is not RFC 3339"))?;
            Some(time.as_microsecond())
        }
    };
    Ok(Event {
        id,
        source,
        type_,
        time,
        subject: attributes.remove("subject"),
        datacontenttype: attributes.remove("datacontenttype"),
        dataschema: attributes.remove("dataschema"),
        extensions: attributes.0.into_iter().map(|(name, value)| (name.into_owned(), value)).collect(),
        data,
        topic: record.topic.clone(),
        partition: record.partition,
        offset: record.offset,
        key: record.key.clone(),
        timestamp: record.timestamp,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(headers: &[(&str, &str)], value: Option<&str>) -> Record {
        Record {
            topic: "orders".into(),
            partition: 0,
            offset: 7,
            key: None,
            value: value.map(|v| v.as_bytes().to_vec()),
            headers: headers.iter().map(|(k, v)| ((*k).into(), Some(v.as_bytes().to_vec()))).collect(),
            timestamp: 0,
        }
    }

    #[test]
    fn c12_structured_and_binary_give_the_same_event() {
        let json = r#"{"specversion":"1.0","id":"1","source":"shop","type":"placed","time":"1970-01-01T00:00:01Z","n":5,"data":{"a": 1}}"#;
        let structured =
            cloudevent(&record(&[("Content-Type", "application/cloudevents+json; charset=UTF-8")], Some(json))).unwrap();
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", "1"),
            ("ce_source", "shop"),
            ("ce_type", "placed"),
            ("ce_time", "1970-01-01T00:00:01Z"),
            ("ce_n", "5"),
        ];
        let binary = cloudevent(&record(&headers, Some("{\"a\": 1}"))).unwrap();
        assert_eq!(format!("{structured:?}"), format!("{binary:?}"));
        assert_eq!(structured.time, Some(1_000_000));
        assert_eq!(structured.extensions, [("n".to_owned(), "5".to_owned())]);
        assert_eq!(structured.data.as_deref(), Some(&b"{\"a\": 1}"[..]));
    }

    #[test]
    fn c12_of_an_attribute_that_comes_twice_the_last_one_counts() {
        let json = r#"{"specversion":"1.0","id":"1","z":"a","source":"s","type":"t","id":"2","z":"b","a":"c","z":"d","data":1,"data":2}"#;
        let structured = cloudevent(&record(&[], Some(json))).unwrap();
        assert_eq!((structured.id.as_str(), structured.data.as_deref()), ("2", Some(&b"2"[..])));
        let extensions = [("a".to_owned(), "c".to_owned()), ("z".to_owned(), "d".to_owned())];
        assert_eq!(structured.extensions, extensions);
        let headers = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "t"), ("CE_id", "2")];
        assert_eq!(cloudevent(&record(&headers, None)).unwrap().id, "2");
    }

    #[test]
    fn c12_what_is_no_event_is_said_to_be_none() {
        for (headers, value, says) in [
            (&[][..], None, "tombstone"),
            (&[], Some("hello"), "no JSON object"),
            (&[], Some("[]"), "no JSON object"),
            (&[], Some("{}"), "specversion"),
            (&[], Some(r#"{"specversion":"2.0"}"#), "2.0"),
            (&[], Some(r#"{"specversion":"1.0","source":"s","type":"t"}"#), "`id`"),
            (&[], Some(r#"{"specversion":"1.0","id":"","source":"s","type":"t"}"#), "`id`"),
            (&[], Some(r#"{"specversion":"1.0","id":"1","source":"s","type":"t","time":"soon"}"#), "soon"),
            (&[("content-type", "application/cloudevents-batch+json")], Some("[]"), "batch"),
            (&[("ce_specversion", "1.0")], Some("{}"), "`id`"),
            (&[], Some(r#"{"specversion":"1.0","id":"a\u0000b","source":"s","type":"t"}"#), "zero character"),
            (
                &[],
                Some(&format!(r#"{{"specversion":"1.0","id":"{}","source":"s","type":"t"}}"#, "x".repeat(1_001))),
                "1001 bytes",
            ),
        ] {
            let reason = cloudevent(&record(headers, value)).unwrap_err();
            assert!(reason.contains(says), "{value:?}: {reason}");
        }
    }
}
