//! The outbox: the one way to send an event. `waiting` is what the relay reads.

use sha2::{Digest, Sha256};
use tokio_postgres::types::ToSql;

/// The class of the advisory locks that order a key's rows (`pg_advisory_xact_lock(7001, bucket)`).
pub(super) const KEY_LOCKS: &str = "SELECT pg_advisory_xact_lock(7001, b) FROM unnest($1::int4[]) AS b";

/// Adds the rows of one unit, in the order given.
pub(super) const INSERT: &str = "\
    INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id, correlation_id, traceparent) \
    SELECT bucket, topic, key, value, ARRAY['content-type'], ARRAY[convert_to(content_type, 'UTF8')], event_id, correlation_id, traceparent \
    FROM unnest($1::int2[], $2::text[], $3::bytea[], $4::bytea[], $5::text[], $6::text[], $7::text[], $8::text[]) \
         WITH ORDINALITY AS r(bucket, topic, key, value, content_type, event_id, correlation_id, traceparent, n) \
    ORDER BY n";

/// An event on its way into the outbox, complete as it will be sent.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// Where to.
    pub topic: String,
    /// The record key.
    pub key: Option<Vec<u8>>,
    /// The record value.
    pub value: Vec<u8>,
    /// The record's `content-type` header.
    pub content_type: &'static str,
    /// CloudEvents `id`, for people who look into the table.
    pub event_id: String,
    /// The correlation id, for the same people.
    pub correlation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
}

/// The lock bucket of a key within its topic; the SQL function `tidemill.key_bucket` computes the same.
pub fn key_bucket(topic: &str, key: Option<&[u8]>) -> i16 {
    let mut hash = Sha256::new();
    hash.update(topic.as_bytes());
    hash.update([0]);
    hash.update(key.unwrap_or_default());
    let digest = hash.finalize();
    (i16::from(digest[0]) << 4) | i16::from(digest[1] >> 4)
}

/// The rows of a unit as the columns of [`INSERT`], with the locks that they need, sorted.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) locks: Vec<i32>,
    buckets: Vec<i16>,
    topics: Vec<&'a str>,
    keys: Vec<Option<&'a [u8]>>,
    values: Vec<&'a [u8]>,
    content_types: Vec<&'a str>,
    ids: Vec<&'a str>,
    correlations: Vec<Option<&'a str>>,
    traces: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    pub(super) fn new(events: &'a [Envelope]) -> Self {
        let mut columns = Self::default();
        for event in events {
            let bucket = key_bucket(&event.topic, event.key.as_deref());
            // Without a key there is no order to keep.
            if event.key.is_some() {
                columns.locks.push(i32::from(bucket));
            }
            columns.buckets.push(bucket);
            columns.topics.push(&event.topic);
            columns.keys.push(event.key.as_deref());
            columns.values.push(&event.value);
            columns.content_types.push(event.content_type);
            columns.ids.push(&event.event_id);
            columns.correlations.push(event.correlation_id.as_deref());
            columns.traces.push(event.traceparent.as_deref());
        }
        // One order for all units, or two of them deadlock.
        columns.locks.sort_unstable();
        columns.locks.dedup();
        columns
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 8] {
        [&self.buckets, &self.topics, &self.keys, &self.values, &self.content_types, &self.ids, &self.correlations, &self.traces]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_sorted_and_taken_once() {
        let event = |key: &str| Envelope {
            topic: "orders".into(),
            key: Some(key.into()),
            value: vec![],
            content_type: "text/plain",
            event_id: String::new(),
            correlation_id: None,
            traceparent: None,
        };
        let events: Vec<_> = ["b", "a", "b", "c"].map(event).into();
        let columns = Columns::new(&events);
        assert_eq!(columns.locks.len(), 3);
        assert!(columns.locks.is_sorted());
        assert!(columns.locks.iter().all(|l| (0..4096).contains(l)));
    }
}
