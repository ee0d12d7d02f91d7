//! What a partition has read and not yet handled.

use super::GroupContext;
use super::record::Arrived;
use super::runner::Work;
use crate::manifest::Payload;
use crate::telemetry::lock;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::topic_partition_list::Offset;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;

/// With so many bytes there is no room for more: a batch of large events waits, or several of small ones.
pub(super) const ROOM: usize = 4 << 20;

/// The queue of one partition, between its pump and its worker.
pub(super) struct Queue {
    consumer: Arc<StreamConsumer<GroupContext>>,
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Held by the pump while it takes records, and by whoever closes.
    taking: Mutex<()>,
    state: Mutex<State>,
    /// Rung for the worker.
    arrived: Notify,
    /// Rung for the pump.
    drained: Notify,
}

#[derive(Default)]
struct State {
    /// With their sizes.
    records: VecDeque<(Arrived, usize)>,
    bytes: usize,
    paused: bool,
    closed: bool,
    /// Closed because the partition is another's now.
    lost: bool,
}

impl Queue {
    pub(super) fn new(consumer: Arc<StreamConsumer<GroupContext>>, topic: Arc<str>, partition: i32) -> Self {
        Self {
            consumer,
            topic,
            partition,
            taking: Mutex::default(),
            state: Mutex::default(),
            arrived: Notify::new(),
            drained: Notify::new(),
        }
    }

    pub(super) fn push(&self, records: Vec<Arrived>) {
        let mut state = lock(&self.state);
        for record in records {
            let size = record.size();
            state.bytes += size;
            state.records.push_back((record, size));
        }
        self.arrived.notify_one();
    }

