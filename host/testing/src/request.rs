//! Requests as a client sends them, and what it gets.

use crate::process::{LAST_LINES, Process};
use crate::wire::{self, Order};
use crate::{Error, Host, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A request in the making; [`Request::send`] sends it.
#[derive(Debug)]
#[must_use = "nothing happens before `send`"]
pub struct Request<'a> {
    host: &'a Host,
    method: String,
    path: String,
    user: Option<String>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(host: &'a Host, method: &str, path: &str) -> Self {
        Self { host, method: method.to_owned(), path: path.to_owned(), user: None, headers: Vec::new(), body: Vec::new() }
    }

    /// Whose request it is: it carries a token of this user. Without, it carries none.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body as JSON, with its content type.
    ///
    /// # Panics
    /// If the value cannot be written as JSON.
    pub fn json(self, body: &impl Serialize) -> Self {
        let bytes = serde_json::to_vec(body).expect("a body can be written as JSON");
        self.body(bytes).header("content-type", "application/json")
    }

    /// The body as it is.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends it and waits for the answer.
    pub fn send(self) -> Result<Answer> {
        let Self { host, method, path, user, headers, body } = self;
        let shown = format!("{method} {path}");
        let response: wire::Response = host.call(Order::Request { method, path, user, headers, body: wire::hex(&body) })?;
        let body = wire::unhex(&response.body).map_err(|error| Error(format!("{shown}: {error}")))?;
        Ok(Answer { status: response.status, headers: response.headers, body, process: host.process })
    }
}

/// What was answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, names in small letters.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Knows why a handler has failed, which no answer says.
    process: &'static Process,
}

impl Answer {
    /// The body as JSON, or an error that shows it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Error(format!("the answer ({}) does not fit: {error}: {}", self.status, self.text())))
    }

    /// The body as any JSON value.
    pub fn value(&self) -> Result<Value> {
        self.json()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header by its name in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The answer itself if its status is this one; otherwise an error that shows what came instead (of 500 and
    /// above with the host's last log lines).
    pub fn expect(self, status: u16) -> Result<Self> {
        match self.status == status {
            true => Ok(self),
            false if self.status >= 500 => {
                let log = self.process.log();
                Err(Error(format!("the answer was {} instead of {status}: {}; {LAST_LINES}:\n{log}", self.status, self.text())))
            }
            false => Err(Error(format!("the answer was {} instead of {status}: {}", self.status, self.text()))),
        }
    }
}
