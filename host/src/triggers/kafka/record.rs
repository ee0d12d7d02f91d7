//! A record, detached from librdkafka's memory and decoded.

use super::runner::Work;
use crate::manifest::Payload;
use crate::store::Record;
use bytes::{Bytes, BytesMut};
use bytestring::ByteString;
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
    /// Takes a record from the client; `topic` is its topic's name, `memory` that of its partition.
    pub(super) fn read(message: &BorrowedMessage<'_>, topic: &Arc<str>, payload: Payload, memory: &mut Memory) -> Self {
        let record = Arc::new(detach(message, topic, memory));
        Self { work: Work::decode(record.clone(), payload), record, payload }
    }

    /// A record that no client has read.
    #[cfg(test)]
    pub(super) fn of(record: Record, payload: Payload) -> Self {
        let record = Arc::new(record);
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

/// Memory that the records of a partition share: one allocation for some dozens of them, where each has five or six things to keep, and another
/// thread lets go of them. A record that stays for long keeps its neighbours' bytes as well, so it is memory of one partition, whose records come
/// and go in order, and little.
#[derive(Default)]
pub(super) struct Memory(BytesMut);

impl Memory {
    const SIZE: usize = 16 << 10;

    /// A copy.
    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > Self::SIZE / 4 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.0.capacity() < bytes.len() {
            self.0 = BytesMut::with_capacity(Self::SIZE);
        }
        self.0.extend_from_slice(bytes);
        self.0.split().freeze()
    }
}

/// A copy that outlives the client's buffers.
fn detach(message: &BorrowedMessage<'_>, topic: &Arc<str>, memory: &mut Memory) -> Record {
    Record {
        topic: topic.clone(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(|key| memory.keep(key)),
        value: message.payload().map(|value| memory.keep(value)),
        headers: message.headers().map(|all| headers(all, memory)).unwrap_or_default(),
        timestamp: message.timestamp().to_millis().unwrap_or(0),
    }
}

/// The client panics at a header whose name is no UTF-8, which Kafka allows. One such record must not end the consumer: the header stays, without
/// its name and value.
fn headers(headers: &impl Headers, memory: &mut Memory) -> Vec<(ByteString, Option<Bytes>)> {
    let one = |position| {
        let read = catch_unwind(AssertUnwindSafe(|| headers.get(position)));
        let Ok(header) = read else { return (ByteString::from_static(UNREADABLE), None) };
        // It is text: it comes as such.
        let name = ByteString::try_from(memory.keep(header.key.as_bytes())).unwrap_or_default();
        (name, header.value.map(|value| memory.keep(value)))
    };
    (0..headers.count()).map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_what_it_was_and_large_things_have_memory_of_their_own() {
        let mut memory = Memory::default();
        let kept: Vec<(Vec<u8>, Bytes)> = (0..3_000_usize)
            .map(|n| {
                let bytes = vec![n as u8; n * 7 % 5_000];
                let copy = memory.keep(&bytes);
                (bytes, copy)
            })
            .collect();
        assert!(kept.iter().all(|(bytes, copy)| bytes == copy));
        let (first, second, large) = (memory.keep(b"a"), memory.keep(b"b"), memory.keep(&[0; Memory::SIZE]));
        assert_eq!(first.as_ptr().addr() + 1, second.as_ptr().addr());
        assert_eq!(large.len(), Memory::SIZE);
    }
}
