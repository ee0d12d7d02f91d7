//! How bytes and times of rows are shown. The JSON forms are documented in `docs/operations.md` and stay as they are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use std::time::SystemTime;

/// A moment; RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Time {
    pub(in crate::store) fn from_column(time: SystemTime) -> Self {
        Self(Timestamp::try_from(time).unwrap_or_default())
    }

    /// Of milliseconds since 1970; nothing for absurd ones, as records can have.
    pub(super) fn from_millis(millis: i64) -> Option<Self> {
        Timestamp::from_millisecond(millis).ok().map(Self)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A key or a header: `{"text": …}` if it is UTF-8, else `{"base64": …}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(1))?;
        match std::str::from_utf8(&self.0) {
            Ok(text) => map.serialize_entry("text", text)?,
            Err(_) => map.serialize_entry("base64", &base64(&self.0))?,
        }
        map.end()
    }
}

/// For people: the text, or base64 that says so.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match std::str::from_utf8(&self.0) {
            Ok(text) => f.write_str(text),
            Err(_) => write!(f, "base64:{}", base64(&self.0)),
        }
    }
}

/// A record's header.
#[derive(Debug, Clone, Serialize)]
pub struct Header {
    /// Its name.
    pub name: String,
    /// Its value; Kafka knows headers without one.
    pub value: Option<Bytes>,
}

/// One row whole: what lists show, and the record's headers and value. The value is `{"json": …}`, `{"text": …}`, `{"base64": …}` or,
/// where the record has none, null.
#[derive(Debug, Clone, Serialize)]
pub struct Detail<T> {
    /// What lists show.
    #[serde(flatten)]
    pub row: T,
    /// The headers, in their order.
    pub headers: Vec<Header>,
    /// The value.
    #[serde(serialize_with = "value")]
    pub value: Option<Vec<u8>>,
}

impl<T> Detail<T> {
    /// Of a row with the columns `value`, `header_names` and `header_values`.
    pub(super) fn read(row: T, columns: &tokio_postgres::Row) -> Self {
        Self { row, headers: headers(columns), value: columns.get("value") }
    }
}

pub(super) fn headers(columns: &tokio_postgres::Row) -> Vec<Header> {
    let (names, values): (Vec<String>, Vec<Option<Vec<u8>>>) = (columns.get("header_names"), columns.get("header_values"));
    names.into_iter().zip(values).map(|(name, value)| Header { name, value: value.map(Bytes) }).collect()
}

/// JSON stays the text that it is: numbers and doubled names of a bad event must be seen as they are.
fn value<S: Serializer>(value: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    let Some(bytes) = value else { return serializer.serialize_none() };
    let json = std::str::from_utf8(bytes).ok().and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    match json {
        Some(json) => {
            let mut map = serializer.serialize_map(Some(1))?;
            map.serialize_entry("json", json)?;
            map.end()
        }
        None => Bytes(bytes.clone()).serialize(serializer),
    }
}

/// Bytes as base64.
pub(super) fn base64(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(value: Option<&[u8]>) -> String {
        let detail = Detail { row: json!({ "id": 1 }), headers: vec![], value: value.map(<[u8]>::to_vec) };
        serde_json::to_string(&detail).unwrap()
    }

    #[test]
    fn values_are_json_text_base64_or_nothing() {
        let exact = br#"{"n": 12345678901234567890123, "n": 1}"#;
        assert!(
            shown(Some(exact)).contains(r#""value":{"json":{"n": 12345678901234567890123, "n": 1}}"#),
            "{}",
            shown(Some(exact))
        );
        assert!(shown(Some(b"{oh")).ends_with(r#""value":{"text":"{oh"}}"#));
        assert!(shown(Some(b"")).ends_with(r#""value":{"text":""}}"#));
        assert!(shown(Some(&[0xff, 0])).ends_with(r#""value":{"base64":"/wA="}}"#));
        assert!(shown(None).ends_with(r#""value":null}"#));
    }

    #[test]
    fn times_have_milliseconds_and_absurd_ones_are_none() {
        let time = Time::from_millis(1_000).unwrap();
        assert_eq!(serde_json::to_value(time).unwrap(), json!("1970-01-01T00:00:01.000Z"));
        assert_eq!(Time::from_millis(i64::MAX), None);
    }
}
