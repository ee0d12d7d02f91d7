//! Rust values as SQL parameters. What they say is borrowed until the host has it.

use std::borrow::Cow;

use serde::Serialize;
use uuid::{Uuid, fmt::Hyphenated};

use super::host::ValueParam;
use crate::Timestamp;

/// A parameter: the cases of the WIT text, with the texts and bytes where they are.
#[derive(Debug, Clone, PartialEq)]
pub enum Param<'a> {
    /// NULL of any type.
    Null,
    /// `bool`.
    Boolean(bool),
    /// `int2`, `int4`, `int8`, and what takes whole numbers beside them.
    Integer(i64),
    /// `float4`, `float8`.
    Float(f64),
    /// `text` and what is like it, enums, and what has a text form.
    Text(Cow<'a, str>),
    /// `bytea`.
    Bytes(&'a [u8]),
    /// `numeric` in decimal notation.
    Numeric(Cow<'a, str>),
    /// `json` and `jsonb`.
    Json(Cow<'a, str>),
    /// `uuid`.
    Uuid(Uuid),
    /// `date` as `YYYY-MM-DD`.
    Date(Cow<'a, str>),
    /// `time` as `HH:MM:SS`.
    Time(Cow<'a, str>),
    /// `timestamptz` and `timestamp`, in microseconds since 1970-01-01T00:00:00Z.
    Timestamp(i64),
    /// `bool[]`.
    BooleanArray(Vec<Option<bool>>),
    /// `int2[]`, `int4[]`, `int8[]`.
    IntegerArray(Vec<Option<i64>>),
    /// `float4[]`, `float8[]`.
    FloatArray(Vec<Option<f64>>),
    /// `text[]`, and arrays of types that have a text form, but `numeric[]`.
    TextArray(Vec<Option<Cow<'a, str>>>),
    /// `bytea[]`.
    BytesArray(Vec<Option<&'a [u8]>>),
    /// `json[]`, `jsonb[]`.
    JsonArray(Vec<Option<Cow<'a, str>>>),
    /// `uuid[]`.
    UuidArray(Vec<Option<Uuid>>),
    /// `timestamptz[]`, `timestamp[]`, like [`Timestamp`](Self::Timestamp).
    TimestampArray(Vec<Option<i64>>),
}

/// What can be a parameter. The type that the server inferred for `$n` decides; text fits a `uuid`, a `date` or a `time` if it is one.
///
/// References have it: the parameter lives as long as what is behind them, or, where that is a reference as well, behind that.
pub trait ToParam<'p> {
    /// The parameter.
    fn to_param(self) -> Param<'p>;
}

/// What can be an element of an array parameter.
pub trait ArrayElement {
    /// The array; a `None` is a NULL in it.
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Param<'a>
    where
        Self: 'a;
}

/// A `serde` value as `json` or `jsonb`.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

/// JSON text as `json` or `jsonb`, as it is. Text that is no JSON is refused by the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawJson<'a>(pub &'a str);

/// Hands parameters over as the host takes them, and returns what `call` does.
pub(super) fn lend<T>(params: &[Param<'_>], call: impl FnOnce(&[ValueParam<'_>]) -> T) -> T {
    let uuids: Vec<String> = params.iter().map(Param::uuids).collect();
    let texts: Vec<Vec<Option<&str>>> = params.iter().zip(&uuids).map(|(param, uuids)| param.texts(uuids)).collect();
    let values: Vec<_> = params.iter().zip(&uuids).zip(&texts).map(|((param, uuids), texts)| param.value(uuids, texts)).collect();
    call(&values)
}

impl Param<'_> {
    /// The texts of its UUIDs, one behind the other: one allocation for all of them.
    fn uuids(&self) -> String {
        let one = |id: &Uuid, text: &mut String| text.push_str(id.hyphenated().encode_lower(&mut [0; Hyphenated::LENGTH]));
        let mut text = String::new();
        match self {
            Self::Uuid(id) => one(id, &mut text),
            Self::UuidArray(ids) => {
                text.reserve_exact(ids.len() * Hyphenated::LENGTH);
                ids.iter().flatten().for_each(|id| one(id, &mut text));
            }
            _ => {}
        }
        text
    }

    /// The texts of an array.
    fn texts<'a>(&'a self, mut uuids: &'a str) -> Vec<Option<&'a str>> {
        let mut next = |_: &Uuid| {
            let (id, others) = uuids.split_at(Hyphenated::LENGTH);
            uuids = others;
            id
        };
        match self {
            Self::TextArray(items) | Self::JsonArray(items) => items.iter().map(Option::as_deref).collect(),
            Self::UuidArray(ids) => ids.iter().map(|id| id.as_ref().map(&mut next)).collect(),
            _ => Vec::new(),
        }
    }

    fn value<'a>(&'a self, uuids: &'a str, texts: &'a [Option<&'a str>]) -> ValueParam<'a> {
        match self {
            Self::Null => ValueParam::Null,
            Self::Boolean(value) => ValueParam::Boolean(*value),
            Self::Integer(value) => ValueParam::Integer(*value),
            Self::Float(value) => ValueParam::Float(*value),
            Self::Text(text) => ValueParam::Text(text),
            Self::Bytes(bytes) => ValueParam::Bytes(bytes),
            Self::Numeric(text) => ValueParam::Numeric(text),
            Self::Json(text) => ValueParam::Json(text),
            Self::Uuid(_) => ValueParam::Uuid(uuids),
            Self::Date(text) => ValueParam::Date(text),
            Self::Time(text) => ValueParam::Time(text),
            Self::Timestamp(micros) => ValueParam::Timestamp(*micros),
            Self::BooleanArray(items) => ValueParam::BooleanArray(items),
            Self::IntegerArray(items) => ValueParam::IntegerArray(items),
            Self::FloatArray(items) => ValueParam::FloatArray(items),
            Self::TextArray(_) => ValueParam::TextArray(texts),
            Self::BytesArray(items) => ValueParam::BytesArray(items),
            Self::JsonArray(_) => ValueParam::JsonArray(texts),
            Self::UuidArray(_) => ValueParam::UuidArray(texts),
            Self::TimestampArray(items) => ValueParam::TimestampArray(items),
        }
    }
}

/// For each type: a reference to it, the case of one and of an array, and what of it is kept. What is copied does not borrow.
macro_rules! types {
    ($($type:ty, $reference:ty => $one:path, $many:path, |$item:ident| $convert:expr;)*) => {$(
        impl<'p> ToParam<'p> for $reference {
            fn to_param(self) -> Param<'p> {
                let $item = self;
                $one($convert)
            }
        }
        impl ArrayElement for $type {
            fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Param<'a> where Self: 'a {
                $many(items.map(|item| item.map(|$item| $convert)).collect())
            }
        }
    )*};
}

types! {
    bool, &bool => Param::Boolean, Param::BooleanArray, |it| *it;
    i16, &i16 => Param::Integer, Param::IntegerArray, |it| i64::from(*it);
    i32, &i32 => Param::Integer, Param::IntegerArray, |it| i64::from(*it);
    i64, &i64 => Param::Integer, Param::IntegerArray, |it| *it;
    u16, &u16 => Param::Integer, Param::IntegerArray, |it| i64::from(*it);
    u32, &u32 => Param::Integer, Param::IntegerArray, |it| i64::from(*it);
    f32, &f32 => Param::Float, Param::FloatArray, |it| f64::from(*it);
    f64, &f64 => Param::Float, Param::FloatArray, |it| *it;
    Uuid, &Uuid => Param::Uuid, Param::UuidArray, |it| *it;
    Timestamp, &Timestamp => Param::Timestamp, Param::TimestampArray, |it| it.as_micros();
    String, &'p String => Param::Text, Param::TextArray, |it| it.as_str().into();
    Cow<'_, str>, &'p Cow<'_, str> => Param::Text, Param::TextArray, |it| Cow::Borrowed(it.as_ref());
    serde_json::Value, &serde_json::Value => Param::Json, Param::JsonArray, |it| it.to_string().into();
    RawJson<'_>, &RawJson<'p> => Param::Json, Param::JsonArray, |it| it.0.into();
}

impl<T: Serialize> Json<T> {
    /// A value that can't be written as JSON becomes a text that the server refuses, and so names.
    fn text<'p>(&self) -> Cow<'p, str> {
        serde_json::to_string(&self.0).unwrap_or_else(|error| error.to_string()).into()
    }
}

impl<'p, T: Serialize> ToParam<'p> for &Json<T> {
    fn to_param(self) -> Param<'p> {
        Param::Json(self.text())
    }
}

impl<T: Serialize> ArrayElement for Json<T> {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Param<'a>
    where
        Self: 'a,
    {
        Param::JsonArray(items.map(|item| item.map(Json::text)).collect())
    }
}

impl<'p> ToParam<'p> for &Param<'p> {
    fn to_param(self) -> Param<'p> {
        self.clone()
    }
}

impl<'p> ToParam<'p> for &'p str {
    fn to_param(self) -> Param<'p> {
        Param::Text(self.into())
    }
}

