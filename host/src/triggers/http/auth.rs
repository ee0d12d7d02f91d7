//! Who is calling: the verified subject of a bearer token.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header, errors::ErrorKind};
use serde::Deserialize;
use thiserror::Error;

use crate::config::Secret;

/// How far the clocks of issuer and host may be apart.
const LEEWAY_SECONDS: u64 = 30;

/// A subject is opaque text up to this many characters.
const SUBJECT_CHARS: usize = 128;

/// Why a caller is not let in. No text repeats anything of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AuthError {
    /// No `Authorization` header.
    #[error("the request has no Authorization header; send `Authorization: Bearer <token>`")]
    Missing,
    /// Another scheme than `Bearer`.
    #[error("the Authorization header is not of the form `Bearer <token>`")]
    NotBearer,
    /// No JSON Web Token.
    #[error("the token is no JSON Web Token")]
    Malformed,
    /// Signed in another way, or not at all.
    #[error("the token is not signed with HS256")]
    Algorithm,
    /// Signed with another key, or changed.
    #[error("the token's signature is wrong")]
    Signature,
    /// It names an extension that has to be understood; none is.
    #[error("the token demands an extension (`crit`) that is not supported")]
    Critical,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `exp` is missing or no time.
    #[error("the token has no valid expiry time (`exp`)")]
    NoExpiry,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `nbf` is no time.
    #[error("the token's begin (`nbf`) is no time")]
    NoBegin,
    /// `sub` is missing, empty, too long or no plain text.
    #[error("the token has no subject (`sub`) of 1 to 128 characters without control characters")]
    NoSubject,
}

/// Verifies tokens. What signs them is inside, so that other kinds of keys fit behind the same calls.
#[derive(Clone)]
pub struct Verifier(Keys);

#[derive(Clone)]
enum Keys {
    /// One shared key.
    Hs256 { key: DecodingKey, validation: Validation },
}

/// What is read of a token. A subject of the wrong type is our error to name, not the parser's.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: serde_json::Value,
}

impl Verifier {
    /// Verifies tokens that are signed with HS256 and this key.
    pub fn hs256(key: &Secret) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        // The key is this host's alone: whom a token was made for says nothing more.
        validation.validate_aud = false;
        Self(Keys::Hs256 { key: DecodingKey::from_secret(key.expose().as_bytes()), validation })
    }

    /// The subject of the token in an `Authorization` header.
    pub fn verify(&self, authorization: Option<&str>) -> Result<String, AuthError> {
        let token = bearer(authorization)?;
        let Keys::Hs256 { key, validation } = &self.0;
        // A header that is JSON but has an unknown `alg`, such as `none`, fails as JSON of the wrong shape.
        let header = decode_header(token).map_err(|error| match error.kind() {
            ErrorKind::Json(error) if error.is_data() => AuthError::Algorithm,
            _ => AuthError::Malformed,
        })?;
        if header.crit.is_some() {
            return Err(AuthError::Critical);
        }
        let claims = decode::<Claims>(token, key, validation).map_err(|error| reason(error.kind()))?.claims;
        subject(&claims.sub).ok_or(AuthError::NoSubject)
    }
}

/// The token of the header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(authorization: Option<&str>) -> Result<&str, AuthError> {
    let (scheme, token) = authorization.ok_or(AuthError::Missing)?.trim().split_once(' ').ok_or(AuthError::NotBearer)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(AuthError::NotBearer) }
}

fn reason(kind: &ErrorKind) -> AuthError {
    match kind {
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => AuthError::Algorithm,
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::ExpiredSignature => AuthError::Expired,
        ErrorKind::MissingRequiredClaim(_) => AuthError::NoExpiry,
        ErrorKind::ImmatureSignature => AuthError::NotYet,
        ErrorKind::InvalidClaimFormat(claim) if claim == "nbf" => AuthError::NoBegin,
        ErrorKind::InvalidClaimFormat(_) => AuthError::NoExpiry,
        _ => AuthError::Malformed,
    }
}

