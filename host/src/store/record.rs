//! A Kafka record, whole, detached from the client that read it.

use bytes::Bytes;
use bytestring::ByteString;
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// A record as it was read. What waits or is given up is kept as this, untouched. Its texts and bytes may lie in memory that it shares with its
/// neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// Where it was read.
    pub topic: Arc<str>,
    /// Its partition.
    pub partition: i32,
    /// Its offset in the partition.
    pub offset: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Its headers in order, doubles included.
    pub headers: Vec<(ByteString, Option<Bytes>)>,
    /// Milliseconds since 1970; 0 where the record has none.
    pub timestamp: i64,
}

impl Record {
    /// The last header of this name, case aside, as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().rev().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.1.as_deref()?).ok()
    }

    /// Where in the value bytes lie, if they are a part of it.
    pub fn place(&self, bytes: &[u8]) -> Option<Range<usize>> {
        let value = self.value.as_deref()?;
        let begin = bytes.as_ptr().addr().checked_sub(value.as_ptr().addr())?;
        (begin < value.len()).then_some(begin..begin + bytes.len())
    }

    /// Text that was found in this record, for longer than the record is borrowed: what lies in the value is not copied.
    pub fn share(&self, text: Cow<'_, str>) -> ByteString {
        let Some((value, place)) = self.value.as_ref().zip(self.place(text.as_bytes())) else { return text.into_owned().into() };
        // It was text when it was found.
        ByteString::try_from(value.slice(place)).unwrap_or_default()
    }

    /// What it takes of memory, in bytes.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Bytes::len)).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers + 200
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_lies_in_the_value_is_shared_and_other_text_is_its_own() {
        let record = Record { value: Some(Bytes::from_static(b"{\"id\":\"a\"}")), ..Record::default() };
        let value = record.value.as_deref().unwrap();
        let id = record.share(Cow::Borrowed(std::str::from_utf8(&value[7..8]).unwrap()));
        assert_eq!((&*id, id.as_bytes().as_ptr()), ("a", value[7..].as_ptr()));
        assert_eq!(record.share(Cow::Borrowed("elsewhere")), "elsewhere");
        assert_eq!(record.share(Cow::Owned("own".to_owned())), "own");
        assert_eq!(Record::default().share(Cow::Borrowed("")), "");
    }
}
