//! A record, detached from librdkafka's memory.

use crate::store::Record;
use rdkafka::message::{BorrowedMessage, Headers, Message};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The name of a header whose own name is no UTF-8.
const UNREADABLE: &str = "\u{fffd}";

/// A copy that outlives the client's buffers.
pub(super) fn detach(message: &BorrowedMessage<'_>) -> Record {
    Record {
        topic: message.topic().to_owned(),
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