impl ArrayElement for &str {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Param<'a>
    where
        Self: 'a,
    {
        Param::TextArray(items.map(|item| item.map(|text| Cow::Borrowed(*text))).collect())
    }
}

impl<'p, 'r, T> ToParam<'p> for &'r Option<T>
where
    &'r T: ToParam<'p>,
{
    fn to_param(self) -> Param<'p> {
        self.as_ref().map_or(Param::Null, ToParam::to_param)
    }
}

impl<T: ArrayElement> ArrayElement for Option<T> {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Param<'a>
    where
        Self: 'a,
    {
        T::array(&mut items.map(|item| item.and_then(Option::as_ref)))
    }
}

impl<'p, T: ArrayElement> ToParam<'p> for &'p [T] {
    fn to_param(self) -> Param<'p> {
        T::array(&mut self.iter().map(Some))
    }
}

impl<'p, T: ArrayElement> ToParam<'p> for &'p Vec<T> {
    fn to_param(self) -> Param<'p> {
        self.as_slice().to_param()
    }
}

impl<'p> ToParam<'p> for &'p [u8] {
    fn to_param(self) -> Param<'p> {
        Param::Bytes(self)
    }
}

impl<'p> ToParam<'p> for &'p Vec<u8> {
    fn to_param(self) -> Param<'p> {
        Param::Bytes(self)
    }
}

