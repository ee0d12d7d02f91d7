//! Idempotent producers of one partition (KIP-98): what they appended last, to tell a retry from a gap.

use std::collections::{HashMap, VecDeque};

use kafka_protocol::ResponseError;

use super::batch::Batch;

/// As many batches as an idempotent producer may have in flight, and as Kafka remembers.
const REMEMBERED: usize = 5;

/// How long a producer that appends nothing is remembered, in milliseconds: Kafka's `producer.id.expiration.ms`.
const IDLE: i64 = 24 * 60 * 60 * 1000;

/// What to do with a batch of an idempotent producer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the next one.
    Append,
    /// It is in the log already, from this offset on: answer as if it had just been appended.
    Duplicate(i64),
}

/// Every idempotent producer that wrote to a partition. It is rebuilt from the batches when the log is opened.
#[derive(Debug, Default)]
pub(super) struct Producers(HashMap<i64, Producer>);

#[derive(Debug)]
struct Producer {
    epoch: i16,
    last: VecDeque<Appended>,
    /// When it appended last, or was found in the log; milliseconds since 1970.
    seen: i64,
}

#[derive(Debug)]
struct Appended {
    first: i32,
    last: i32,
    offset: i64,
}

impl Producers {
    /// Judges a batch before it is appended, as Kafka's `ProducerAppendInfo` does.
    ///
    /// A producer that the partition does not know may start at any number: its records may have been deleted.
    pub(super) fn check(&self, batch: &Batch) -> Result<Verdict, ResponseError> {
        let Some(known) = self.0.get(&batch.producer_id).filter(|_| batch.producer_id >= 0) else {
            return Ok(Verdict::Append);
        };
        if batch.producer_epoch < known.epoch {
            return Err(ResponseError::InvalidProducerEpoch);
        }
        if batch.producer_epoch > known.epoch {
            return if batch.base_sequence == 0 { Ok(Verdict::Append) } else { Err(ResponseError::OutOfOrderSequenceNumber) };
        }
        let same = |a: &&Appended| a.first == batch.base_sequence && a.last == batch.last_sequence();
        if let Some(original) = known.last.iter().find(same) {
            return Ok(Verdict::Duplicate(original.offset));
        }
        let next = known.last.back().map_or(0, |a| a.last.checked_add(1).unwrap_or(0));
        if batch.base_sequence == next { Ok(Verdict::Append) } else { Err(ResponseError::OutOfOrderSequenceNumber) }
    }

    /// Remembers a batch that was appended at `offset`.
    pub(super) fn appended(&mut self, batch: &Batch, offset: i64, now: i64) {
        if batch.producer_id < 0 {
            return;
        }
        let known = self.0.entry(batch.producer_id).or_insert_with(|| Producer {
            epoch: batch.producer_epoch,
            last: VecDeque::new(),
            seen: now,
        });
        known.seen = now;
        if known.epoch != batch.producer_epoch {
            known.epoch = batch.producer_epoch;
            known.last.clear();
        }
        if known.last.len() == REMEMBERED {
            known.last.pop_front();
        }
        known.last.push_back(Appended { first: batch.base_sequence, last: batch.last_sequence(), offset });
    }

    /// Forgets the producers that have been idle for a day. One that comes back after that may start at any number.
    pub(super) fn expire(&mut self, now: i64) {
        self.0.retain(|_, producer| now - producer.seen < IDLE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::tests::sent;
    use super::*;

    fn batch(epoch: i16, sequence: i32, count: i32) -> Batch {
        let mut batch = Batch::validate(&sent(count, 9, epoch, 0, 0)).unwrap();
        batch.base_sequence = sequence;
        batch
    }

    fn append(producers: &mut Producers, batch: &Batch, offset: i64) {
        assert_eq!(producers.check(batch), Ok(Verdict::Append));
        producers.appended(batch, offset, 0);
    }

    #[test]
    fn a_retry_gets_its_original_offset_and_a_gap_is_refused() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(0, 0, 3), 100);
        append(&mut producers, &batch(0, 3, 2), 103);
        assert_eq!(producers.check(&batch(0, 0, 3)), Ok(Verdict::Duplicate(100)));
        assert_eq!(producers.check(&batch(0, 3, 2)), Ok(Verdict::Duplicate(103)));
        assert_eq!(producers.check(&batch(0, 6, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&batch(0, 3, 3)), Err(ResponseError::OutOfOrderSequenceNumber));
    }

    #[test]
    fn only_the_last_five_batches_are_remembered() {
        let mut producers = Producers::default();
        for i in 0..6 {
            append(&mut producers, &batch(0, i, 1), i64::from(i));
        }
        assert_eq!(producers.check(&batch(0, 0, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
        assert_eq!(producers.check(&batch(0, 1, 1)), Ok(Verdict::Duplicate(1)));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(0, 0, 1), 0);
        assert_eq!(producers.check(&batch(1, 1, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
        append(&mut producers, &batch(1, 0, 1), 1);
        assert_eq!(producers.check(&batch(0, 1, 1)), Err(ResponseError::InvalidProducerEpoch));
    }

    #[test]
    fn a_producer_is_forgotten_after_a_day_without_a_batch() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(0, 0, 1), 0);
        producers.expire(IDLE - 1);
        assert_eq!(producers.check(&batch(0, 7, 1)), Err(ResponseError::OutOfOrderSequenceNumber));
        producers.expire(IDLE);
        assert_eq!(producers.check(&batch(0, 7, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn sequences_go_on_at_zero_after_the_largest() {
        let mut producers = Producers::default();
        append(&mut producers, &batch(0, i32::MAX - 1, 2), 0);
        append(&mut producers, &batch(0, 0, 1), 2);
    }
}
