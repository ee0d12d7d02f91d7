//! The header of a record batch, message format 2 (KIP-98): what appending, indexing and recovery must know of it.
//!
//! The values in a batch are never decoded on the write path, so compression costs nothing here.

use bytes::{Buf, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::records::{Compression, RecordBatchDecoder};

/// Bytes up to the first record.
pub(super) const HEADER: usize = 61;
/// Bytes before the part that the length field counts: base offset and the length itself.
const PREFIX: usize = 12;
/// The checksum covers everything from here on. Base offset and leader epoch lie before it and may be patched.
const CHECKED: usize = 21;

const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
const COMPRESSION: i16 = 0b111;

/// The decoded header of one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Offset of the first record; a client sends 0.
    pub(super) base_offset: i64,
    /// Bytes of the whole batch.
    pub(super) size: usize,
    /// Offset of the last record, counted from the base offset.
    pub(super) last_offset_delta: i32,
    /// Largest record timestamp in milliseconds since 1970, or -1.
    pub(super) max_timestamp: i64,
    /// Idempotent producer, or -1.
    pub(super) producer_id: i64,
    /// Its epoch, or -1.
    pub(super) producer_epoch: i16,
    /// Sequence number of the first record, or -1.
    pub(super) base_sequence: i32,
    magic: i8,
    crc: u32,
    attributes: i16,
    count: i32,
}

impl Batch {
    /// Reads a header from at least [`HEADER`] bytes; `None` if there are fewer, or if its length is impossible.
    pub(super) fn read(mut raw: &[u8]) -> Option<Batch> {
        if raw.len() < HEADER {
            return None;
        }
        let base_offset = raw.get_i64();
        let size = usize::try_from(raw.get_i32()).ok()? + PREFIX;
        raw.advance(4);
        let (magic, crc, attributes) = (raw.get_i8(), raw.get_u32(), raw.get_i16());
        let last_offset_delta = raw.get_i32();
        raw.advance(8);
        let max_timestamp = raw.get_i64();
        let (producer_id, producer_epoch, base_sequence) = (raw.get_i64(), raw.get_i16(), raw.get_i32());
        let count = raw.get_i32();
        (size >= HEADER).then_some(Batch {
            base_offset,
            size,
            last_offset_delta,
            max_timestamp,
            producer_id,
            producer_epoch,
            base_sequence,
            magic,
            crc,
            attributes,
            count,
        })
    }

    /// Whether these bytes are this whole batch, undamaged.
    pub(super) fn is_intact(&self, raw: &[u8]) -> bool {
        self.magic == 2 && raw.len() == self.size && self.last_offset_delta >= 0 && crc32c::crc32c(&raw[CHECKED..]) == self.crc
    }

    /// Checks what a producer sent for one partition, with the errors that Kafka's `LogValidator` gives.
    ///
    /// Since version 3 of Produce this is exactly one batch in format 2.
    pub(super) fn validate(raw: &[u8]) -> Result<Batch, ResponseError> {
        let batch = Batch::read(raw).ok_or(ResponseError::CorruptMessage)?;
        if batch.magic != 2 {
            return Err(ResponseError::UnsupportedForMessageFormat);
        }
        if batch.size > raw.len() {
            return Err(ResponseError::CorruptMessage);
        }
        if batch.size < raw.len() {
            return Err(ResponseError::InvalidRecord);
        }
        if !batch.is_intact(raw) {
            return Err(ResponseError::CorruptMessage);
        }
        if batch.attributes & CONTROL != 0 || batch.count < 1 || batch.count - 1 != batch.last_offset_delta {
            return Err(ResponseError::InvalidRecord);
        }
        if batch.attributes & TRANSACTIONAL != 0 {
            return Err(ResponseError::InvalidTxnState);
        }
        if batch.producer_id >= 0 && (batch.producer_epoch < 0 || batch.base_sequence < 0) {
            return Err(ResponseError::InvalidRecord);
        }
        Ok(batch)
    }

    /// The batch as it is stored: the sender's bytes with the broker's base offset and leader epoch 0.
    pub(super) fn placed(raw: &[u8], base_offset: i64) -> Vec<u8> {
        let mut stored = raw.to_vec();
        stored[0..8].copy_from_slice(&base_offset.to_be_bytes());
        stored[12..16].copy_from_slice(&0i32.to_be_bytes());
        stored
    }

    /// Sequence number of the last record; numbers start again at 0 after `i32::MAX` (KIP-98).
    pub(super) fn last_sequence(&self) -> i32 {
        self.base_sequence
            .checked_add(self.last_offset_delta)
            .unwrap_or_else(|| self.last_offset_delta - (i32::MAX - self.base_sequence) - 1)
    }

    /// Timestamp and offset of the first record at or after `timestamp`.
    ///
    /// In a compressed batch that is the first record of all: too early by a few records, never too late.
    pub(super) fn find(&self, raw: Bytes, timestamp: i64) -> Option<(i64, i64)> {
        let first = |raw: &Bytes| raw.get(27..35).map(|mut at| (at.get_i64(), self.base_offset));
        if self.attributes & COMPRESSION != Compression::None as i16 {
            return first(&raw);
        }
        match RecordBatchDecoder::decode(&mut raw.clone()) {
            Ok(set) => set.records.iter().find(|r| r.timestamp >= timestamp).map(|r| (r.timestamp, r.offset)),
            Err(_) => first(&raw),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::BytesMut;
    use kafka_protocol::records::{Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

    /// One batch as a producer sends it; sequence -1 and producer -1 mean "not idempotent".
    pub(crate) fn sent(count: i32, producer_id: i64, producer_epoch: i16, sequence: i32, timestamp: i64) -> Bytes {
        let records: Vec<Record> = (0..count)
            .map(|i| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id,
                producer_epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(i),
                sequence: if sequence < 0 { sequence } else { sequence.wrapping_add(i) },
                timestamp: timestamp + i64::from(i),
                key: None,
                value: Some(Bytes::from(format!("value {i}"))),
                headers: Default::default(),
            })
            .collect();
        let mut out = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
        if sequence < 0 {
            // The encoder counts sequences up from -1 as well and would start a batch per record.
            assert_eq!(count, 1, "only one record fits in a batch of a plain producer here");
        }
        out.freeze()
    }

    #[test]
    fn a_flipped_bit_is_corrupt_and_a_second_batch_is_invalid() {
        let good = sent(3, 5, 0, 0, 1_000);
        assert_eq!(Batch::validate(&good).unwrap().last_offset_delta, 2);
        let mut bad = good.to_vec();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(Batch::validate(&bad), Err(ResponseError::CorruptMessage));
        assert_eq!(Batch::validate(&good[..good.len() - 1]), Err(ResponseError::CorruptMessage));
        assert_eq!(Batch::validate(&[&good[..], &good[..]].concat()), Err(ResponseError::InvalidRecord));
        assert_eq!(Batch::validate(b""), Err(ResponseError::CorruptMessage));
    }

    #[test]
    fn placing_a_batch_leaves_its_checksum_valid() {
        let stored = Batch::placed(&sent(2, 5, 0, 0, 1_000), 77);
        let batch = Batch::validate(&stored).unwrap();
        assert_eq!(batch.base_offset, 77);
        assert_eq!(batch.find(Bytes::from(stored), 1_001), Some((1_001, 78)));
    }

    #[test]
    fn the_last_sequence_wraps_at_the_largest_number() {
        let batch = Batch { base_sequence: i32::MAX - 1, ..Batch::validate(&sent(4, 5, 0, 0, 0)).unwrap() };
        assert_eq!(batch.last_sequence(), 1);
    }
}
