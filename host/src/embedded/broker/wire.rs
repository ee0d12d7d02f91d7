//! Frames, headers and bodies: bytes of one connection to typed requests and back.
//!
//! The `kafka-protocol` crate owns the layouts. This file adds what a server needs beside them: the length prefix with its
//! limit, the request header, and a check that lying lengths are found before memory is reserved for them.

use bytes::{Buf, BufMut, Bytes, BytesMut, TryGetError};
use kafka_protocol::messages::{ApiKey, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::buf::ByteBuf;
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};

/// The largest request in bytes, the broker property `socket.request.max.bytes` of Kafka.
pub(super) const MAX_FRAME: usize = 100 * 1024 * 1024;

/// Why a connection is closed instead of answered.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the frame claims {0} bytes, allowed are 8 to {MAX_FRAME}")]
    FrameSize(i32),
    #[error("api key {key} version {version} is not supported")]
    Unsupported { key: i16, version: i16 },
    #[error("malformed request, api key {key} version {version}: {reason}")]
    Malformed { key: i16, version: i16, reason: String },
    #[error("the answer to api key {key} version {version} cannot be encoded: {reason}")]
    Unencodable { key: i16, version: i16, reason: String },
    #[error("records sent with acks=0 were refused: error code {0}")]
    SilentProduce(i16),
    #[error("connection: {0}")]
    Io(#[from] std::io::Error),
}

