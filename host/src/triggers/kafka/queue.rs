//! What a partition has read and not yet handled. Full, it pauses the partition (the consumer stays in its group); drained, it goes on.

use super::GroupContext;
use super::record::{Arrived, Memory};
use super::runner::Work;
use crate::manifest::Payload;
use crate::telemetry::lock;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::Offset;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// With so many bytes the partition is paused.
const HIGH: usize = 8 << 20;
/// With so many it goes on: there is work left for the time in which the client asks the broker again. Not more, since each pause costs about a
/// mebibyte: what the client has read by then and not handed out is read again.
const LOW: usize = 2 << 20;

/// The queue of one partition, between the consumer's receive loop and the partition's worker.
pub(super) struct Queue {
    consumer: Arc<StreamConsumer<GroupContext>>,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    state: Mutex<State>,
    arrived: Notify,
}

#[derive(Default)]
struct State {
    /// With their sizes.
    records: VecDeque<(Arrived, usize)>,
    bytes: usize,
    memory: Memory,
    paused: bool,
    closed: bool,
    /// Closed because the partition is another's now.
    lost: bool,
}

impl Queue {
    pub(super) fn new(consumer: Arc<StreamConsumer<GroupContext>>, topic: Arc<str>, partition: i32) -> Self {
        Self { consumer, topic, partition, state: Mutex::default(), arrived: Notify::new() }
    }

    /// Where the next records that come are kept, until they are pushed.
    pub(super) fn memory(&self) -> Memory {
        std::mem::take(&mut lock(&self.state).memory)
    }

    pub(super) fn push(&self, records: Vec<Arrived>, memory: Memory) {
        let mut state = lock(&self.state);
        state.memory = memory;
        for record in records {
            let size = record.size();
            state.bytes += size;
            state.records.push_back((record, size));
        }
        if !state.paused && state.bytes >= HIGH {
            state.paused = self.consumer.pause(&self.list()).is_ok();
        }
        self.arrived.notify_one();
    }

    /// The partition is another's now: nothing more is handed out, and no offset is stored.
    pub(super) fn close(&self) {
        lock(&self.state).lost = true;
        self.finish();
    }

    /// The host stops: nothing more is handed out, but what is under way may store its offset.
    pub(super) fn finish(&self) {
        lock(&self.state).closed = true;
        self.arrived.notify_one();
    }

    /// Whether a record belongs here.
    pub(super) fn is_of(&self, message: &BorrowedMessage<'_>) -> bool {
        message.partition() == self.partition && message.topic() == &*self.topic
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Waits for records and takes up to `count` of them and about `bytes` bytes, at least one; `None` when closed.
    pub(super) async fn take(&self, count: usize, bytes: usize) -> Option<Vec<Arrived>> {
        loop {
            let arrived = self.arrived.notified();
            {
                let mut state = lock(&self.state);
                if state.closed {
                    return None;
                }
                if !state.records.is_empty() {
                    return Some(self.drain(&mut state, count, bytes));
                }
            }
            arrived.await;
        }
    }

    /// The first events of those that wait here, which stay.
    pub(super) fn ahead(&self, count: usize, payload: Payload) -> Vec<Work> {
        lock(&self.state).records.iter().filter_map(|(arrived, _)| arrived.seen(payload)).take(count).collect()
    }

    /// Resolves when the queue is closed.
    pub(super) async fn closed(&self) {
        loop {
            let arrived = self.arrived.notified();
            if self.is_closed() {
                // `take` waits for the same bell.
                self.arrived.notify_one();
                return;
            }
            arrived.await;
        }
    }

    fn drain(&self, state: &mut State, count: usize, bytes: usize) -> Vec<Arrived> {
        let mut taken = Vec::with_capacity(count.min(state.records.len()));
        let mut sum = 0;
        while taken.len() < count && (taken.is_empty() || sum < bytes) {
            let Some((record, size)) = state.records.pop_front() else { break };
            sum += size;
            taken.push(record);
        }
        state.bytes -= sum;
        if state.paused && state.bytes <= LOW {
            state.paused = self.consumer.resume(&self.list()).is_err();
        }
        taken
    }

    /// Notes that everything below `offset` is done. After a revoke the partition is another's: its offset is not ours to store.
    pub(super) fn store(&self, offset: i64) {
        if lock(&self.state).lost {
            return;
        }
        let mut list = TopicPartitionList::new();
        let stored = list
            .add_partition_offset(&self.topic, self.partition, Offset::Offset(offset))
            .and_then(|()| self.consumer.store_offsets(&list));
        if let Err(error) = stored {
            tracing::debug!(topic = &*self.topic, partition = self.partition, %error, "an offset was not stored; its records are read again");
        }
    }

    fn list(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition);
        list
    }
}
