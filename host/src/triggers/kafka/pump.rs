//! From librdkafka's queue of a partition into ours, as long as there is room.
//!
//! Each partition has a queue of its own in librdkafka, which asks the broker for more only while little waits there. So a partition whose worker is
//! behind is read once all the same, and holds up no other.

use super::GroupContext;
use super::queue::{Queue, ROOM};
use super::record::{Arrived, Memory};
use super::runner::Runner;
use futures_util::StreamExt;
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::error::KafkaError;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc;

/// So many records are taken in one go, if they are there.
const BURST: usize = 500;
/// A partition that has no room for so long is paused. What waits in librdkafka's queue keeps whole answers of the broker in memory, with the records
/// of all other partitions in them; that is thrown away then, and read again.
const STANDSTILL: Duration = Duration::from_secs(5);

/// Fills the queue of one partition.
pub(super) struct Pump {
    pub(super) runner: Arc<Runner>,
    pub(super) source: StreamPartitionQueue<GroupContext>,
    pub(super) queue: Arc<Queue>,
    /// What librdkafka says instead of a record.
    pub(super) errors: mpsc::Sender<KafkaError>,
}

impl Pump {
    /// Until the queue is closed.
    pub(super) async fn run(self) {
        let Self { runner, source, queue, errors } = self;
        let mut memory = Memory::default();
        let mut records = source.stream();
        while room(&queue).await {
            let payload = runner.payload(&queue.topic);
            let burst = poll_fn(|context| {
                // Nothing is taken for a queue that is closed: the partition may begin anew elsewhere, and librdkafka would have it go on behind this.
                let Some(_open) = queue.hold() else { return Poll::Ready(None) };
                let (mut taken, mut bytes, mut failed) = (Vec::new(), 0, None);
                while taken.len() < BURST && bytes < ROOM && failed.is_none() {
                    match records.poll_next_unpin(context) {
                        Poll::Ready(Some(Ok(message))) => {
                            bytes += message.payload_len();
                            taken.push(Arrived::read(&message, &queue.topic, payload, &mut memory));
                        }
                        Poll::Ready(Some(Err(error))) => failed = Some(error),
                        Poll::Ready(None) | Poll::Pending if taken.is_empty() => return Poll::Pending,
                        Poll::Ready(None) | Poll::Pending => break,
                    }
                }
                Poll::Ready(Some((taken, failed)))
            });
            let (taken, failed) = tokio::select! {
                Some(burst) = burst => burst,
                () = queue.over() => break,
            };
            if !taken.is_empty() {
                queue.push(taken);
            }
            if let Some(error) = failed {
                // Whoever listened has ended, and closes the queue.
                let _ = errors.send(error).await;
            }
        }
    }
}

/// Waits until there is room; `false` when the queue is closed.
async fn room(queue: &Queue) -> bool {
    match tokio::time::timeout(STANDSTILL, queue.room()).await {
        Ok(open) => open,
        Err(_) => {
            queue.pause();
            let open = queue.room().await;
            queue.resume();
            open
        }
    }
}