impl<'p, T: ?Sized> ToParam<'p> for &&'p T
where
    &'p T: ToParam<'p>,
{
    fn to_param(self) -> Param<'p> {
        (*self).to_param()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;

    #[test]
    fn parameters_become_the_values_that_they_are() {
        let (name, none): (String, Option<i32>) = ("a".into(), None);
        let id = Uuid::from_u128(0x0191_c7a0_0000_7000_8000_0000_0000_0001);
        let (time, json) = (Timestamp::from_micros(5), Json([1, 2]));
        let params = params![1, "x", name, name.as_str(), none, Some(name.len() == 1), id, time, json];
        let expected = [
            ValueParam::Integer(1),
            ValueParam::Text("x"),
            ValueParam::Text("a"),
            ValueParam::Text("a"),
            ValueParam::Null,
            ValueParam::Boolean(true),
            ValueParam::Uuid("0191c7a0-0000-7000-8000-000000000001"),
            ValueParam::Timestamp(5),
            ValueParam::Json("[1,2]"),
        ];
        lend(&params, |values| assert_eq!(values, expected));
    }

    #[test]
    fn vectors_become_flat_arrays_and_bytes() {
        let ids = vec![Some(Uuid::from_u128(1)), None, Some(Uuid::from_u128(2))];
        let (texts, none) = (vec![Some("a"), None], Vec::<String>::new());
        let (json, bytes) = (vec![Some(RawJson("{}")), None], vec![1_u8, 2]);
        let params = params![texts, none, json, [1_i64, 2][..], bytes, ids];
        let (first, second) = ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002");
        let expected = [
            ValueParam::TextArray(&[Some("a"), None]),
            ValueParam::TextArray(&[]),
            ValueParam::JsonArray(&[Some("{}"), None]),
            ValueParam::IntegerArray(&[Some(1), Some(2)]),
            ValueParam::Bytes(&[1, 2]),
            ValueParam::UuidArray(&[Some(first), None, Some(second)]),
        ];
        lend(&params, |values| assert_eq!(values, expected));
    }
}
