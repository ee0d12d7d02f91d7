//! Record → CloudEvent 1.0, by the Kafka protocol binding: structured (`content-type: application/cloudevents+json`) or binary (`ce_…`
//! headers). A record without either that holds a structured event all the same is taken as one, so that `kcat` can be used by hand.

use crate::capabilities::publish::{is_json, storable};
use crate::engine::{Bytes, Content, Item, Text};
use crate::manifest::Payload;
use crate::store::{Identity, Record, bucket_of};
use base64::Engine as _;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::Arc;

/// The event of a record, or why it is none.
pub(super) fn decode(record: Arc<Record>, payload: Payload) -> Result<Item, String> {
    let (identity, content) = match payload {
        Payload::CloudEvents => cloudevent(&record)?,
        Payload::Raw => raw(&record),
    };
    Ok(Item::new(record, identity, content))
}

/// The identity of a record that carries none of its own: its partition as `source`, its offset as `id`.
pub(super) fn identity_of(record: &Record) -> Identity {
    let source = format!("//kafka/{}/{}", record.topic, record.partition);
    Identity { source: source.into(), id: record.offset.to_string().into(), bucket: bucket_of(record.timestamp) }
}

/// Any bytes, as an event of the type `raw`. A trace is taken from the record's headers.
fn raw(record: &Record) -> (Identity, Content) {
    let text = |text| Text::of(record, Cow::Borrowed(text));
    let carried = |name| record.header(name).map(text);
    let content = Content {
        type_: text("raw"),
        time: None,
        subject: None,
        datacontenttype: carried("content-type"),
        dataschema: None,
        correlationid: carried("correlationid"),
        traceparent: carried("traceparent"),
        extensions: carried("tracestate").map(|state| (text("tracestate"), state)).into_iter().collect(),
        data: record.value.as_deref().map(|value| Bytes::of(record, Cow::Borrowed(value))),
    };
    (identity_of(record), content)
}

fn cloudevent(record: &Record) -> Result<(Identity, Content), String> {
    let content_type = record.header("content-type").unwrap_or_default();
    let begins = |with: &str| content_type.get(..with.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(with));
    if begins("application/cloudevents-batch") {
        return Err("it is a batch of CloudEvents; one record holds one event".to_owned());
    }
    let structured = begins("application/cloudevents");
    if structured && !is_json(content_type) {
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

/// The name of a member, copied only if it is escaped.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A structured event, as it is read: the members of a JSON object in their order, of which none is looked into.
#[derive(Default)]
struct Structured<'a> {
    attributes: Found<'a>,
    data: Option<&'a str>,
    data_base64: Option<&'a str>,
}

impl<'de> Deserialize<'de> for Structured<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Structured<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut event = Structured::default();
                while let Some((Name(name), raw)) = map.next_entry::<_, &RawValue>()? {
                    let present = || Some(raw.get()).filter(|raw| *raw != "null");
                    match &*name {
                        "data" => event.data = present(),
                        "data_base64" => event.data_base64 = present(),
                        _ => event.attributes.set(name, Said::Json(raw)),
                    }
                }
                Ok(event)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What a record says of an event. Of two things with one name the later one counts.
#[derive(Default)]
struct Found<'a> {
    specversion: Option<Said<'a>>,
    id: Option<Said<'a>>,
    source: Option<Said<'a>>,
    type_: Option<Said<'a>>,
    time: Option<Said<'a>>,
    subject: Option<Said<'a>>,
    datacontenttype: Option<Said<'a>>,
    dataschema: Option<Said<'a>>,
    correlationid: Option<Said<'a>>,
    traceparent: Option<Said<'a>>,
    extensions: Vec<(Cow<'a, str>, Said<'a>)>,
}

/// The value of an attribute, not read yet.
#[derive(Clone, Copy)]
enum Said<'a> {
    Json(&'a RawValue),
    Header(&'a [u8]),
}

impl<'a> Found<'a> {
    fn set(&mut self, name: Cow<'a, str>, value: Said<'a>) {
        let place = match &*name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.type_,
            "time" => &mut self.time,
            "subject" => &mut self.subject,
            "datacontenttype" => &mut self.datacontenttype,
            "dataschema" => &mut self.dataschema,
            "correlationid" => &mut self.correlationid,
            "traceparent" => &mut self.traceparent,
            _ => return self.extensions.push((name, value)),
        };
        *place = Some(value);
    }

    /// Each once, by name.
    fn extensions(mut self) -> Vec<(Cow<'a, str>, Said<'a>)> {
        // Stable, so of two with one name the later one stands behind; it is kept.
        self.extensions.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.extensions.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        self.extensions
    }
}

