//! Problem details (RFC 9457): the answer when something is wrong.

use std::fmt;

use serde::Serialize;

use crate::{Response, jobs, log, publish, sql};

/// A failed request: its status and what a caller may know about it.
///
/// An answer of status 400 or above rolls the unit of work back: what a caller was told failed, never happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Problem {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

/// One wrong field of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's name.
    pub field: String,
    /// What is wrong with it, for people.
    pub message: String,
}

impl FieldError {
    /// One wrong field.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl Problem {
    /// A problem that its status says all about.
    pub fn new(status: u16) -> Self {
        Self { kind: "about:blank", title: reason(status), status, detail: None, errors: Vec::new() }
    }

    /// 404: there is nothing of that name, or nothing that this caller may see.
    pub fn not_found() -> Self {
        Self::new(404)
    }

    /// 400: the request can't be read.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(400).detail(detail)
    }

    /// 422: the request can be read, but these fields are wrong.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let detail = format!("Wrong: {}.", fields.join(", "));
        Self { kind: "tag:tidemill,2026:problem/invalid-fields", errors, ..Self::new(422).detail(detail) }
    }

    /// 500: the fault is ours. What happened belongs into the log, not into the answer.
    pub fn internal() -> Self {
        Self::new(500)
    }

    /// 503: a part that the request needs is away; it may succeed later.
    pub fn unavailable() -> Self {
        Self::new(503).detail("Nothing was changed. Try again later.")
    }

    /// Adds what this occurrence is about, for the caller's eyes.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Sets the problem's type, a URI reference, and its title.
    #[must_use]
    pub fn typed(mut self, kind: &'static str, title: &'static str) -> Self {
        (self.kind, self.title) = (kind, title);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The wrong fields, where the problem is about fields.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        Response::json(problem.status, &problem).header("content-type", "application/problem+json")
    }
}

impl From<sql::Error> for Problem {
    /// The log gets the error, the caller only whether it may try again.
    fn from(error: sql::Error) -> Self {
        log::error("a statement failed", &[("error", &error)]);
        if error.kind == sql::ErrorKind::Unavailable { Self::unavailable() } else { Self::internal() }
    }
}

impl From<publish::Error> for Problem {
    fn from(error: publish::Error) -> Self {
        log::error("an event was refused", &[("error", &error)]);
        if error.kind == publish::ErrorKind::Unavailable { Self::unavailable() } else { Self::internal() }
    }
}

impl From<jobs::Error> for Problem {
    fn from(error: jobs::Error) -> Self {
        log::error("a job was refused", &[("error", &error)]);
        if error.kind == jobs::ErrorKind::Unavailable { Self::unavailable() } else { Self::internal() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.detail.as_deref().unwrap_or(self.title))
    }
}

impl std::error::Error for Problem {}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        500.. => "Internal Server Error",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_wrong_fields_are_in_one_answer() {
        let problem = Problem::invalid(vec![FieldError::new("title", "is required"), FieldError::new("tags", "too many")]);
        let response = Response::from(problem);
        assert_eq!(response.status, 422);
        assert_eq!(response.headers, [("content-type".to_owned(), "application/problem+json".to_owned())]);
        let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "tag:tidemill,2026:problem/invalid-fields", "title": "Unprocessable Content", "status": 422, "detail": "Wrong: title, tags.",
                "errors": [{"field": "title", "message": "is required"}, {"field": "tags", "message": "too many"}],
            })
        );
    }

    #[test]
    fn a_failed_statement_does_not_leak() {
        let error = |kind| sql::Error { kind, message: "relation secret_table".into(), sqlstate: None, constraint: None };
        let internal = Response::from(Problem::from(error(sql::ErrorKind::Statement)));
        assert_eq!(internal.status, 500);
        assert!(!String::from_utf8(internal.body).unwrap().contains("secret"));
        assert_eq!(Problem::from(error(sql::ErrorKind::Unavailable)).status(), 503);
    }
}
