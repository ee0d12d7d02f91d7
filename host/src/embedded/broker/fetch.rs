//! Fetch, with its long poll, and ListOffsets.
//!
//! There are no fetch sessions (KIP-227): session id 0 in every answer makes clients send whole requests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{FetchRequest, FetchResponse, ListOffsetsRequest, ListOffsetsResponse};
use tokio::time::Instant;

use super::log::Slice;
use super::topics::{Partition, Topics};
use super::{locked, wire::MAX_FRAME};

/// The longest wait, whatever the client asks for.
const MAX_WAIT: Duration = Duration::from_secs(300);

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;
const MAX_TIMESTAMP: i64 = -3;

/// Answers as soon as there are `min_bytes`, an error or a deleted topic, and at the latest after `max_wait_ms`.
pub(super) async fn fetch(topics: &Topics, request: FetchRequest) -> FetchResponse {
    if request.session_id != 0 {
        return FetchResponse::default().with_error_code(ResponseError::FetchSessionIdNotFound.code());
    }
    let wait = Duration::from_millis(u64::try_from(request.max_wait_ms).unwrap_or(0)).min(MAX_WAIT);
    let deadline = Instant::now() + wait;
    let enough = usize::try_from(request.min_bytes).unwrap_or(0);
    loop {
        let partitions: Vec<Arc<Partition>> = wanted(topics, &request);
        // The signals are listened to before the logs are looked at, or an append in between would be missed.
        let signals: Vec<_> = partitions.iter().map(|p| Box::pin(p.changed.notified())).collect();
        let found = Found::look(topics, &request);
        if found.failed || found.bytes >= enough || signals.is_empty() || Instant::now() >= deadline {
            return found.answer();
        }
        let _ = tokio::time::timeout_at(deadline, select_all(signals)).await;
    }
}

fn wanted(topics: &Topics, request: &FetchRequest) -> Vec<Arc<Partition>> {
    let one = |topic: &str, p: &FetchPartition| topics.partition(topic, p.partition).ok();
    request.topics.iter().flat_map(|t| t.partitions.iter().filter_map(|p| one(&t.topic, p))).collect()
}

/// What a look at the logs found. The records are read only when it is sent.
struct Found {
    topics: Vec<(FetchableTopicResponse, Vec<Option<Slice>>)>,
    bytes: usize,
    failed: bool,
}

impl Found {
    fn look(topics: &Topics, request: &FetchRequest) -> Found {
        let mut found = Found { topics: Vec::with_capacity(request.topics.len()), bytes: 0, failed: false };
        // An answer must fit in a frame with room for its own fields.
        let limit = usize::try_from(request.max_bytes).unwrap_or(0).min(MAX_FRAME / 2);
        for topic in &request.topics {
            let mut slices = Vec::with_capacity(topic.partitions.len());
            let mut answers = Vec::with_capacity(topic.partitions.len());
            for asked in &topic.partitions {
                let partition = topics.partition(&topic.topic, asked.partition);
                let (answer, slice) = found.partition(request, asked, limit, partition);
                answers.push(answer);
                slices.push(slice);
            }
            let answer = FetchableTopicResponse::default().with_topic(topic.topic.clone()).with_partitions(answers);
            found.topics.push((answer, slices));
        }
        found
    }

    fn partition(
        &mut self,
        request: &FetchRequest,
        asked: &FetchPartition,
        limit: usize,
        partition: Result<Arc<Partition>, ResponseError>,
    ) -> (PartitionData, Option<Slice>) {
        let mut answer = PartitionData::default().with_partition_index(asked.partition).with_records(Some(Bytes::new()));
        if request.isolation_level == 1 {
            answer.aborted_transactions = Some(Vec::new());
        }
        let sliced = partition.and_then(|partition| {
            let log = locked(&partition.log);
            answer.high_watermark = log.end();
            answer.last_stable_offset = log.end();
            answer.log_start_offset = log.start();
            let room = usize::try_from(asked.partition_max_bytes).unwrap_or(0).min(limit.saturating_sub(self.bytes));
            log.slice(asked.fetch_offset, room, self.bytes == 0)
        });
        match sliced {
            Ok(slice) => {
                self.bytes += slice.size;
                (answer, (slice.size > 0).then_some(slice))
            }
            Err(error) => {
                self.failed = true;
                (failed(answer, error), None)
            }
        }
    }

    fn answer(self) -> FetchResponse {
        let topics = self.topics.into_iter().map(|(mut topic, slices)| {
            for (partition, slice) in topic.partitions.iter_mut().zip(slices) {
                match slice.map(|s| s.read()) {
                    Some(Ok(records)) => partition.records = Some(records),
                    Some(Err(error)) => {
                        tracing::error!(topic = %topic.topic.as_str(), %error, "records could not be read");
                        *partition = failed(std::mem::take(partition), ResponseError::KafkaStorageError);
                    }
                    None => {}
                }
            }
            topic
        });
        FetchResponse::default().with_responses(topics.collect())
    }
}

fn failed(answer: PartitionData, error: ResponseError) -> PartitionData {
    if error == ResponseError::OffsetOutOfRange {
        return answer.with_error_code(error.code());
    }
    answer.with_error_code(error.code()).with_high_watermark(-1).with_last_stable_offset(-1).with_log_start_offset(-1)
}

/// Offsets by place (`-2` earliest, `-1` latest, `-3` largest timestamp, KIP-734) or by timestamp (KIP-79).
pub(super) fn list_offsets(topics: &Topics, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let answers = request.topics.into_iter().map(|topic| {
        let one = |asked: &ListOffsetsPartition| {
            let answer = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            match offset_at(topics, &topic.name, asked) {
                Ok((timestamp, offset)) => answer.with_timestamp(timestamp).with_offset(offset),
                Err(error) => answer.with_error_code(error.code()),
            }
        };
        let partitions = topic.partitions.iter().map(one).collect();
        ListOffsetsTopicResponse::default().with_partitions(partitions).with_name(topic.name)
    });
    ListOffsetsResponse::default().with_topics(answers.collect())
}

fn offset_at(topics: &Topics, topic: &str, asked: &ListOffsetsPartition) -> Result<(i64, i64), ResponseError> {
    let partition = topics.partition(topic, asked.partition_index)?;
    let log = locked(&partition.log);
    let timestamp = match asked.timestamp {
        EARLIEST => return Ok((-1, log.start())),
        LATEST => return Ok((-1, log.end())),
        MAX_TIMESTAMP => match log.max_timestamp() {
            Some(largest) => largest,
            None => return Ok((-1, -1)),
        },
        0.. => asked.timestamp,
        _ => return Err(ResponseError::UnsupportedVersion),
    };
    let found = log.find(timestamp).map_err(|error| {
        tracing::error!(topic, %error, "records could not be read");
        ResponseError::KafkaStorageError
    })?;
    Ok(found.unwrap_or((-1, -1)))
}
