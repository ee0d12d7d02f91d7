//! What requests carry and answers say.

use serde_json::Value as Json;

/// The key that signs the tests' tokens.
pub const KEY: &str = "a key for tests that is long enough";

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: reqwest::header::HeaderMap,
    /// Its body as JSON, null when it is none.
    pub body: Json,
    /// Its body as text.
    pub text: String,
}

impl Answer {
    /// Reads a response.
    pub async fn read(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap_or_default();
        Self { status, headers, body: serde_json::from_str(&text).unwrap_or(Json::Null), text }
    }

    /// One header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The last part of the problem's `type`; empty when the answer is no problem details.
    pub fn problem(&self) -> &str {
        if self.header("content-type") != Some("application/problem+json") {
            return "";
        }
        self.body["type"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default()
    }
}

/// A token for a user, good for an hour, or over since an hour.
pub fn token(subject: &str, expired: bool) -> String {
    signed(&serde_json::json!({ "sub": subject, "exp": now() + if expired { -3600 } else { 3600 } }), KEY)
}

/// A token with any claims, signed with any key.
pub fn signed(claims: &Json, key: &str) -> String {
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, claims, &jsonwebtoken::EncodingKey::from_secret(key.as_bytes())).unwrap()
}

/// Seconds since 1970.
pub fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs().try_into().unwrap()
}

/// Every member of `expected` is in `actual`; others may be there, too.
pub fn has_all(actual: &Json, expected: &Json) {
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(actual.get(name), Some(value), "`{name}` of {actual}");
    }
}
