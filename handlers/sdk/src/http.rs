//! Whole requests in, whole responses out.

use serde::{Serialize, de::DeserializeOwned};
use uuid::fmt::Hyphenated;

use crate::{EntityTags, Fields, Problem, Uuid, bindings::http::exports::tidemill::http::http as wit, fields, json, log};

/// A request that matched one of the manifest's routes and passed its authentication.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) inner: wit::Request,
}

impl Request {
    /// The method in upper case.
    pub fn method(&self) -> &str {
        &self.inner.method
    }

    /// The path as it was sent, still percent-encoded.
    pub fn path(&self) -> &str {
        &self.inner.path
    }

    /// The manifest's path pattern that matched, such as `/api/tasks/{id}`.
    pub fn route(&self) -> &str {
        &self.inner.route
    }

    /// A parameter of the path.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.inner.params.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// A parameter of the path that is an id. What is no UUID in its usual form names nothing: 404.
    pub fn id(&self, name: &str) -> Result<Uuid, Problem> {
        let text = self.param(name).filter(|text| text.len() == Hyphenated::LENGTH);
        text.and_then(|text| Uuid::try_parse(text).ok()).ok_or_else(Problem::not_found)
    }

    /// The first header of a name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.inner.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// All headers of a name in lower case as one list, as HTTP reads them.
    pub fn header_list(&self, name: &str) -> Option<String> {
        let values = self.inner.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let values: Vec<&str> = values.collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body's media type in lower case, without its parameters.
    pub fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
    }

    /// What the caller demands of the thing before it is changed (`If-Match`): 400 where that can't be read.
    pub fn if_match(&self) -> Result<Option<EntityTags>, Problem> {
        EntityTags::read("If-Match", self.header_list("if-match"))
    }

    /// What the caller has already (`If-None-Match`): 400 where that can't be read.
    pub fn if_none_match(&self) -> Result<Option<EntityTags>, Problem> {
        EntityTags::read("If-None-Match", self.header_list("if-none-match"))
    }

    /// The verified token's subject.
    pub fn subject(&self) -> Option<&str> {
        self.inner.subject.as_deref()
    }

    /// The verified token's subject; 401 where the route has none.
    pub fn user(&self) -> Result<&str, Problem> {
        self.subject().ok_or_else(|| Problem::new(401))
    }

    /// The id of this request.
    pub fn request_id(&self) -> &str {
        &self.inner.request_id
    }

    /// The id that follows the request through everything that it causes.
    pub fn correlation_id(&self) -> &str {
        &self.inner.correlation_id
    }

    /// The body as it was sent.
    pub fn body(&self) -> &[u8] {
        &self.inner.body
    }

    /// The body as `T`: 400 where it is not JSON, 422 naming the field where it does not fit.
    ///
    /// Stops at the first wrong field; [`Request::fields`] reports all of them.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        json::from_body(&self.inner.body)
    }

    /// The body's fields, to be read one by one.
    pub fn fields(&self) -> Result<Fields, Problem> {
        Fields::from_json(&self.inner.body)
    }

    /// The query's parameters, to be read one by one; each is text.
    pub fn query(&self) -> Fields {
        fields::from_query(self.inner.query.as_deref().unwrap_or_default())
    }
}

/// An answer. A status of 400 or above rolls the unit of work back; [`Problem`] is made for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, complete.
    pub body: Vec<u8>,
}

impl Response {
    /// An answer without a body.
    pub fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    /// An answer in JSON.
    pub fn json<T: Serialize + ?Sized>(status: u16, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => Self { body, ..Self::empty(status) }.header("content-type", "application/json"),
            Err(error) => {
                log::error("an answer can't be written as JSON", &[("error", &error)]);
                Problem::internal().into()
            }
        }
    }

    /// Sets a header, in place of one of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What [`http_handler!`](crate::http_handler) calls.
#[doc(hidden)]
pub fn run(request: wit::Request, handle: fn(Request) -> Result<Response, Problem>) -> wit::Response {
    let Response { status, headers, body } = handle(Request { inner: request }).unwrap_or_else(Response::from);
    wit::Response { status, headers, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_malformed_id_names_nothing() {
        let id = "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f";
        assert_eq!(testing::request("GET", "/{id}").param("id", id).build().id("id").unwrap().to_string(), id);
        for wrong in ["17", "", "01989e5c5b307cc1a6d40a1b2c3d4e5f", "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5g"] {
            let request = testing::request("GET", "/{id}").param("id", wrong).build();
            assert_eq!(request.id("id").unwrap_err().status(), 404, "{wrong}");
        }
    }

    #[test]
    fn a_problem_becomes_the_answer() {
        let answer = run(testing::request("GET", "/").build().inner, |_| Err(Problem::not_found()));
        assert_eq!(answer.status, 404);
        assert_eq!(answer.headers, [("content-type".to_owned(), "application/problem+json".to_owned())]);
    }

    #[test]
    fn headers_of_one_name_are_one_list() {
        let request = testing::request("GET", "/").header("if-match", "\"1\"").header("if-match", "\"2\", \"3\"").build();
        assert_eq!(request.header_list("if-match").as_deref(), Some("\"1\", \"2\", \"3\""));
        assert!(request.if_match().unwrap().is_some_and(|tags| tags.have("3")));
        assert_eq!((request.header_list("accept"), request.if_none_match()), (None, Ok(None)));
    }

    #[test]
    fn a_media_type_is_without_parameters() {
        let of = |value: &str| testing::request("PATCH", "/").header("content-type", value).build().media_type();
        assert_eq!(of("Application/JSON; charset=utf-8").as_deref(), Some("application/json"));
        assert_eq!(testing::request("PATCH", "/").build().media_type(), None);
    }

    #[test]
    fn a_header_is_set_once() {
        let response = Response::json(200, &1).header("content-type", "text/plain");
        assert_eq!(response.headers, [("content-type".to_owned(), "text/plain".to_owned())]);
    }
}
