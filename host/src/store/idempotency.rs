//! Requests with an `Idempotency-Key` (promise 3): the answer of each is a row that is written in the request's own unit, so whoever finds
//! the row knows that the request took effect, and whoever does not may run it.
//!
//! Units of one key run one at a time: a lock that ends with the transaction, tried and never waited for. PostgreSQL makes a commit visible
//! before it lets the locks go, so a look-up after the lock sees what its last holder left.

use super::Pool;
use super::error::{Unavailable, describe};
use sha2::{Digest, Sha256};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

/// Tries the lock of a key.
pub(super) const LOCK: &str = "SELECT pg_try_advisory_xact_lock($1)";

/// The answer under a key, if it is not older than it is good for.
pub(super) const FIND: &str = "SELECT fingerprint, status, header_names, header_values, body FROM tidemill.idempotency \
     WHERE identity = $1 AND stored_at > clock_timestamp() - interval '24 hours' ORDER BY stored_at DESC LIMIT 1";

/// Keeps an answer. A row that is in its place is older than the look-up asks for.
pub(super) const KEEP: &str = "\
    INSERT INTO tidemill.idempotency AS i (identity, slot, fingerprint, subject, route, key, stored_at, status, header_names, header_values, body) \
    VALUES ($1, tidemill.idempotency_day() % 3, $2, $3, $4, $5, clock_timestamp(), $6, $7, $8, $9) \
    ON CONFLICT (identity, slot) DO UPDATE SET (fingerprint, stored_at, status, header_names, header_values, body) = \
        (excluded.fingerprint, excluded.stored_at, excluded.status, excluded.header_names, excluded.header_values, excluded.body)";

/// A request's key: whose it is, and what it was sent with.
#[derive(Debug, Clone)]
pub struct RequestKey {
    /// The user; empty on routes without authentication.
    pub subject: String,
    /// The method.
    pub method: String,
    /// The pattern that matched.
    pub route: String,
    /// The key as the caller chose it.
    pub key: String,
    /// A hash of what the request asks for: the same key may not ask for something else.
    pub fingerprint: [u8; 32],
}

impl RequestKey {
    /// What the key is known by. Each part comes with its length, so that no two keys run together.
    pub(super) fn identity(&self) -> [u8; 32] {
        digest([&self.subject, &self.method, &self.route, &self.key].map(|part| Some(part.as_bytes())))
    }

    fn lock(identity: &[u8; 32]) -> i64 {
        let [a, b, c, d, e, f, g, h, ..] = *identity;
        i64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

/// A hash over parts that cannot be mistaken for other parts; one that is missing differs from an empty one.
pub fn digest<const N: usize>(parts: [Option<&[u8]>; N]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        hash.update(part.unwrap_or_default());
    }
    hash.finalize().into()
}

/// A response as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptResponse {
    /// The HTTP status, below 400.
    pub status: u16,
    /// The headers that the handler set.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl KeptResponse {
    fn from_row(row: &Row) -> Self {
        let (names, values): (Vec<String>, Vec<String>) = (row.get(2), row.get(3));
        let status = u16::try_from(row.get::<_, i16>(1)).unwrap_or_default();
        Self { status, headers: names.into_iter().zip(values).collect(), body: row.get(4) }
    }
}

/// What a unit finds when it claims a key.
#[derive(Debug)]
pub enum Claimed {
    /// Nothing: the key is this unit's until it ends.
    Free,
    /// A request with this key is under way.
    Outstanding,
    /// The same request took effect, with this answer.
    Done(KeptResponse),
    /// Another request took effect under this key.
    Reused,
}

impl Claimed {
    /// What the trial of the lock and the look-up behind it mean. An answer that is there is final, whoever has the lock.
    pub(super) fn read(locked: bool, found: Option<&Row>, key: &RequestKey) -> Self {
        match (found, locked) {
            (Some(row), _) if row.get::<_, &[u8]>(0) == key.fingerprint => Self::Done(KeptResponse::from_row(row)),
            (Some(_), _) => Self::Reused,
            (None, true) => Self::Free,
            (None, false) => Self::Outstanding,
        }
    }
}

/// The parameters of [`LOCK`] and [`FIND`].
pub(super) struct Search {
    pub(super) lock: i64,
    pub(super) identity: Vec<u8>,
}

impl Search {
    pub(super) fn new(key: &RequestKey) -> Self {
        let identity = key.identity();
        Self { lock: RequestKey::lock(&identity), identity: identity.into() }
    }
}

/// A key with its answer, as the parameters of [`KEEP`].
pub(super) struct Answered<'a> {
    identity: Vec<u8>,
    fingerprint: &'a [u8],
    subject: &'a str,
    route: String,
    key: &'a str,
    status: i16,
    header_names: Vec<&'a str>,
    header_values: Vec<&'a str>,
    body: &'a [u8],
}

impl<'a> Answered<'a> {
    pub(super) fn new(key: &'a RequestKey, response: &'a KeptResponse) -> Self {
        // PostgreSQL keeps no U+0000 in text; in a header it is not valid, and such a header never reaches a caller.
        let sound = |text: &str| !text.contains('\0');
        let headers = response.headers.iter().filter(|(name, value)| sound(name) && sound(value));
        let (header_names, header_values) = headers.map(|(name, value)| (name.as_str(), value.as_str())).unzip();
        Self {
            identity: key.identity().into(),
            fingerprint: &key.fingerprint,
            subject: &key.subject,
            route: format!("{} {}", key.method, key.route),
            key: &key.key,
            status: i16::try_from(response.status).unwrap_or_default(),
            header_names,
            header_values,
            body: &response.body,
        }
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 9] {
        [
            &self.identity,
            &self.fingerprint,
            &self.subject,
            &self.route,
            &self.key,
            &self.status,
            &self.header_names,
            &self.header_values,
            &self.body,
        ]
    }
}

/// The upkeep of the answers: those that are good no more are forgotten, a day's at once.
#[derive(Debug, Clone)]
pub struct KeptAnswers {
    pool: Pool,
}

impl KeptAnswers {
    /// The answers in the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// Forgets what is two days old; true if there was anything. Waits for its locks only a moment: an error may mean that others had them.
    pub async fn forget(&self) -> Result<bool, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let row = lease.client().query_one("SELECT tidemill.idempotency_forget()", &[]).await;
        let forgot = row.map_err(|error| Unavailable(describe(&error)))?.get(0);
        lease.give_back();
        Ok(forgot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_keys_run_together() {
        let key = |subject: &str, method: &str, route: &str, key: &str| {
            let [subject, method, route, key] = [subject, method, route, key].map(str::to_owned);
            RequestKey { subject, method, route, key, fingerprint: [0; 32] }.identity()
        };
        let all = [
            key("ann", "POST", "/a", "k"),
            key("an", "nPOST", "/a", "k"),
            key("ann", "POST", "/ak", ""),
            key("bob", "POST", "/a", "k"),
            key("ann", "PUT", "/a", "k"),
            key("ann", "POST", "/b", "k"),
            key("ann", "POST", "/a", "K"),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
        assert_ne!(digest([None]), digest([Some(b"".as_slice())]));
    }
}