impl<'a> Said<'a> {
    /// The string form of an attribute; null counts as absent.
    fn text(self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let raw = match self {
            Self::Json(raw) => raw.get(),
            Self::Header(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| format!("the header of its `{name}` is not UTF-8"))?;
                return Ok(Some(text.into()));
            }
        };
        // Nearly all are text without an escape, which needs no second parser.
        if let Some(text) = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
            && !text.contains('\\')
        {
            return Ok(Some(text.into()));
        }
        match serde_json::from_str::<serde_json::Value>(raw) {
            Ok(serde_json::Value::Null) => Ok(None),
            Ok(serde_json::Value::String(text)) => Ok(Some(text.into())),
            Ok(serde_json::Value::Bool(value)) => Ok(Some(value.to_string().into())),
            Ok(serde_json::Value::Number(number)) => Ok(Some(number.to_string().into())),
            _ => Err(format!("attribute `{name}` is neither text, number nor boolean")),
        }
    }
}

fn from_json(record: &Record, value: &[u8]) -> Result<(Identity, Content), String> {
    // As a whole: each part of it would be checked by itself.
    let text = std::str::from_utf8(value).map_err(|error| format!("it is no JSON: {error}"))?;
    let read = serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    let Structured { attributes, data, data_base64 } = read;
    let (identity, mut content) = event(record, attributes)?;
    let bytes = match (data_base64, data) {
        (Some(base64), _) => {
            let encoded: String = serde_json::from_str(base64).map_err(|_| "`data_base64` is no string".to_owned())?;
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
            Some(Cow::Owned(decoded.map_err(|error| format!("`data_base64` is no base64: {error}"))?))
        }
        (None, Some(data)) => {
            let is_json = content.datacontenttype.as_ref().is_none_or(|media| is_json(media.within(record)));
            // A payload of another kind travels as a JSON string (JSON event format, 3.1): the handler gets what is in it.
            let text = if is_json { None } else { serde_json::from_str::<String>(data).ok() };
            Some(text.map_or(Cow::Borrowed(data.as_bytes()), |text| Cow::Owned(text.into_bytes())))
        }
        (None, None) => None,
    };
    content.data = bytes.map(|bytes| Bytes::of(record, bytes));
    Ok((identity, content))
}

fn binary(record: &Record) -> Result<(Identity, Content), String> {
    let mut found = Found::default();
    for (key, value) in &record.headers {
        let key = key.to_ascii_lowercase();
        let name = match (key.strip_prefix("ce_"), key.as_str()) {
            (Some(name), _) => name.to_owned(),
            (None, "content-type") => "datacontenttype".to_owned(),
            _ => continue,
        };
        found.set(name.into(), Said::Header(value.as_deref().unwrap_or_default()));
    }
    let (identity, content) = event(record, found)?;
    Ok((identity, Content { data: record.value.as_deref().map(|value| Bytes::of(record, value.into())), ..content }))
}

fn optional<'a>(name: &str, said: Option<Said<'a>>) -> Result<Option<Cow<'a, str>>, String> {
    said.map_or(Ok(None), |said| said.text(name))
}

fn required<'a>(name: &str, said: Option<Said<'a>>) -> Result<Cow<'a, str>, String> {
    let text = optional(name, said)?.filter(|text| !text.is_empty()).ok_or_else(|| format!("it has no `{name}`"))?;
    storable(name, &text).map(|()| text)
}

/// The event without its data.
fn event(record: &Record, found: Found<'_>) -> Result<(Identity, Content), String> {
    match optional("specversion", found.specversion)?.as_deref() {
        Some("1.0") => {}
        Some(other) => return Err(format!("its specversion is `{other}`; 1.0 is understood")),
        None => return Err("it has no `specversion`, so it is no CloudEvent".to_owned()),
    }
    let (id, source) = (required("id", found.id)?, required("source", found.source)?);
    let type_ = required("type", found.type_)?;
    let time = optional("time", found.time)?.map(|text| match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_microsecond()),
        Err(_) => Err(format!("its time `{text}` is not RFC 3339")),
    });
    let text = |text| Text::of(record, text);
    let identity = Identity { source: record.share(source), id: record.share(id), bucket: bucket_of(record.timestamp) };
    let content = Content {
        type_: text(type_),
        time: time.transpose()?,
        subject: optional("subject", found.subject)?.map(text),
        datacontenttype: optional("datacontenttype", found.datacontenttype)?.map(text),
        dataschema: optional("dataschema", found.dataschema)?.map(text),
        correlationid: optional("correlationid", found.correlationid)?.map(text),
        traceparent: optional("traceparent", found.traceparent)?.map(text),
        extensions: extensions(record, found)?,
        data: None,
    };
    Ok((identity, content))
}

