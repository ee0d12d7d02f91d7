//! Requests and events for unit tests, which run natively and without a host. Only logic that calls no capability runs there.

use serde::Serialize;

use crate::{
    Event, Request,
    bindings::{events::exports::tidemill::events::events as events_wit, http::exports::tidemill::http::http as http_wit},
};

/// Starts a request of the user `alice` to a route.
pub fn request(method: &str, route: &str) -> RequestBuilder {
    RequestBuilder(http_wit::Request {
        method: method.to_owned(),
        path: route.to_owned(),
        query: None,
        route: route.to_owned(),
        params: Vec::new(),
        headers: Vec::new(),
        body: Vec::new(),
        subject: Some("alice".to_owned()),
        request_id: "request-1".to_owned(),
        correlation_id: "correlation-1".to_owned(),
    })
}

/// A request in the making.
#[derive(Debug, Clone)]
pub struct RequestBuilder(http_wit::Request);

impl RequestBuilder {
    /// Adds a parameter of the path.
    #[must_use]
    pub fn param(mut self, name: &str, value: &str) -> Self {
        self.0.params.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the query, without its `?`.
    #[must_use]
    pub fn query(mut self, query: &str) -> Self {
        self.0.query = Some(query.to_owned());
        self
    }

    /// Adds a header; the name in lower case.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.0.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.0.body = body.into();
        self
    }

    /// The request.
    pub fn build(self) -> Request {
        Request { inner: self.0 }
    }
}

/// The event at a position of a batch, with its data as JSON.
///
/// # Panics
/// If the data can't be written as JSON.
pub fn event(position: u32, event_type: &str, data: &impl Serialize) -> Event {
    let data = serde_json::to_vec(data).expect("data can be written as JSON");
    raw_event(position, event_type, Some(data))
}

/// The event at a position of a batch, with any bytes as its data.
pub fn raw_event(position: u32, event_type: &str, data: Option<Vec<u8>>) -> Event {
    Event::new(
        ("test", 0),
        position,
        events_wit::Event {
            id: format!("event-{position}"),
            source: "test".to_owned(),
            type_: event_type.to_owned(),
            time: Some(1_770_715_800_000_000),
            subject: None,
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            correlationid: Some("correlation-1".to_owned()),
            traceparent: None,
            extensions: Vec::new(),
            data,
            offset: i64::from(position),
            key: Some(b"alice".to_vec()),
            timestamp: 1_770_715_800_001,
        },
    )
}
