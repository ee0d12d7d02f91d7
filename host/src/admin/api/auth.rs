//! Who may use the API: whoever has the token. Who they are is what they say in `X-Tidemill-Actor`.

use crate::config::Secret;
use crate::problem::Problem;
use crate::store::operate::{Actor, Via};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// The header with the operator's name.
const ACTOR: &str = "x-tidemill-actor";

/// The token's hash: comparing hashes takes the same time whatever was given, its length included.
pub(super) struct Token([u8; 32]);

impl Token {
    pub(super) fn new(token: &Secret) -> Self {
        Self(Sha256::digest(token.expose().as_bytes()).into())
    }

    fn is(&self, given: &[u8]) -> bool {
        openssl::memcmp::eq(&self.0, &Sha256::digest(given))
    }
}

/// Lets a request pass that has the token.
pub(super) async fn check(State(token): State<Arc<Option<Token>>>, request: Request, next: Next) -> Result<Response, Problem> {
    let Some(token) = token.as_ref() else {
        return Err(Problem::new(StatusCode::FORBIDDEN, "admin-token-not-set", "The admin API is closed").detail(
            "this host has no admin token: set TIDEMILL_ADMIN_TOKEN or TIDEMILL_ADMIN_TOKEN_FILE (at least 32 characters) and start it again",
        ));
    };
    match bearer(request.headers()) {
        Some(given) if token.is(given) => Ok(next.run(request).await),
        given => {
            let text = match given {
                None => "send `Authorization: Bearer <the admin token>`",
                Some(_) => "this is not the admin token of this host",
            };
            Err(Problem::new(StatusCode::UNAUTHORIZED, "invalid-token", "The admin token is missing or wrong")
                .detail(text)
                .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")))
        }
    }
}

/// The token of the header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.as_bytes().trim_ascii().split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii_start())
}

/// Who changes something.
pub(super) fn actor(headers: &HeaderMap) -> Result<Actor, Problem> {
    let wrong =
        |text: String| Problem::new(StatusCode::BAD_REQUEST, "no-actor", "A change needs to say who makes it").detail(text);
    let name = headers.get(ACTOR).ok_or_else(|| wrong("send `X-Tidemill-Actor: <your name>`".to_owned()))?;
    let name = std::str::from_utf8(name.as_bytes()).map_err(|_| wrong("X-Tidemill-Actor is not UTF-8".to_owned()))?;
    Actor::new(name, Via::Api).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_passes() {
        let token = Token::new(&Secret::new("0123456789abcdef0123456789abcdef"));
        assert!(token.is(b"0123456789abcdef0123456789abcdef"));
        for given in
            ["", "0123456789abcdef0123456789abcde", "0123456789abcdef0123456789abcdef0", "0123456789ABCDEF0123456789ABCDEF"]
        {
            assert!(!token.is(given.as_bytes()), "{given}");
        }
    }

    #[test]
    fn the_token_is_what_follows_the_scheme() {
        let of = |text: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_str(text).unwrap())]);
            bearer(&headers).map(|token| String::from_utf8(token.to_vec()).unwrap())
        };
        assert_eq!(of("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(of("bearer  abc ").as_deref(), Some("abc"));
        for text in ["", "Bearer", "Basic abc", "Bearerabc", "abc"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
