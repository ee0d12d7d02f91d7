//! Which rows and what else, out of a query (`?handler=…&since=2h`) or a JSON body. A name that is not known is an error: a condition that
//! was spelled wrong must not widen a change.

use super::auth;
use crate::problem::Problem;
use crate::store::operate::{ActionFilter, Filter, Order, parse_when};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Conditions, and what changes have beside them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Form {
    ids: Vec<i64>,
    key: Option<String>,
    key_base64: Option<String>,
    handler: Option<String>,
    group: Option<String>,
    topic: Option<String>,
    error_class: Option<String>,
    error: Option<String>,
    since: Option<String>,
    until: Option<String>,
    state: Option<String>,
    limit: Option<u32>,
    after: Option<i64>,
    all: bool,
    dry_run: Option<bool>,
    reason: Option<String>,
    not_stuck: Option<bool>,
}

/// What a query can be read as.
pub(super) trait Asked: DeserializeOwned {
    /// The value of a field, as JSON; none where it is no whole number and has to be one.
    fn field(name: &str, value: &str) -> Option<Value>;
}

impl Asked for Form {
    fn field(name: &str, value: &str) -> Option<Value> {
        match name {
            "ids" => value.split(',').map(whole).collect(),
            "limit" | "after" => whole(value),
            _ => Some(Value::from(value)),
        }
    }
}

impl Asked for ActionForm {
    fn field(name: &str, value: &str) -> Option<Value> {
        match name {
            "limit" | "before" => whole(value),
            _ => Some(Value::from(value)),
        }
    }
}

/// Which actions.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ActionForm {
    actor: Option<String>,
    action: Option<String>,
    subject: Option<String>,
    before: Option<i64>,
    limit: Option<u32>,
}

impl From<ActionForm> for ActionFilter {
    fn from(form: ActionForm) -> Self {
        let ActionForm { actor, action, subject, before, limit } = form;
        Self { actor, action, subject, before, limit }
    }
}

/// A change as it was asked for.
pub(super) struct Change {
    pub(super) order: Order,
    pub(super) reason: Option<String>,
    pub(super) not_stuck: bool,
    /// Fields beside the conditions that were given.
    given: Vec<&'static str>,
}

impl Change {
    /// Out of the body of a `POST`. Without `"dry_run": false` nothing is changed.
    pub(super) fn read(headers: &HeaderMap, body: Result<Json<Form>, JsonRejection>) -> Result<Self, Problem> {
        let actor = auth::actor(headers)?;
        let Json(mut form) = body.map_err(|error| invalid(error.body_text()))?;
        let dry_run = form.dry_run.take().unwrap_or(true);
        let (reason, not_stuck) = (form.reason.take(), form.not_stuck.take());
        let given = [("reason", reason.is_some()), ("not_stuck", not_stuck.is_some())];
        let given = given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect();
        let order = Order { actor, filter: form.filter()?, dry_run };
        Ok(Self { order, reason, not_stuck: not_stuck.unwrap_or(false), given })
    }

    /// Refuses fields that this change does not have.
    pub(super) fn refuse_others(&self, known: &[&str]) -> Result<(), Problem> {
        match self.given.iter().find(|name| !known.contains(name)) {
            Some(name) => Err(invalid(format!("this change has no field `{name}`"))),
            None => Ok(()),
        }
    }
}

impl Form {
    /// The conditions; the fields of changes are refused.
    pub(super) fn filter(self) -> Result<Filter, Problem> {
        if self.dry_run.is_some() || self.reason.is_some() || self.not_stuck.is_some() {
            return Err(invalid("`dry_run`, `reason` and `not_stuck` belong to changes"));
        }
        let key = match (self.key, self.key_base64) {
            (Some(_), Some(_)) => return Err(invalid("give one of `key` and `key_base64`")),
            (Some(key), None) => Some(key.into_bytes()),
            (None, Some(key)) => Some(BASE64.decode(key).map_err(|_| invalid("`key_base64` is no base64"))?),
            (None, None) => None,
        };
        Ok(Filter {
            ids: self.ids,
            key,
            handler: self.handler,
            group: self.group,
            topic: self.topic,
            error_class: self.error_class,
            error: self.error,
            since: when("since", self.since)?,
            until: when("until", self.until)?,
            state: self.state,
            all: self.all,
            limit: self.limit,
            after: self.after,
        })
    }
}

/// A time in a field.
pub(super) fn when(name: &str, text: Option<String>) -> Result<Option<Timestamp>, Problem> {
    text.map(|text| parse_when(&text).map_err(|error| invalid(format!("{name}: {error}")))).transpose()
}

/// The form of a query string.
pub(super) fn query<T: Asked>(query: Option<String>) -> Result<T, Problem> {
    let mut fields = Map::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decoded(name)?, decoded(value)?);
        let value = T::field(&name, &value).ok_or_else(|| invalid(format!("`{name}` is no whole number")))?;
        if fields.insert(name.clone(), value).is_some() {
            return Err(invalid(format!("`{name}` is given twice")));
        }
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| invalid(error.to_string()))
}

pub(super) fn whole(text: &str) -> Option<Value> {
    text.parse::<i64>().ok().map(Value::from)
}

/// `+` and `%XX` as forms write them.
fn decoded(text: &str) -> Result<String, Problem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(invalid("the query has a `%` without two digits"));
                };
                (high * 16 + low) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).map_err(|_| invalid("the query is not UTF-8"))
}

pub(super) fn invalid(text: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-request", "The request makes no sense").detail(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(text: &str) -> Option<Filter> {
        query::<Form>(Some(text.to_owned())).ok()?.filter().ok()
    }

    #[test]
    fn a_query_is_read_and_what_is_wrong_in_it_is_refused() {
        let filter = asked("ids=1,22&key=a%20b%2Bc&handler=x&limit=7&since=1970-01-01T00%3A00%3A00Z").unwrap();
        assert_eq!((filter.ids, filter.key.as_deref(), filter.limit), (vec![1, 22], Some(&b"a b+c"[..]), Some(7)));
        assert_eq!((filter.handler.as_deref(), filter.since), (Some("x"), Some(Timestamp::UNIX_EPOCH)));
        assert_eq!(asked("key_base64=/wA=").unwrap().key, Some(vec![0xff, 0]));
        for text in [
            "handlr=x",
            "ids=1,x",
            "limit=-1",
            "key=%4",
            "key=%ff",
            "since=x",
            "key=a&key=b",
            "dry_run=false",
            "key=a&key_base64=aw==",
        ] {
            assert!(asked(text).is_none(), "{text}");
        }
    }
}
