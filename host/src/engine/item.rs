//! An event on its way to a guest. What its record has as it is stays there: an event is some ten texts, and each copy of them on the way would
//! cost as much as reading them.

use crate::bindings::events::{self, Event};
use crate::capabilities::publish::Cause;
use crate::store::{Identity, Parked, Record};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// One event of a batch: what the host knows it by, and what the guest gets.
#[derive(Debug)]
pub struct Item {
    /// What the inbox knows it by; its source and id are the event's.
    pub identity: Identity,
    /// The record that it came in, which is kept if it has to wait.
    pub record: Arc<Record>,
    content: Content,
}

/// What an event says, apart from its source and id.
#[derive(Debug)]
pub struct Content {
    /// CloudEvents `type`.
    pub type_: Text,
    /// CloudEvents `time`, in microseconds since 1970.
    pub time: Option<i64>,
    /// CloudEvents `subject`.
    pub subject: Option<Text>,
    /// CloudEvents `datacontenttype`.
    pub datacontenttype: Option<Text>,
    /// CloudEvents `dataschema`.
    pub dataschema: Option<Text>,
    /// The extension `correlationid`.
    pub correlationid: Option<Text>,
    /// The extension `traceparent`.
    pub traceparent: Option<Text>,
    /// All other attributes.
    pub extensions: Vec<(Text, Text)>,
    /// The payload.
    pub data: Option<Bytes>,
}

/// Bytes of the record's value, or others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bytes {
    /// These of the value.
    Part(Range<usize>),
    /// Bytes of their own.
    Own(Box<[u8]>),
}

/// Bytes that are UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(Bytes);

impl Bytes {
    /// Bytes of a record: a copy only of what does not lie in its value.
    pub fn of(record: &Record, bytes: Cow<'_, [u8]>) -> Self {
        record.place(&bytes).map_or_else(|| Self::Own(bytes.into()), Self::Part)
    }

    /// How many bytes of its own it has.
    fn size(&self) -> usize {
        match self {
            Self::Part(_) => 0,
            Self::Own(bytes) => bytes.len(),
        }
    }

    fn within<'a>(&'a self, record: &'a Record) -> &'a [u8] {
        match self {
            Self::Part(range) => record.value.as_deref().and_then(|value| value.get(range.clone())).unwrap_or_default(),
            Self::Own(bytes) => bytes,
        }
    }
}

impl Text {
    /// Text of a record, see [`Bytes::of`].
    pub fn of(record: &Record, text: Cow<'_, str>) -> Self {
        Self(Bytes::of(
            record,
            match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
        ))
    }

    /// The text.
    pub fn within<'a>(&'a self, record: &'a Record) -> &'a str {
        // It was text when it was found.
        std::str::from_utf8(self.0.within(record)).unwrap_or_default()
    }

    /// The same, given all of the value: that is text as a whole if any part of it was taken for text.
    fn of_value<'a>(&'a self, value: &'a str) -> &'a str {
        match &self.0 {
            Bytes::Part(range) => value.get(range.clone()).unwrap_or_default(),
            Bytes::Own(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
        }
    }
}

impl Item {
    /// The event that was found in a record.
    pub fn new(record: Arc<Record>, identity: Identity, content: Content) -> Self {
        Self { identity, record, content }
    }

    /// CloudEvents `type`.
    pub fn event_type(&self) -> &str {
        self.content.type_.within(&self.record)
    }

    /// As it is kept, if it has to wait.
    pub fn parked(&self) -> Parked {
        Parked { record: self.record.clone(), identity: self.identity.clone(), type_: self.event_type().to_owned() }
    }

    /// What it takes of memory beside its record, in bytes.
    pub fn size(&self) -> usize {
        let text = |text: &Text| text.0.size();
        let Content { type_, time: _, subject, datacontenttype, dataschema, correlationid, traceparent, extensions, data } =
            &self.content;
        let attributes = [subject, datacontenttype, dataschema, correlationid, traceparent].into_iter().flatten().chain([type_]);
        let each = |(name, value): &(Text, Text)| size_of::<(Text, Text)>() + text(name) + text(value);
        let Identity { source, id, .. } = &self.identity;
        let all = attributes.map(text).sum::<usize>() + extensions.iter().map(each).sum::<usize>() + source.len() + id.len();
        size_of::<Self>() + all + data.as_ref().map_or(0, Bytes::size)
    }

