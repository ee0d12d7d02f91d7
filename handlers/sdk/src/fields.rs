//! A body or a query read field by field, so that one answer names all wrong fields at once.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{FieldError, Problem, json};

/// The fields of a body or a query. Each is read once, by name; what nobody read is unknown, and [`finish`](Self::finish) says so.
///
/// ```
/// # use tidemill_sdk::Fields;
/// let mut fields = Fields::from_json(br#"{"stars": 9, "titel": "x"}"#)?;
/// let title = fields.required("title", |title: String| Ok(title));
/// let stars = fields.optional("stars", |stars: u8| if stars > 5 { Err("must be at most 5".into()) } else { Ok(stars) });
/// let problem = fields.finish().unwrap_err();
/// assert_eq!(problem.errors().len(), 3);
/// # Ok::<(), tidemill_sdk::Problem>(())
/// ```
#[derive(Debug)]
pub struct Fields {
    rest: Map<String, Value>,
    known: Vec<&'static str>,
    errors: Vec<FieldError>,
    source: Source,
}

/// Where fields come from.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Source {
    Body,
    /// Every field is the list of its texts, since a parameter may be given more than once.
    Query,
}

impl Fields {
    /// The members of a JSON object: 400 where the text is no JSON, 422 where it is no object.
    pub fn from_json(body: &[u8]) -> Result<Self, Problem> {
        match json::parse(body)? {
            Value::Object(rest) => Ok(Self { rest, known: Vec::new(), errors: Vec::new(), source: Source::Body }),
            _ => Err(Problem::new(422).detail("The body must be a JSON object.")),
        }
    }

    /// Reads a field that may be absent or null. `check` turns what was sent into what is meant, or says what is wrong with it.
    pub fn optional<T: DeserializeOwned, U>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        let value = self.take(name).filter(|value| !value.is_null())?;
        match value {
            Value::Array(mut values) if self.source == Source::Query => match (values.pop(), values.is_empty()) {
                (Some(value), true) => self.read(name, value, check),
                _ => {
                    self.error(name, "is given twice");
                    None
                }
            },
            value => self.read(name, value, check),
        }
    }

    /// Reads a field of a merge patch (RFC 7396): `None` where it is absent, and so stays as it is, `Some(None)` where it is null, and so
    /// is to be removed.
    pub fn patch<T: DeserializeOwned, U>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<Option<U>> {
        match self.take(name)? {
            Value::Null => Some(None),
            value => self.read(name, value, check).map(Some),
        }
    }

    /// Reads a query's parameter that may be given more than once, each time with one more value.
    pub fn repeated<U>(&mut self, name: &'static str, mut check: impl FnMut(String) -> Result<U, String>) -> Vec<U> {
        match self.take(name) {
            Some(Value::Array(values)) => values.into_iter().filter_map(|value| self.read(name, value, &mut check)).collect(),
            Some(value) => self.read(name, value, check).into_iter().collect(),
            None => Vec::new(),
        }
    }

    fn take(&mut self, name: &'static str) -> Option<Value> {
        self.known.push(name);
        self.rest.remove(name)
    }

    fn read<T: DeserializeOwned, U>(
        &mut self,
        name: &'static str,
        value: Value,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        let checked = serde_json::from_value(value).map_err(|error| error.to_string()).and_then(check);
        checked.map_err(|message| self.error(name, message)).ok()
    }

    /// Reads a field that must be there. `None` only if it is wrong, so if [`finish`](Self::finish) fails.
    pub fn required<T: DeserializeOwned, U>(
        &mut self,
        name: &'static str,
        check: impl FnOnce(T) -> Result<U, String>,
    ) -> Option<U> {
        if self.rest.get(name).is_none_or(Value::is_null) {
            self.error(name, "is required");
        }
        self.optional(name, check)
    }

    /// Says what is wrong with a field.
    pub fn error(&mut self, name: impl Into<String>, message: impl Into<String>) {
        self.errors.push(FieldError::new(name, message));
    }

    /// Whether something was found to be wrong with a field.
    pub fn is_wrong(&self, name: &str) -> bool {
        self.errors.iter().any(|error| error.field == name)
    }

    /// Whether something was found to be wrong with any field so far.
    pub fn any_wrong(&self) -> bool {
        !self.errors.is_empty()
    }

    /// The end: names every wrong field, among them those that nobody asked for. 422 for a body, 400 for a query.
    pub fn finish(mut self) -> Result<(), Problem> {
        for name in std::mem::take(&mut self.rest).keys() {
            self.error(name, unknown(name, &self.known));
        }
        match (self.errors.is_empty(), self.source) {
            (true, _) => Ok(()),
            (false, Source::Body) => Err(Problem::invalid(self.errors)),
            (false, Source::Query) => Err(Problem::invalid_parameters(self.errors)),
        }
    }
}

