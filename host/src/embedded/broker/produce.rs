//! Produce: validates batches and appends them.

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::PartitionProduceData;
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};

use super::batch::Batch;
use super::topics::Topics;
use super::wire::Refusal;
use super::{locked, now};

/// Appends the batches of a request, each partition for itself. With one node, acks=1 and acks=all mean the same.
pub(super) fn produce(topics: &Topics, request: ProduceRequest) -> ProduceResponse {
    let refused = match request.acks {
        // There is no transaction coordinator; this is the error that FindCoordinator and InitProducerId give as well.
        _ if request.transactional_id.is_some() => Some(ResponseError::TransactionalIdAuthorizationFailed),
        -1..=1 => None,
        _ => Some(ResponseError::InvalidRequiredAcks),
    };
    let responses = request.topic_data.into_iter().map(|topic| {
        let partitions = topic.partition_data.into_iter().map(|data| {
            let appended = refused.map_or_else(|| append(topics, &topic.name, &data), Err);
            respond(data.index, appended)
        });
        TopicProduceResponse::default().with_partition_responses(partitions.collect()).with_name(topic.name.clone())
    });
    ProduceResponse::default().with_responses(responses.collect())
}

/// What acks=0 leaves of an answer: an error closes the connection, which is all such a client can notice.
pub(super) fn silent(answer: &ProduceResponse) -> Result<(), Refusal> {
    let mut codes = answer.responses.iter().flat_map(|t| &t.partition_responses).map(|p| p.error_code);
    codes.find(|code| *code != 0).map_or(Ok(()), |code| Err(Refusal::SilentProduce(code)))
}

/// Appends to one partition; returns the first record's offset and the log's start.
fn append(topics: &Topics, topic: &str, data: &PartitionProduceData) -> Result<(i64, i64), ResponseError> {
    let topic = topics.get(topic)?;
    let partition = topic.partition(data.index)?;
    let raw = data.records.as_deref().unwrap_or_default();
    if raw.len() > topic.limits.max_message_bytes {
        return Err(ResponseError::MessageTooLarge);
    }
    if raw.len() as u64 > topic.limits.segment_bytes {
        return Err(ResponseError::RecordListTooLarge);
    }
    let batch = Batch::validate(raw)?;
    let appended = {
        let mut log = locked(&partition.log);
        (log.append(&batch, raw, &topic.limits, now())?, log.start())
    };
    partition.changed.notify_waiters();
    Ok(appended)
}

fn respond(index: i32, appended: Result<(i64, i64), ResponseError>) -> PartitionProduceResponse {
    let answer = PartitionProduceResponse::default().with_index(index).with_log_append_time_ms(-1);
    match appended {
        Ok((base_offset, start)) => answer.with_base_offset(base_offset).with_log_start_offset(start),
        Err(error) => answer.with_error_code(error.code()).with_base_offset(-1).with_log_start_offset(-1),
    }
}