    /// What it goes on from.
    pub fn correlation_id(&self) -> Option<&str> {
        self.content.correlationid.as_ref().map(|text| text.within(&self.record))
    }

    /// What its effects go on from.
    pub(super) fn cause(&self) -> Cause {
        let traceparent = self.content.traceparent.as_ref().map(|text| text.within(&self.record).to_owned());
        Cause { correlation_id: self.correlation_id().map(str::to_owned), traceparent }
    }

    /// Given all of its value, as text.
    fn extensions<'a>(&'a self, whole: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.content.extensions.iter().map(move |(name, value)| (name.of_value(whole), value.of_value(whole)))
    }

    /// The record's value, if it is text: checked once for all parts of it.
    fn value(&self) -> &str {
        self.record.value.as_deref().and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// As the guest gets it, for tests of what reads records.
    #[cfg(test)]
    pub(crate) fn seen<T>(&self, look: impl FnOnce(Event<'_>) -> T) -> T {
        let whole = self.value();
        let extensions: Vec<_> = self.extensions(whole).collect();
        look(self.event(whole, &extensions))
    }

    /// As the guest gets it, with its value as text and its extensions.
    fn event<'a>(&'a self, whole: &'a str, extensions: &'a [(&'a str, &'a str)]) -> Event<'a> {
        let Self { identity, record, content } = self;
        let optional = |text: &'a Option<Text>| text.as_ref().map(|text| text.of_value(whole));
        Event {
            id: &identity.id,
            source: &identity.source,
            type_: content.type_.of_value(whole),
            time: content.time,
            subject: optional(&content.subject),
            datacontenttype: optional(&content.datacontenttype),
            dataschema: optional(&content.dataschema),
            correlationid: optional(&content.correlationid),
            traceparent: optional(&content.traceparent),
            extensions,
            data: content.data.as_ref().map(|data| data.within(record)),
            offset: record.offset,
            key: record.key.as_deref(),
            timestamp: record.timestamp,
        }
    }
}

/// What the events of a batch borrow from.
pub(super) struct Lender<'a> {
    items: &'a [Arc<Item>],
    /// Their values as text.
    values: Vec<&'a str>,
    /// The extensions of all of them, one event's behind the other's.
    extensions: Vec<(&'a str, &'a str)>,
}

impl<'a> Lender<'a> {
    pub(super) fn of(items: &'a [Arc<Item>]) -> Self {
        let values: Vec<&str> = items.iter().map(|item| item.value()).collect();
        let extensions = items.iter().zip(&values).flat_map(|(item, whole)| item.extensions(whole)).collect();
        Self { items, values, extensions }
    }

    /// The batch as the guest gets it: `events` of the partition that the first of them is from, as all of them are.
    pub(super) fn batch<'b>(&'b self, events: &'b [Event<'b>]) -> events::Batch<'b> {
        let record = self.items.first().map(|item| &item.record);
        let (topic, partition) = record.map_or(("", 0), |record| (&*record.topic, record.partition));
        events::Batch { topic, partition, events }
    }

    /// Its events.
    pub(super) fn events(&self) -> Vec<Event<'_>> {
        let mut extensions = self.extensions.as_slice();
        let event = |(item, whole): (&'a Arc<Item>, &&'a str)| {
            let (own, others) = extensions.split_at(item.content.extensions.len().min(extensions.len()));
            extensions = others;
            item.event(whole, own)
        };
        self.items.iter().zip(&self.values).map(event).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_value_is_not_copied() {
        let record = Record { value: Some(bytes::Bytes::from_static(b"{\"a\":1}")), ..Record::default() };
        let value = record.value.as_deref().unwrap();
        let part = Bytes::of(&record, Cow::Borrowed(&value[1..4]));
        assert_eq!((&part, part.within(&record)), (&Bytes::Part(1..4), &b"\"a\""[..]));
        let other = Bytes::of(&record, Cow::Borrowed(b"elsewhere"));
        assert_eq!(other, Bytes::Own((*b"elsewhere").into()));
        assert_eq!(Text::of(&record, Cow::Owned("own".to_owned())).within(&record), "own");
        let empty = Text::of(&record, Cow::Borrowed(""));
        assert_eq!(empty.within(&record), "");
    }
}
