//! Rows as `serde` types: a struct takes the columns by name, a tuple by place, and anything else is the row's only column.
//!
//! A `json` column is read as the JSON that it holds, a `timestamptz` as a [`Timestamp`](crate::Timestamp) or as RFC 3339 text, a
//! `numeric` as a number or its text, an array as a sequence.

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor},
    forward_to_deserialize_any,
};

use super::{Error, Value};
use crate::Timestamp;

type Serde = de::value::Error;

/// Reads one row.
pub fn from_row<T: DeserializeOwned>(columns: &[String], row: Vec<Value>) -> Result<T, Error> {
    T::deserialize(Row { columns, values: row }).map_err(|error| Error::rows(error.to_string()))
}

struct Row<'a> {
    columns: &'a [String],
    values: Vec<Value>,
}

impl Row<'_> {
    fn only(mut self) -> Result<Cell, Serde> {
        match (self.values.pop(), self.values.len()) {
            (Some(value), 0) => Ok(Cell(value)),
            (_, others) => Err(de::Error::custom(format!("one column was expected, not {}", others + 1))),
        }
    }
}

macro_rules! only {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
            self.only()?.$method(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Row<'_> {
    type Error = Serde;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        visitor.visit_map(Columns { rest: self.columns.iter().zip(self.values), current: None })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Serde> {
        visitor.visit_seq(de::value::SeqDeserializer::new(self.values.into_iter().map(Cell)))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, length: usize, visitor: V) -> Result<V::Value, Serde> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Serde> {
        if name == Timestamp::SERDE_NAME {
            self.only()?.deserialize_newtype_struct(name, visitor)
        } else {
            visitor.visit_newtype_struct(self)
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Serde> {
        self.only()?.deserialize_enum(name, variants, visitor)
    }

    only! {
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_seq
    }

    forward_to_deserialize_any! { i128 u128 unit unit_struct map struct identifier ignored_any }
}

struct Columns<I> {
    rest: I,
    current: Option<(String, Value)>,
}

impl<'de, 'a, I: Iterator<Item = (&'a String, Value)>> de::MapAccess<'de> for Columns<I> {
    type Error = Serde;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Serde> {
        let Some((name, value)) = self.rest.next() else {
            return Ok(None);
        };
        let key = seed.deserialize(name.as_str().into_deserializer())?;
        self.current = Some((name.clone(), value));
        Ok(Some(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Serde> {
        let (name, value) = self.current.take().ok_or_else(|| de::Error::custom("a value without its column"))?;
        seed.deserialize(Cell(value)).map_err(|error| de::Error::custom(format!("column `{name}`: {error}")))
    }
}

/// One value of a row.
struct Cell(Value);

impl IntoDeserializer<'_, Serde> for Cell {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

fn sequence<'de, V: Visitor<'de>, T>(items: Vec<Option<T>>, case: fn(T) -> Value, visitor: V) -> Result<V::Value, Serde> {
    let cells = items.into_iter().map(|item| Cell(item.map_or(Value::Null, case)));
    visitor.visit_seq(de::value::SeqDeserializer::new(cells))
}

fn json(text: &str) -> Result<serde_json::Value, Serde> {
    serde_json::from_str(text).map_err(de::Error::custom)
}

/// Numbers are read from `numeric` by their text, from `json` by its value, from all others as they are.
macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
            match &self.0 {
                Value::Numeric(text) => match text.parse::<$type>() {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => Err(de::Error::invalid_value(de::Unexpected::Str(text), &visitor)),
                },
                Value::Timestamp(micros) => visitor.visit_i64(*micros),
                _ => self.deserialize_any(visitor),
            }
        }
    )*};
}

impl<'de> de::Deserializer<'de> for Cell {
    type Error = Serde;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Boolean(value) => visitor.visit_bool(value),
            Value::Integer(value) => visitor.visit_i64(value),
            Value::Float(value) => visitor.visit_f64(value),
            Value::Bytes(value) => visitor.visit_byte_buf(value),
            Value::Text(text) | Value::Numeric(text) | Value::Uuid(text) | Value::Date(text) | Value::Time(text) => {
                visitor.visit_string(text)
            }
            Value::Json(text) => json(&text)?.deserialize_any(visitor).map_err(de::Error::custom),
            Value::Timestamp(micros) => visitor.visit_string(Timestamp::from_micros(micros).to_string()),
            Value::BooleanArray(items) => sequence(items, Value::Boolean, visitor),
            Value::IntegerArray(items) => sequence(items, Value::Integer, visitor),
            Value::FloatArray(items) => sequence(items, Value::Float, visitor),
            Value::TextArray(items) => sequence(items, Value::Text, visitor),
            Value::BytesArray(items) => sequence(items, Value::Bytes, visitor),
            Value::JsonArray(items) => sequence(items, Value::Json, visitor),
            Value::UuidArray(items) => sequence(items, Value::Uuid, visitor),
            Value::TimestampArray(items) => sequence(items, Value::Timestamp, visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        if self.0 == Value::Null { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Serde> {
        match self.0 {
            Value::Timestamp(micros) if name == Timestamp::SERDE_NAME => visitor.visit_i64(micros),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Serde> {
        match self.0 {
            Value::Text(text) => visitor.visit_enum(text.into_deserializer()),
            Value::Json(text) => json(&text)?.deserialize_enum(name, variants, visitor).map_err(de::Error::custom),
            _ => Err(de::Error::invalid_type(de::Unexpected::Other("no text"), &visitor)),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        match self.0 {
            Value::Json(text) => visitor.visit_string(text),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        self.deserialize_string(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Serde> {
        match self.0 {
            Value::Bytes(bytes) => visitor.visit_seq(de::value::SeqDeserializer::new(bytes.into_iter())),
            _ => self.deserialize_any(visitor),
        }
    }

    numbers! {
        deserialize_i8 visit_i8 i8; deserialize_i16 visit_i16 i16; deserialize_i32 visit_i32 i32; deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u8 u8; deserialize_u16 visit_u16 u16; deserialize_u32 visit_u32 u32; deserialize_u64 visit_u64 u64;
        deserialize_f32 visit_f32 f32; deserialize_f64 visit_f64 f64;
    }

    forward_to_deserialize_any! {
        bool i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests;