fn extensions(record: &Record, found: Found<'_>) -> Result<Vec<(Text, Text)>, String> {
    let found = found.extensions();
    let mut extensions = Vec::with_capacity(found.len());
    for (name, said) in found {
        if let Some(value) = said.text(&name)? {
            extensions.push((Text::of(record, name), Text::of(record, value)));
        }
    }
    Ok(extensions)
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
            value: value.map(|v| v.as_bytes().to_vec().into()),
            headers: headers.iter().map(|(k, v)| ((*k).into(), Some(v.as_bytes().to_vec().into()))).collect(),
            timestamp: 0,
        }
    }

    fn read(record: Record) -> Result<Item, String> {
        decode(record.into(), Payload::CloudEvents)
    }

    #[test]
    fn c12_structured_and_binary_give_the_same_event() {
        let json = r#"{"specversion":"1.0","id":"1","source":"shop","type":"placed","time":"1970-01-01T00:00:01Z","correlationid":"c","n":5,"traceparent":"00-a","data":{"a": 1}}"#;
        let structured = read(record(&[("Content-Type", "application/cloudevents+json; charset=UTF-8")], Some(json))).unwrap();
        let headers = [
            ("ce_specversion", "1.0"),
            ("ce_id", "1"),
            ("ce_source", "shop"),
            ("ce_type", "placed"),
            ("ce_time", "1970-01-01T00:00:01Z"),
            ("ce_traceparent", "00-a"),
            ("ce_n", "5"),
            ("ce_correlationid", "c"),
        ];
        let binary = read(record(&headers, Some("{\"a\": 1}"))).unwrap();
        let shown = |item: &Item| item.seen(|event| format!("{event:?}"));
        assert_eq!(shown(&structured), shown(&binary));
        structured.seen(|event| {
            assert_eq!((event.id, event.source, event.type_), ("1", "shop", "placed"));
            assert_eq!((event.time, event.extensions), (Some(1_000_000), &[("n", "5")][..]));
            assert_eq!((event.correlationid, event.traceparent), (Some("c"), Some("00-a")));
            assert_eq!(event.data, Some(&b"{\"a\": 1}"[..]));
        });
    }

    #[test]
    fn c12_of_an_attribute_that_comes_twice_the_last_one_counts() {
        let json = r#"{"specversion":"1.0","id":"1","z":"a","source":"s","type":"t","id":"2","z":"b","a":"c","z":"d","data":1,"data":2}"#;
        read(record(&[], Some(json))).unwrap().seen(|event| {
            assert_eq!((event.id, event.data), ("2", Some(&b"2"[..])));
            assert_eq!(event.extensions, [("a", "c"), ("z", "d")]);
        });
        let headers = [("ce_specversion", "1.0"), ("ce_id", "1"), ("ce_source", "s"), ("ce_type", "t"), ("CE_id", "2")];
        assert_eq!(read(record(&headers, None)).unwrap().identity.id, "2");
        // What does not count need not be right.
        let wrong = r#"{"specversion":"1.0","id":[],"source":"s","type":"t","x":{},"data_base64":5,"x":"a","id":"1","data_base64":"AA=="}"#;
        read(record(&[], Some(wrong))).unwrap().seen(|event| {
            assert_eq!((event.id, event.extensions, event.data), ("1", &[("x", "a")][..], Some(&[0][..])));
        });
        // Null counts as absent, and for the last one as well.
        let gone = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","z":"a","subject":"a","z":null,"subject":null}"#;
        read(record(&[], Some(gone))).unwrap().seen(|event| assert_eq!((event.subject, event.extensions), (None, &[][..])));
    }

    #[test]
    fn c12_escapes_and_payloads_of_other_kinds_are_what_they_stand_for() {
        let escaped = r#"{"specversion":"1.0","\u0069d":"a\"b","source":"s","type":"t","n\u00e9":"\u00e9","subject":"","data_base64":"AP8="}"#;
        read(record(&[], Some(escaped))).unwrap().seen(|event| {
            assert_eq!((event.id, event.subject, event.extensions), ("a\"b", Some(""), &[("né", "é")][..]));
            assert_eq!(event.data, Some(&[0, 255][..]));
        });
        let text = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"a\nb"}"#;
        read(record(&[], Some(text))).unwrap().seen(|event| assert_eq!(event.data, Some(&b"a\nb"[..])));
        let raw = decode(record(&[("TraceParent", "00-a")], Some("\u{1}")).into(), Payload::Raw).unwrap();
        let both = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"AP8=","data":null}"#;
        read(record(&[], Some(both))).unwrap().seen(|event| assert_eq!(event.data, Some(&[0, 255][..])));
        raw.seen(|event| {
            assert_eq!((event.id, event.source, event.type_), ("7", "//kafka/orders/0", "raw"));
            assert_eq!((event.traceparent, event.extensions, event.data), (Some("00-a"), &[][..], Some(&[1][..])));
        });
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
            let reason = read(record(headers, value)).unwrap_err();
            assert!(reason.contains(says), "{value:?}: {reason}");
        }
    }
}
