//! The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): what it may look like, which request it stands for, and what is
//! answered when it does not fit.

use crate::manifest::shape;
use crate::problem::Problem;
use crate::store::{RequestKey, digest};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Says that an answer is one of before, for callers that count what they did.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a key at most.
const LONGEST: usize = 255;

/// The key that a request was sent with. Only methods that change something have one; elsewhere the header means nothing.
pub(super) fn given(method: &Method, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    if !matches!(*method, Method::POST | Method::PUT | Method::PATCH | Method::DELETE) {
        return Ok(None);
    }
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let key = if values.next().is_some() { None } else { value.to_str().ok().and_then(parse) };
    key.map(Some).ok_or_else(malformed)
}

/// The request as its key is known by.
pub(super) fn of_request(key: String, parts: &Parts, route: &str, subject: Option<&str>, body: &[u8]) -> RequestKey {
    let types = parts.headers.get_all(header::CONTENT_TYPE).iter().flat_map(|value| [value.as_bytes(), b"\n"]);
    let fingerprint = digest([
        Some(parts.method.as_str().as_bytes()),
        Some(parts.uri.path().as_bytes()),
        parts.uri.query().map(str::as_bytes),
        Some(&types.collect::<Vec<_>>().concat()),
        Some(body),
    ]);
    RequestKey {
        subject: subject.unwrap_or_default().to_owned(),
        method: parts.method.to_string(),
        // A revision that only calls a parameter by another name has the same route: a key lives through a deploy.
        route: shape(route),
        key,
        fingerprint,
    }
}

/// A string of RFC 9651, whose parameters mean nothing here, or the bare text that many clients send.
fn parse(value: &str) -> Option<String> {
    let value = value.trim();
    let key = match value.strip_prefix('"') {
        Some(rest) => quoted(rest)?,
        None if value.contains(['"', ',', ';', '\\']) => return None,
        None => value.to_owned(),
    };
    let sound = (1..=LONGEST).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    sound.then_some(key)
}

/// What is between the quotes, of which the first is gone.
fn quoted(rest: &str) -> Option<String> {
    let mut key = String::new();
    let mut characters = rest.chars();
    loop {
        match characters.next()? {
            '"' => break,
            '\\' => key.push(characters.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => key.push(other),
        }
    }
    let parameters = characters.as_str();
    (parameters.is_empty() || parameters.starts_with(';')).then_some(key)
}

fn malformed() -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "invalid-idempotency-key", "The Idempotency-Key header is malformed; nothing was done")
        .detail(
            "send one Idempotency-Key of 1 to 255 visible ASCII characters, best a UUID in double quotes: \
         Idempotency-Key: \"8e03978e-40d5-43dd-bc93-6894a57f9324\"",
        )
}

pub(super) fn outstanding() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "request-outstanding",
        "A request is outstanding for this Idempotency-Key; nothing was done",
    )
    .detail("the first request with this key is still under way; repeat this one in a moment to get its answer")
    .retry_after(1)
}

pub(super) fn reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency-key-reused",
        "The Idempotency-Key is already used; nothing was done",
    )
    .detail(
        "another request (path, query, content-type or body differ) took effect under this key within the last 24 hours; \
         send that one unchanged to get its answer, or this one with a new key",
    )
}

pub(super) fn unkeepable(detail: String) -> Problem {
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "response-too-large",
        "The answer is too large to be kept under its Idempotency-Key; nothing was kept",
    )
    .detail(format!("{detail}; ask for less, or send the request without a key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn quoted_and_bare_keys_are_the_same() {
        for (value, key) in [
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            ("8e03978e-40d5", "8e03978e-40d5"),
            (" order:7/a=b ", "order:7/a=b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            ("\"a,b;c\"", "a,b;c"),
            ("\"a\";v=1", "a"),
            ("\"a\"; v=\"x\"", "a"),
            ("'a'", "'a'"),
        ] {
            assert_eq!(parse(value).as_deref(), Some(key), "{value}");
        }
        assert_eq!(parse(&"k".repeat(255)).map(|key| key.len()), Some(255));
    }

    #[test]
    fn malformed_keys_are_refused() {
        for value in [
            "",
            " ",
            "\"\"",
            "\"",
            "\"a",
            "a\"",
            "\"a\"b",
            "\"a\", \"b\"",
            "a, b",
            "a b",
            "\"a b\"",
            "a;v=1",
            r#""a\b""#,
            r#""a\"#,
            "a\\",
        ] {
            assert_eq!(parse(value), None, "{value}");
        }
        assert_eq!(parse(&"k".repeat(256)), None);
        assert_eq!(parse(&format!("\"{}\"", "k".repeat(256))), None);
    }

    #[test]
    fn c03_a_key_outlives_a_revision_that_calls_a_parameter_by_another_name() {
        let request = axum::http::Request::post("/orders/7/pay").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let key = |route| of_request("k".to_owned(), &parts, route, Some("ann"), b"{}");
        let (before, after) = (key("/orders/{id}/pay"), key("/orders/{order}/pay"));
        assert_eq!((before.route, before.fingerprint), (after.route, after.fingerprint));
        assert_ne!(key("/orders/{id}/pay").route, key("/orders/{id}/{verb}").route);
    }

    #[test]
    fn only_methods_that_change_something_have_a_key() {
        let mut headers = HeaderMap::new();
        assert!(given(&Method::POST, &headers).unwrap().is_none());
        headers.append(HEADER, HeaderValue::from_static("k"));
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            assert_eq!(given(&method, &headers).unwrap().as_deref(), Some("k"));
        }
        headers.append(HEADER, HeaderValue::from_static("k"));
        assert!(given(&Method::POST, &headers).is_err(), "which of two?");
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert!(given(&method, &headers).unwrap().is_none());
        }
        headers.clear();
        headers.insert(HEADER, HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(given(&Method::POST, &headers).is_err());
    }
}