fn subject(sub: &serde_json::Value) -> Option<String> {
    let sub = sub.as_str()?;
    let good = (1..=SUBJECT_CHARS).contains(&sub.chars().count()) && !sub.chars().any(char::is_control);
    good.then(|| sub.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp};
    use serde_json::{Value, json};

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    fn verify(authorization: &str) -> Result<String, AuthError> {
        Verifier::hs256(&Secret::new(KEY)).verify(Some(authorization))
    }

    fn signed(header: &Header, claims: &Value, key: &str) -> String {
        format!("Bearer {}", encode(header, claims, &EncodingKey::from_secret(key.as_bytes())).unwrap())
    }

    fn token(claims: Value) -> String {
        signed(&Header::new(Algorithm::HS256), &claims, KEY)
    }

    fn soon() -> u64 {
        get_current_timestamp() + 60
    }

    #[test]
    fn the_subject_of_a_good_token_is_the_user() {
        let good = token(json!({"sub": "ann@shop", "exp": soon(), "aud": "anyone"}));
        assert_eq!(verify(&good).as_deref(), Ok("ann@shop"));
        assert_eq!(verify(&good.replace("Bearer", "bearer")).as_deref(), Ok("ann@shop"));
        assert_eq!(verify(&token(json!({"sub": "ü".repeat(128), "exp": soon()}))), Ok("ü".repeat(128)));
    }

    #[test]
    fn clocks_may_be_half_a_minute_apart() {
        let now = get_current_timestamp();
        assert!(verify(&token(json!({"sub": "a", "exp": now - 20}))).is_ok());
        assert_eq!(verify(&token(json!({"sub": "a", "exp": now - 40}))), Err(AuthError::Expired));
        assert!(verify(&token(json!({"sub": "a", "exp": soon(), "nbf": now + 20}))).is_ok());
        assert_eq!(verify(&token(json!({"sub": "a", "exp": soon(), "nbf": now + 60}))), Err(AuthError::NotYet));
    }

    #[test]
    fn claims_that_lack_or_have_the_wrong_type_are_named() {
        for (claims, error) in [
            (json!({"sub": "a"}), AuthError::NoExpiry),
            (json!({"sub": "a", "exp": "tomorrow"}), AuthError::NoExpiry),
            (json!({"sub": "a", "exp": -1}), AuthError::NoExpiry),
            (json!({"sub": "a", "exp": soon(), "nbf": "x"}), AuthError::NoBegin),
            (json!({"exp": soon()}), AuthError::NoSubject),
            (json!({"sub": null, "exp": soon()}), AuthError::NoSubject),
            (json!({"sub": 7, "exp": soon()}), AuthError::NoSubject),
            (json!({"sub": "", "exp": soon()}), AuthError::NoSubject),
            (json!({"sub": "a\nb", "exp": soon()}), AuthError::NoSubject),
            (json!({"sub": "x".repeat(129), "exp": soon()}), AuthError::NoSubject),
            (json!(["no object"]), AuthError::Malformed),
        ] {
            assert_eq!(verify(&token(claims.clone())), Err(error), "{claims}");
        }
    }

    #[test]
    fn another_key_another_text_and_another_algorithm_are_refused() {
        let claims = json!({"sub": "ann", "exp": soon()});
        let good = token(claims.clone());
        assert_eq!(verify(&signed(&Header::default(), &claims, "another key that is long enough!")), Err(AuthError::Signature));
        assert_eq!(verify(&signed(&Header::new(Algorithm::HS512), &claims, KEY)), Err(AuthError::Algorithm));
        let mut critical = Header::new(Algorithm::HS256);
        critical.crit = Some(vec!["x".to_owned()]);
        assert_eq!(verify(&signed(&critical, &claims, KEY)), Err(AuthError::Critical));
        let other = token(json!({"sub": "bob", "exp": soon()}));
        let part = |token: &str, index: usize| token.split('.').nth(index).unwrap().to_owned();
        let mixed = format!("{}.{}.{}", part(&good, 0), part(&other, 1), part(&good, 2));
        assert_eq!(verify(&mixed), Err(AuthError::Signature));
        // {"alg":"none","typ":"JWT"}
        let none = format!("Bearer eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", part(&good, 1));
        assert_eq!(verify(&none), Err(AuthError::Algorithm));
    }

    #[test]
    fn what_is_no_bearer_token_is_refused_without_repeating_it() {
        assert_eq!(Verifier::hs256(&Secret::new(KEY)).verify(None), Err(AuthError::Missing));
        for (header, error) in [
            ("", AuthError::NotBearer),
            ("Bearer", AuthError::NotBearer),
            ("Basic hush", AuthError::NotBearer),
            ("Bearer hush", AuthError::Malformed),
            ("Bearer hush.hush.hush", AuthError::Malformed),
            ("Bearer a b", AuthError::Malformed),
        ] {
            assert_eq!(verify(header), Err(error), "{header}");
            assert!(!error.to_string().contains("hush"));
        }
    }
}
