//! A record, detached from librdkafka's memory.

use rdkafka::message::{BorrowedMessage, Headers, Message};

/// A record as it was read.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) value: Option<Vec<u8>>,
    pub(super) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970; 0 where the record has none.
    pub(super) timestamp: i64,
}

impl Record {
    pub(super) fn detach(message: &BorrowedMessage<'_>) -> Self {
        let headers = message
            .headers()
            .map(|headers| headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect());
        Self {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            timestamp: message.timestamp().to_millis().unwrap_or(0),
        }
    }

    /// The last header of this name, case aside, as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.1.as_deref()?).ok()
    }

    /// What it takes of memory.
    pub(super) fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum();
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + headers + 200
    }
}