/// Takes the next whole frame, without its length, out of what was read so far.
///
/// Reserves room for the rest of a frame that has begun, so that one read can fill it.
pub(super) fn next_frame(buffer: &mut BytesMut) -> Result<Option<Bytes>, Refusal> {
    let Some(prefix) = buffer.first_chunk::<4>() else {
        buffer.reserve(8 * 1024);
        return Ok(None);
    };
    let claimed = i32::from_be_bytes(*prefix);
    let length = usize::try_from(claimed).ok().filter(|n| (8..=MAX_FRAME).contains(n)).ok_or(Refusal::FrameSize(claimed))?;
    if buffer.len() < 4 + length {
        buffer.reserve(4 + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(4);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// One request with its header read and its body still encoded.
pub(super) struct Request {
    /// The raw key, also of APIs that this server does not know.
    pub(super) key: i16,
    /// The version that the client chose.
    pub(super) version: i16,
    /// What the client calls itself, empty if it does not say.
    pub(super) client_id: StrBytes,
    correlation: i32,
    body: Bytes,
}

impl Request {
    /// Reads the header. The body of an API or version that `supported` denies stays unread: its layout is unknown.
    pub(super) fn parse(mut frame: Bytes, supported: impl Fn(i16, i16) -> bool) -> Result<Request, Refusal> {
        let mut fixed = frame.slice(0..8);
        let (key, version, correlation) = (fixed.get_i16(), fixed.get_i16(), fixed.get_i32());
        let mut request = Request { key, version, client_id: StrBytes::new(), correlation, body: Bytes::new() };
        if let (Ok(api), true) = (ApiKey::try_from(key), supported(key, version)) {
            let layout = api.request_header_version(version);
            RequestHeader::decode(&mut Guard::new(frame.clone()), layout).map_err(|e| request.malformed(&e))?;
            let header = RequestHeader::decode(&mut frame, layout).map_err(|e| request.malformed(&e))?;
            request.client_id = header.client_id.unwrap_or_default();
            request.body = frame;
        }
        Ok(request)
    }

    /// Decodes the body, first against the [`Guard`], then for good.
    pub(super) fn decode<T: Decodable>(&self) -> Result<T, Refusal> {
        T::decode(&mut Guard::new(self.body.clone()), self.version).map_err(|e| self.malformed(&e))?;
        T::decode(&mut self.body.clone(), self.version).map_err(|e| self.malformed(&e))
    }

    /// Encodes an answer in the version of the request, with its length in front.
    pub(super) fn encode<T: Encodable + HeaderVersion>(&self, body: &T) -> Result<Bytes, Refusal> {
        self.encode_as(self.version, body)
    }

    /// Encodes an answer in another version than asked for, which only ApiVersions needs (KIP-511).
    pub(super) fn encode_as<T: Encodable + HeaderVersion>(&self, version: i16, body: &T) -> Result<Bytes, Refusal> {
        let mut out = BytesMut::new();
        out.put_i32(0);
        ResponseHeader::default()
            .with_correlation_id(self.correlation)
            .encode(&mut out, T::header_version(version))
            .and_then(|()| body.encode(&mut out, version))
            .map_err(|e| Refusal::Unencodable { key: self.key, version, reason: e.to_string() })?;
        let length =
            i32::try_from(out.len() - 4).map_err(|e| Refusal::Unencodable { key: self.key, version, reason: e.to_string() })?;
        out[0..4].copy_from_slice(&length.to_be_bytes());
        Ok(out.freeze())
    }

    /// What a version that this server does not speak is refused with.
    pub(super) fn unsupported(&self) -> Refusal {
        Refusal::Unsupported { key: self.key, version: self.version }
    }

    fn malformed(&self, reason: &dyn std::fmt::Display) -> Refusal {
        Refusal::Malformed { key: self.key, version: self.version, reason: reason.to_string().trim_end().to_owned() }
    }
}

/// A reader in which no length goes beyond the frame.
///
/// The crate's array decoder reserves memory for as many elements as the frame claims, and a claim of two billion aborts the
/// process. An honest element takes at least one byte, so a claim above the rest of the frame is a lie. Compact lengths are
/// the only varints of a request and are refused at once. A four-byte length looks like any other number, so numbers are
/// cut down to the rest of the frame plus one: that changes no layout, and a length cut this way runs into the frame's end.
struct Guard {
    bytes: Bytes,
    varint: u64,
    shift: u32,
}

impl Guard {
    fn new(bytes: Bytes) -> Guard {
        Guard { bytes, varint: 0, shift: 0 }
    }
}

impl Buf for Guard {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn try_get_u8(&mut self) -> Result<u8, TryGetError> {
        let byte = self.bytes.try_get_u8()?;
        self.varint |= u64::from(byte & 0x7f) << self.shift;
        self.shift += 7;
        if byte < 0x80 || self.shift >= 35 {
            let length = usize::try_from(self.varint.saturating_sub(1)).unwrap_or(usize::MAX);
            (self.varint, self.shift) = (0, 0);
            if length > self.bytes.remaining() {
                return Err(TryGetError { requested: length, available: self.bytes.remaining() });
            }
        }
        Ok(byte)
    }

    fn try_get_i32(&mut self) -> Result<i32, TryGetError> {
        let value = self.bytes.try_get_i32()?;
        let beyond = i32::try_from(self.bytes.remaining()).unwrap_or(i32::MAX).saturating_add(1);
        Ok(value.min(beyond))
    }
}

impl ByteBuf for Guard {
    fn peek_bytes(&mut self, range: std::ops::Range<usize>) -> Bytes {
        self.bytes.slice(range)
    }

    fn get_bytes(&mut self, size: usize) -> Bytes {
        self.bytes.split_to(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::MetadataRequest;

    fn frame(key: i16, version: i16, rest: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(key);
        out.put_i16(version);
        out.put_i32(7);
        out.put_slice(rest);
        out.freeze()
    }

    #[test]
    fn an_array_that_claims_two_billion_topics_is_malformed() {
        let old = Request::parse(frame(3, 1, b"\xff\xff\x7f\xff\xff\xff"), |_, _| true).unwrap();
        assert!(matches!(old.decode::<MetadataRequest>(), Err(Refusal::Malformed { key: 3, .. })));
        let compact = Request::parse(frame(3, 12, b"\xff\xff\x00\xff\xff\xff\xff\x0f"), |_, _| true).unwrap();
        assert!(matches!(compact.decode::<MetadataRequest>(), Err(Refusal::Malformed { key: 3, .. })));
    }

    #[test]
    fn numbers_larger_than_the_frame_are_no_lengths() {
        let request = Request::parse(frame(3, 1, b"\xff\xff\x00\x00\x00\x01\x00\x01t"), |_, _| true).unwrap();
        assert_eq!(request.decode::<MetadataRequest>().unwrap().topics.unwrap().len(), 1);
    }

    #[test]
    fn a_frame_beyond_the_limit_or_too_short_for_a_header_is_refused() {
        assert!(matches!(next_frame(&mut BytesMut::from(&b"GET / HTTP/1.1"[..])), Err(Refusal::FrameSize(_))));
        assert!(matches!(next_frame(&mut BytesMut::from(&b"\0\0\0\x03abc"[..])), Err(Refusal::FrameSize(3))));
        assert!(next_frame(&mut BytesMut::from(&b"\0\0\0\x09abc"[..])).unwrap().is_none());
    }
}
