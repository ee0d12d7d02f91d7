//! Rust values as SQL parameters.

use std::borrow::Cow;

use serde::Serialize;
use uuid::Uuid;

use super::Value;
use crate::Timestamp;

/// What can be a parameter. The type that the server inferred for `$n` decides; text fits a `uuid`, a `date` or a `time` if it is one.
pub trait ToValue {
    /// The parameter.
    fn to_value(&self) -> Value;
}

/// What can be an element of an array parameter.
pub trait ArrayElement {
    /// The array; a `None` is a NULL in it.
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value
    where
        Self: 'a;
}

/// A `serde` value as `json` or `jsonb`.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

macro_rules! scalar {
    ($($type:ty => $value:path, $array:path, |$item:ident| $convert:expr;)*) => {$(
        impl ToValue for $type {
            fn to_value(&self) -> Value {
                let $item = self;
                $value($convert)
            }
        }
        impl ArrayElement for $type {
            fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value where Self: 'a {
                $array(items.map(|item| item.map(|$item| $convert)).collect())
            }
        }
    )*};
}

scalar! {
    bool => Value::Boolean, Value::BooleanArray, |it| *it;
    i16 => Value::Integer, Value::IntegerArray, |it| i64::from(*it);
    i32 => Value::Integer, Value::IntegerArray, |it| i64::from(*it);
    i64 => Value::Integer, Value::IntegerArray, |it| *it;
    u16 => Value::Integer, Value::IntegerArray, |it| i64::from(*it);
    u32 => Value::Integer, Value::IntegerArray, |it| i64::from(*it);
    f32 => Value::Float, Value::FloatArray, |it| f64::from(*it);
    f64 => Value::Float, Value::FloatArray, |it| *it;
    String => Value::Text, Value::TextArray, |it| it.clone();
    Cow<'_, str> => Value::Text, Value::TextArray, |it| it.as_ref().to_owned();
    Uuid => Value::Uuid, Value::UuidArray, |it| it.to_string();
    Timestamp => Value::Timestamp, Value::TimestampArray, |it| it.as_micros();
    serde_json::Value => Value::Json, Value::JsonArray, |it| it.to_string();
}

impl<T: Serialize> Json<T> {
    /// A value that can't be written as JSON becomes a text that the server refuses, and so names.
    fn text(&self) -> String {
        serde_json::to_string(&self.0).unwrap_or_else(|error| error.to_string())
    }
}

impl<T: Serialize> ToValue for Json<T> {
    fn to_value(&self) -> Value {
        Value::Json(self.text())
    }
}

impl<T: Serialize> ArrayElement for Json<T> {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value
    where
        Self: 'a,
    {
        Value::JsonArray(items.map(|item| item.map(Json::text)).collect())
    }
}

/// JSON text as `json` or `jsonb`, as it is. Text that is no JSON is refused by the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawJson<'a>(pub &'a str);

impl ToValue for RawJson<'_> {
    fn to_value(&self) -> Value {
        Value::Json(self.0.to_owned())
    }
}

impl ArrayElement for RawJson<'_> {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value
    where
        Self: 'a,
    {
        Value::JsonArray(items.map(|item| item.map(|json| json.0.to_owned())).collect())
    }
}

impl ToValue for Value {
    fn to_value(&self) -> Value {
        self.clone()
    }
}

impl ToValue for str {
    fn to_value(&self) -> Value {
        Value::Text(self.to_owned())
    }
}

impl ArrayElement for &str {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value
    where
        Self: 'a,
    {
        Value::TextArray(items.map(|item| item.map(|text| (*text).to_owned())).collect())
    }
}

impl<T: ToValue> ToValue for Option<T> {
    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Null, ToValue::to_value)
    }
}

impl<T: ArrayElement> ArrayElement for Option<T> {
    fn array<'a>(items: &mut dyn Iterator<Item = Option<&'a Self>>) -> Value
    where
        Self: 'a,
    {
        T::array(&mut items.map(|item| item.and_then(Option::as_ref)))
    }
}

impl<T: ArrayElement> ToValue for [T] {
    fn to_value(&self) -> Value {
        T::array(&mut self.iter().map(Some))
    }
}

impl<T: ArrayElement> ToValue for Vec<T> {
    fn to_value(&self) -> Value {
        self.as_slice().to_value()
    }
}

impl ToValue for [u8] {
    fn to_value(&self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl ToValue for Vec<u8> {
    fn to_value(&self) -> Value {
        Value::Bytes(self.clone())
    }
}

impl<T: ToValue + ?Sized> ToValue for &T {
    fn to_value(&self) -> Value {
        (*self).to_value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;

    #[test]
    fn parameters_become_the_values_that_they_are() {
        let (name, none): (String, Option<i32>) = ("a".into(), None);
        let params = params![1, "x", name, &name, none, Some(true), Uuid::nil(), Timestamp::from_micros(5), Json([1, 2])];
        let text = || Value::Text("a".into());
        let nil = Value::Uuid("00000000-0000-0000-0000-000000000000".into());
        assert_eq!(
            params,
            [
                Value::Integer(1),
                Value::Text("x".into()),
                text(),
                text(),
                Value::Null,
                Value::Boolean(true),
                nil,
                Value::Timestamp(5),
                Value::Json("[1,2]".into()),
            ]
        );
    }

    #[test]
    fn vectors_become_flat_arrays_and_bytes() {
        assert_eq!(vec![Some("a"), None].to_value(), Value::TextArray(vec![Some("a".into()), None]));
        assert_eq!(Vec::<String>::new().to_value(), Value::TextArray(vec![]));
        assert_eq!(vec![Some(RawJson("{}")), None].to_value(), Value::JsonArray(vec![Some("{}".into()), None]));
        assert_eq!([1_i64, 2][..].to_value(), Value::IntegerArray(vec![Some(1), Some(2)]));
        assert_eq!(vec![1_u8, 2].to_value(), Value::Bytes(vec![1, 2]));
    }
}
