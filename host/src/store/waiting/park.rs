//! Rows that a unit adds for the events which may not run yet.

use super::{Consumer, Parked, waiting_bucket};
use tokio_postgres::types::ToSql;

/// Adds events in the order given. The first of a key may run if no other row of the key is there. The headers of all rows are one flat list,
/// since PostgreSQL's arrays of arrays are rectangles; each row names its part.
pub(in crate::store) const PARK: &str = "\
    INSERT INTO tidemill.waiting (scope, consumer_group, handler, topic, partition, record_offset, record_time, key, value, \
                                  header_names, header_values, source, event_id, type, due) \
    SELECT $1, $2, $3, $4, $5, r.record_offset, r.record_time, r.key, r.value, \
           ($6::text[])[r.h_from:r.h_to], ($7::bytea[])[r.h_from:r.h_to], r.source, r.event_id, r.type, \
           CASE WHEN r.key IS NULL OR (row_number() OVER (PARTITION BY r.key ORDER BY r.n) = 1 AND NOT EXISTS \
                     (SELECT 1 FROM tidemill.waiting w WHERE w.scope = $1 AND w.topic = $4 AND sha256(w.key) = sha256(r.key))) \
                THEN clock_timestamp() END \
    FROM unnest($8::int8[], $9::int8[], $10::bytea[], $11::bytea[], $12::int4[], $13::int4[], $14::text[], $15::text[], $16::text[]) \
         WITH ORDINALITY AS r(record_offset, record_time, key, value, h_from, h_to, source, event_id, type, n) \
    ORDER BY r.n \
    RETURNING id";

/// The parameters of [`PARK`]. All events come from one partition.
#[derive(Default)]
pub(in crate::store) struct ParkColumns<'a> {
    scope: i32,
    group: &'a str,
    handler: &'a str,
    topic: &'a str,
    partition: i32,
    header_names: Vec<&'a str>,
    header_values: Vec<Option<&'a [u8]>>,
    offsets: Vec<i64>,
    times: Vec<i64>,
    keys: Vec<Option<&'a [u8]>>,
    values: Vec<Option<&'a [u8]>>,
    from: Vec<i32>,
    to: Vec<i32>,
    sources: Vec<&'a str>,
    ids: Vec<&'a str>,
    types: Vec<&'a str>,
}

impl<'a> ParkColumns<'a> {
    pub(in crate::store) fn new(consumer: &'a Consumer, events: &'a [Parked]) -> Self {
        let mut columns = Self { scope: consumer.scope.0, group: &consumer.group, handler: &consumer.handler, ..Self::default() };
        for event in events {
            let record = &event.record;
            (columns.topic, columns.partition) = (&record.topic, record.partition);
            columns.offsets.push(record.offset);
            columns.times.push(record.timestamp);
            columns.keys.push(record.key.as_deref());
            columns.values.push(record.value.as_deref());
            // Counted from one, both ends included; an empty part ends before it begins.
            columns.from.push(position(columns.header_names.len()) + 1);
            columns.header_names.extend(record.headers.iter().map(|(name, _)| &**name));
            columns.header_values.extend(record.headers.iter().map(|(_, value)| value.as_deref()));
            columns.to.push(position(columns.header_names.len()));
            columns.sources.push(&event.identity.source);
            columns.ids.push(&event.identity.id);
            columns.types.push(&event.type_);
        }
        columns
    }

    pub(in crate::store) fn params(&self) -> [&(dyn ToSql + Sync); 16] {
        [
            &self.scope,
            &self.group,
            &self.handler,
            &self.topic,
            &self.partition,
            &self.header_names,
            &self.header_values,
            &self.offsets,
            &self.times,
            &self.keys,
            &self.values,
            &self.from,
            &self.to,
            &self.sources,
            &self.ids,
            &self.types,
        ]
    }
}

/// The locks of the keys that these events wait with.
pub(in crate::store) fn locks(consumer: &Consumer, events: &[Parked]) -> impl Iterator<Item = i32> {
    events.iter().filter_map(move |event| {
        let key = event.record.key.as_deref()?;
        Some(i32::from(waiting_bucket(consumer.scope, &event.record.topic, key)))
    })
}

fn position(length: usize) -> i32 {
    i32::try_from(length).unwrap_or(i32::MAX)
}