    /// Waits until `look` finds something in the state; looks whenever `bell` has rung.
    async fn until<T>(&self, bell: &Notify, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let rung = bell.notified();
            if let Some(found) = look(&mut lock(&self.state)) {
                return found;
            }
            rung.await;
        }
    }

    /// For the pump: waits until there is room; `false` when closed.
    pub(super) async fn room(&self) -> bool {
        self.until(&self.drained, |state| (state.closed || state.bytes < ROOM).then_some(!state.closed)).await
    }

    /// For the pump, while it takes records: it is not closed as long as this is held.
    pub(super) fn hold(&self) -> Option<MutexGuard<'_, ()>> {
        let held = lock(&self.taking);
        (!self.is_closed()).then_some(held)
    }

    /// For the pump: librdkafka throws away what it has read, and reads no more.
    pub(super) fn pause(&self) {
        let mut state = lock(&self.state);
        state.paused = !state.closed && self.consumer.pause(&self.list()).is_ok();
    }

    /// For the pump: librdkafka reads on.
    pub(super) fn resume(&self) {
        let mut state = lock(&self.state);
        if state.paused && !state.closed {
            state.paused = self.consumer.resume(&self.list()).is_err();
        }
    }

    /// Whether there is no room for records that librdkafka has in memory.
    pub(super) fn is_full(&self) -> bool {
        let state = lock(&self.state);
        state.bytes >= ROOM && !state.paused
    }

    /// For the pump, while it waits for records: resolves when the queue is closed.
    pub(super) async fn over(&self) {
        self.until(&self.drained, |state| state.closed.then_some(())).await;
    }

    /// For the worker, before it begins: waits for the first record; `false` if the queue is closed before.
    pub(super) async fn begun(&self) -> bool {
        self.until(&self.arrived, |state| (state.closed || !state.records.is_empty()).then_some(!state.closed)).await
    }

    /// The partition is another's now: nothing more is handed out, and no offset is stored.
    pub(super) fn close(&self) {
        lock(&self.state).lost = true;
        self.finish();
    }

    /// The host stops: nothing more is handed out, but what is under way may store its offset.
    pub(super) fn finish(&self) {
        let taking = lock(&self.taking);
        lock(&self.state).closed = true;
        drop(taking);
        self.arrived.notify_one();
        self.drained.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        lock(&self.state).closed
    }

    /// Waits for records and takes up to `count` of them and about `bytes` bytes, at least one; `None` when closed.
    pub(super) async fn take(&self, count: usize, bytes: usize) -> Option<Vec<Arrived>> {
        let taken = |state: &mut State| match state.closed {
            true => Some(None),
            false => (!state.records.is_empty()).then(|| Some(self.drain(state, count, bytes))),
        };
        self.until(&self.arrived, taken).await
    }

    /// The first events of those that wait here, which stay.
    pub(super) fn ahead(&self, count: usize, payload: Payload) -> Vec<Work> {
        lock(&self.state).records.iter().filter_map(|(arrived, _)| arrived.seen(payload)).take(count).collect()
    }

    /// For the worker: resolves when the queue is closed.
    pub(super) async fn closed(&self) {
        self.until(&self.arrived, |state| state.closed.then_some(())).await;
        // `take` waits for the same bell.
        self.arrived.notify_one();
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
        self.drained.notify_one();
        taken
    }

    fn list(&self) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.topic, self.partition);
        list
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KafkaAccess;
    use crate::kafka::KafkaContext;
    use crate::store::Record;
    use crate::telemetry::{Board, Metrics};
    use crate::triggers::kafka::assign::Held;
    use futures_util::FutureExt;

    /// A queue whose client never finds a broker.
    fn queue() -> Queue {
        let (board, kafka) = (Arc::new(Board::default()), Arc::new(KafkaAccess::plaintext("127.0.0.1:1")));
        let held = Arc::new(Held::new("g".into(), board.clone(), Arc::new(Metrics::default())));
        let context = GroupContext { kafka: KafkaContext::new("consumers", board, kafka), group: "g".into(), held };
        let mut config = context.kafka.client_config();
        let consumer = config.set("group.id", "g").create_with_context(context).unwrap();
        Queue::new(Arc::new(consumer), "t".into(), 0)
    }

    fn records(count: usize, size: usize) -> Vec<Arrived> {
        let record = |offset| Record { offset, value: Some(vec![0; size].into()), ..Record::default() };
        (0..).take(count).map(|offset| Arrived::of(record(offset), Payload::Raw)).collect()
    }

    #[tokio::test]
    async fn c05_a_queue_has_no_more_room_than_for_a_few_batches_until_its_worker_has_taken_some() {
        let queue = queue();
        assert!(queue.begun().now_or_never().is_none());
        queue.push(records(3, ROOM / 2));
        assert_eq!(queue.begun().now_or_never(), Some(true));
        let mut room = std::pin::pin!(queue.room());
        assert_eq!(room.as_mut().now_or_never(), None);
        let taken = queue.take(usize::MAX, ROOM).await.unwrap();
        assert_eq!(taken.iter().map(|arrived| arrived.record.offset).collect::<Vec<_>>(), [0, 1]);
        // Who waited has been woken, not only who asks anew.
        assert!(tokio::time::timeout(std::time::Duration::from_secs(5), room).await.unwrap());
    }

    #[tokio::test]
    async fn c05_whoever_waits_for_a_queue_ends_when_it_is_closed() {
        let (full, empty) = (queue(), queue());
        full.push(records(2, ROOM));
        let (full, empty) = (Arc::new(full), Arc::new(empty));
        let waiting = [
            tokio::spawn({
                let full = full.clone();
                async move { full.room().await }
            }),
            tokio::spawn({
                let empty = empty.clone();
                async move {
                    empty.over().await;
                    false
                }
            }),
            tokio::spawn({
                let empty = empty.clone();
                async move { empty.begun().await }
            }),
        ];
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        full.close();
        empty.finish();
        for one in waiting {
            assert!(!tokio::time::timeout(std::time::Duration::from_secs(5), one).await.unwrap().unwrap());
        }
        assert!(full.take(1, 1).await.is_none());
    }
}
