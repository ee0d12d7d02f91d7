//! A record, detached from librdkafka's memory and decoded.

use super::runner::Work;
use crate::manifest::Payload;
use crate::store::Record;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The name of a header whose own name is no UTF-8.
const UNREADABLE: &str = "\u{fffd}";

/// A record that was read. It is decoded as it arrives: its worker may be waiting for the database then, and has one thing less to do after that.
pub(super) struct Arrived {
    pub(super) record: Arc<Record>,
    payload: Payload,
    work: Result<Work, String>,
}

impl Arrived {
    /// Takes a record from the client; `topic` is its topic's name.
    pub(super) fn read(message: &BorrowedMessage<'_>, topic: &Arc<str>, payload: Payload) -> Self {
        let record = Arc::new(detach(message, topic));
        Self { work: Work::decode(record.clone(), payload), record, payload }
    }

    /// The event in it, or why there is none. What its topic holds may have been changed by a deploy since it was read.
    pub(super) fn work(self, payload: Payload) -> Result<Work, String> {
        match self.payload == payload {
            true => self.work,
            false => Work::decode(self.record, payload),
        }
    }

    /// The event in it, if it is there as it was decoded.
    pub(super) fn seen(&self, payload: Payload) -> Option<Work> {
        self.work.as_ref().ok().filter(|_| self.payload == payload).cloned()
    }

    /// What it takes of memory, in bytes.
    pub(super) fn size(&self) -> usize {
        self.record.size() + self.work.as_ref().map_or_else(String::len, |work| work.size())
    }
}

/// A copy that outlives the client's buffers.
fn detach(message: &BorrowedMessage<'_>, topic: &Arc<str>) -> Record {
    Record {
        topic: topic.clone(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map(headers).unwrap_or_default(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
    }
}

/// The client panics at a header whose name is no UTF-8, which Kafka allows. One such record must not end the consumer: the header stays, without
/// its name and value.
fn headers(headers: &impl Headers) -> Vec<(String, Option<Vec<u8>>)> {
    let one = |position| {
        let read = catch_unwind(AssertUnwindSafe(|| headers.get(position)));
        read.map_or_else(|_| (UNREADABLE.to_owned(), None), |header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
    };
    (0..headers.count()).map(one).collect()
}