/// The parameters of a query (`a=1&b=2`) as fields, each a text, or several where it is given more than once.
pub(crate) fn from_query(query: &str) -> Fields {
    let mut fields = Fields { rest: Map::new(), known: Vec::new(), errors: Vec::new(), source: Source::Query };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (decode(name), decode(value)) {
            (Some(name), Some(value)) => match fields.rest.entry(name).or_insert_with(|| Value::Array(Vec::new())) {
                Value::Array(values) => values.push(Value::String(value)),
                other => *other = Value::String(value),
            },
            (name, _) => fields.error(name.as_deref().unwrap_or(pair), "is not percent-encoded UTF-8"),
        }
    }
    fields
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => 16 * hex(rest.next()?)? + hex(rest.next()?)?,
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// What to say about a field that is not known.
pub(crate) fn unknown(name: &str, known: &[&str]) -> String {
    nearest(name, known).map_or_else(|| "is not known".to_owned(), |right| format!("is not known; did you mean `{right}`?"))
}

/// The known name that was obviously meant, if there is one.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |name: &str| -> Vec<char> {
        name.chars().filter(|c| c.is_alphanumeric()).take(64).flat_map(char::to_lowercase).collect()
    };
    let name = plain(name);
    let best = known.iter().map(|known| (distance(&name, &plain(known)), *known)).min()?;
    (best.0 <= 2 && best.0 < name.len()).then_some(best.1)
}

/// How many letters must be changed, added or removed to make one of the other (Levenshtein).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(fields: Fields) -> Vec<(String, String)> {
        fields.finish().map_or_else(|p| p.errors().iter().map(|e| (e.field.clone(), e.message.clone())).collect(), |()| vec![])
    }

    #[test]
    fn all_wrong_fields_are_reported_at_once() {
        let mut fields = Fields::from_json(br#"{"a": 1, "b": 2, "extra": 0, "d": null}"#).unwrap();
        assert_eq!(fields.required("a", |text: String| Ok(text)), None);
        assert_eq!(fields.optional("b", |_: u8| Err::<u8, _>("is odd".into())), None);
        assert_eq!(fields.required("c", |n: u8| Ok(n)), None);
        assert_eq!(fields.required("d", |n: u8| Ok(n)), None);
        assert_eq!(fields.optional("e", |n: u8| Ok(n)), None);
        let errors = errors(fields);
        let names: Vec<&str> = errors.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "extra"]);
        assert_eq!(errors[0].1, "invalid type: integer `1`, expected a string");
    }

    #[test]
    fn an_unknown_field_comes_with_the_obvious_right_one() {
        let known = ["title", "due_date", "due_time", "tags"];
        assert_eq!(nearest("titel", &known), Some("title"));
        assert_eq!(nearest("dueDate", &known), Some("due_date"));
        assert_eq!(nearest("tag", &known), Some("tags"));
        assert_eq!(nearest("colour", &known), None);
        assert_eq!(nearest("", &known), None);
        assert_eq!(nearest("x", &["id"]), None);
    }

    #[test]
    fn a_query_is_decoded_and_its_mistakes_are_named() {
        let mut query = from_query("q=caf%C3%A9+au+lait&limit=5&empty");
        assert_eq!(query.optional("q", |q: String| Ok(q)).unwrap(), "café au lait");
        assert_eq!(query.optional("empty", |q: String| Ok(q)).unwrap(), "");
        assert_eq!(errors(query), [("limit".to_owned(), "is not known".to_owned())]);
        assert_eq!(errors(from_query("%ff=1&a=%f")).len(), 2);
        let mut twice = from_query("a=1&a=2");
        assert_eq!(twice.optional("a", |a: String| Ok(a)), None);
        assert_eq!(errors(twice), [("a".to_owned(), "is given twice".to_owned())]);
        assert!(from_query("").finish().is_ok());
        assert_eq!(from_query("a=1").finish().unwrap_err().status(), 400);
    }

    #[test]
    fn a_parameter_may_have_several_values_where_that_means_something() {
        let mut query = from_query("tag=a&tag=+b&tag=");
        let tags = query.repeated("tag", |tag| if tag.is_empty() { Err("must not be empty".to_owned()) } else { Ok(tag) });
        assert_eq!(tags, ["a", " b"]);
        assert_eq!(errors(query), [("tag".to_owned(), "must not be empty".to_owned())]);
        assert!(from_query("").repeated("tag", Ok).is_empty());
    }

    #[test]
    fn a_patch_tells_absent_from_null() {
        let mut fields = Fields::from_json(br#"{"a": null, "b": 1, "c": "x"}"#).unwrap();
        let text = |text: String| Ok(text);
        assert_eq!(fields.patch("a", text), Some(None));
        assert_eq!(fields.patch("b", text), None);
        assert_eq!(fields.patch("c", text), Some(Some("x".to_owned())));
        assert_eq!(fields.patch("d", text), None);
        assert!(fields.any_wrong());
        let errors = errors(fields);
        assert_eq!((errors.len(), errors[0].0.as_str()), (1, "b"));
    }
}
