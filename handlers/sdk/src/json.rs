//! A JSON body as a `serde` type, with errors that name the field.

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor, value::StrDeserializer};
use serde_json::{Map, Value};

use crate::{FieldError, Problem, fields::unknown};

/// Reads JSON: 400 where it is none.
pub(crate) fn parse(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body).map_err(|error| Problem::bad_request(format!("The body is no JSON: {error}.")))
}

/// Reads a whole body as `T`: 400 where it is no JSON, 422 naming the first field that does not fit.
pub(crate) fn from_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    match parse(body)? {
        Value::Object(map) => T::deserialize(Object(map)).map_err(|Wrong { field, message }| match field {
            Some(field) => Problem::invalid(vec![FieldError { field, message }]),
            None => Problem::new(422).detail(format!("The body does not fit: {message}.")),
        }),
        other => T::deserialize(other).map_err(|error| Problem::new(422).detail(format!("The body does not fit: {error}."))),
    }
}

/// What is wrong with which field.
#[derive(Debug)]
struct Wrong {
    field: Option<String>,
    message: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { field: None, message: message.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { field: Some(field.to_owned()), message: "is required".to_owned() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self { field: Some(field.to_owned()), message: unknown(field, expected) }
    }
}

struct Object(Map<String, Value>);

impl<'de> de::Deserializer<'de> for Object {
    type Error = Wrong;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_map(Members { rest: self.0.into_iter(), current: None })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        Value::Object(self.0).deserialize_enum(name, variants, visitor).map_err(de::Error::custom)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}

struct Members {
    rest: serde_json::map::IntoIter,
    current: Option<(String, Value)>,
}

impl<'de> de::MapAccess<'de> for Members {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Wrong> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        let name: StrDeserializer<'_, Wrong> = name.as_str().into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Wrong> {
        let (name, value) = self.current.take().unwrap_or_default();
        seed.deserialize(value).map_err(|error| Wrong { field: Some(name), message: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    struct Note {
        title: String,
        stars: Option<u8>,
    }

    fn wrong(body: &str) -> (u16, Vec<(String, String)>) {
        let problem = from_body::<Note>(body.as_bytes()).unwrap_err();
        (problem.status(), problem.errors().iter().map(|e| (e.field.clone(), e.message.clone())).collect())
    }

    #[test]
    fn a_problem_names_the_field() {
        let note: Note = from_body(br#"{"title": "a", "stars": 3}"#).unwrap();
        assert_eq!((note.title.as_str(), note.stars), ("a", Some(3)));
        assert_eq!(wrong("{}"), (422, vec![("title".into(), "is required".into())]));
        assert_eq!(wrong(r#"{"titel": "a"}"#), (422, vec![("titel".into(), "is not known; did you mean `title`?".into())]));
        let (status, errors) = wrong(r#"{"title": "a", "stars": "many"}"#);
        assert_eq!((status, errors[0].0.as_str()), (422, "stars"));
    }

    #[test]
    fn a_body_that_is_no_json_is_400_and_one_that_is_no_object_422() {
        for body in ["", "{", "{\"title\": }", "\u{feff}{}"] {
            assert_eq!(wrong(body).0, 400, "{body}");
        }
        for body in ["null", "17", "\"title\""] {
            assert_eq!(wrong(body), (422, vec![]), "{body}");
        }
    }
}
