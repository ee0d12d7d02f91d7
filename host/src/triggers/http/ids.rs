//! Request id, correlation id and W3C trace context of a request.

use crate::capabilities::publish::Cause;
use axum::http::{HeaderMap, HeaderName, HeaderValue};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A caller's id longer than this, or with other than visible ASCII, is replaced.
const LONGEST: usize = 128;

/// The ids of one request.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    pub(super) request: String,
    pub(super) correlation: String,
    traceparent: String,
}

impl Ids {
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let given = |name: &HeaderName| {
            let text = headers.get(name)?.to_str().ok()?;
            (!text.is_empty() && text.len() <= LONGEST && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
        };
        let request = given(&REQUEST_ID).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
        let correlation = given(&CORRELATION_ID).unwrap_or_else(|| request.clone());
        let traceparent = traceparent(given(&TRACEPARENT).as_deref());
        Self { request, correlation, traceparent }
    }

    /// What everything that this request causes goes on from.
    pub(super) fn cause(&self) -> Cause {
        Cause { correlation_id: Some(self.correlation.clone()), traceparent: Some(self.traceparent.clone()) }
    }

    /// Says the ids in the answer.
    pub(super) fn echo(&self, headers: &mut HeaderMap) {
        for (name, id) in [(REQUEST_ID, &self.request), (CORRELATION_ID, &self.correlation)] {
            if let Ok(value) = HeaderValue::from_str(id) {
                headers.insert(name, value);
            }
        }
    }
}

/// The trace that was given, continued by a span of ours, or a new one (W3C Trace Context, 3.2).
fn traceparent(given: Option<&str>) -> String {
    let span = &uuid::Uuid::new_v4().simple().to_string()[..16];
    match given.and_then(trace_and_flags) {
        Some((trace, flags)) => format!("00-{trace}-{span}-{flags}"),
        None => format!("00-{}-{span}-01", uuid::Uuid::new_v4().simple()),
    }
}

fn trace_and_flags(text: &str) -> Option<(&str, &str)> {
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |t: &str, n: usize| t.len() == n && t.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let nonzero = |t: &str| t.bytes().any(|b| b != b'0');
    let sound = hex(version, 2)
        && version != "ff"
        && hex(trace, 32)
        && nonzero(trace)
        && hex(parent, 16)
        && nonzero(parent)
        && hex(flags, 2);
    sound.then_some((trace, flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_goes_on_and_a_broken_one_is_replaced() {
        let given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let ours = traceparent(Some(given));
        assert!(ours.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && ours.ends_with("-00") && ours != given);
        for broken in [
            "",
            "00-0-0-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let fresh = traceparent(Some(broken));
            assert!(trace_and_flags(&fresh).is_some(), "{broken} gave {fresh}");
        }
    }

    #[test]
    fn a_missing_correlation_id_is_the_request_id() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("r-1"));
        let ids = Ids::from_headers(&headers);
        assert_eq!((ids.request.as_str(), ids.correlation.as_str()), ("r-1", "r-1"));
        headers.insert(REQUEST_ID, HeaderValue::from_static("has space"));
        assert_ne!(Ids::from_headers(&headers).request, "has space");
    }
}
