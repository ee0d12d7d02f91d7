//! Creating, growing and deleting topics, and deleting records.

use std::collections::{BTreeMap, HashSet};

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteRecordsRequest,
    DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::api::Client;
use super::topics::Topics;
use super::{NODE_ID, configs, describe, locked};

/// The most partitions of a topic. Each keeps a file open.
const MAX_PARTITIONS: i32 = 1_000;

/// The error and what to tell the person behind the client.
pub(super) type Refused = (ResponseError, String);

/// Creates topics, or with `validate_only` says whether it would.
pub(super) fn create_topics(topics: &Topics, version: i16, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let twice = repeated(request.topics.iter().map(|t| &t.name));
    let results = request.topics.into_iter().map(|topic| {
        let answer =
            CreatableTopicResult::default().with_name(topic.name.clone()).with_num_partitions(-1).with_replication_factor(-1);
        let created = if twice.contains(&topic.name) {
            Err((ResponseError::InvalidRequest, "the topic is named twice in one request".to_owned()))
        } else {
            create_topic(topics, topic, request.validate_only)
        };
        match created {
            Ok(created) => {
                let answer = answer.with_topic_id(created.id).with_num_partitions(created.count).with_replication_factor(1);
                if version >= 5 { answer.with_configs(Some(describe::created(&created.configs))) } else { answer }
            }
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())).with_configs(None),
        }
    });
    CreateTopicsResponse::default().with_topics(results.collect())
}

struct Created {
    id: Uuid,
    count: i32,
    configs: BTreeMap<String, String>,
}

fn create_topic(topics: &Topics, topic: CreatableTopic, validate_only: bool) -> Result<Created, Refused> {
    let name = topic.name.as_str();
    check_name(name)?;
    let exists = || (ResponseError::TopicAlreadyExists, format!("topic {name} already exists"));
    if topics.get(name).is_ok() {
        return Err(exists());
    }
    let count = partition_count(&topic)?;
    let mut configs = BTreeMap::new();
    for config in topic.configs {
        let value = config.value.unwrap_or_default();
        configs::check(&config.name, &value).map_err(|why| (ResponseError::InvalidConfig, why))?;
        configs.insert(config.name.to_string(), value.to_string());
    }
    if validate_only {
        return Ok(Created { id: Uuid::nil(), count, configs });
    }
    let wanted = usize::try_from(count).unwrap_or(1);
    let created = topics.create(name, wanted, configs.clone()).map_err(|error| match error {
        ResponseError::TopicAlreadyExists => exists(),
        other => (other, format!("topic {name} could not be stored; the broker's log says why")),
    })?;
    tracing::info!(topic = name, partitions = count, "created a topic");
    Ok(Created { id: created.id, count, configs })
}

/// Kafka's rule for names of topics.
fn check_name(name: &str) -> Result<(), Refused> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 249 || matches!(name, "." | "..") || !name.bytes().all(legal) {
        let why = format!("invalid topic name {name:?}: 1 to 249 of A-Z a-z 0-9 . _ -, and neither . nor ..");
        return Err((ResponseError::InvalidTopicException, why));
    }
    Ok(())
}

/// -1 partitions or replicas mean "the default", which is 1 of each (KIP-464).
fn partition_count(topic: &CreatableTopic) -> Result<i32, Refused> {
    if !topic.assignments.is_empty() {
        let mut numbers: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
        numbers.sort_unstable();
        let here = topic.assignments.iter().all(|a| a.broker_ids == [NODE_ID]);
        if !here || numbers.iter().enumerate().any(|(i, n)| i32::try_from(i) != Ok(*n)) {
            let why = format!("partitions must be numbered from 0 and lie on node {NODE_ID}, the only one");
            return Err((ResponseError::InvalidReplicaAssignment, why));
        }
        return bounded(i32::try_from(numbers.len()).unwrap_or(i32::MAX));
    }
    if !matches!(topic.replication_factor, 1 | -1) {
        let why = format!("replication factor {} with one node; use 1 or -1", topic.replication_factor);
        return Err((ResponseError::InvalidReplicationFactor, why));
    }
    bounded(if topic.num_partitions == -1 { 1 } else { topic.num_partitions })
}

fn bounded(count: i32) -> Result<i32, Refused> {
    if (1..=MAX_PARTITIONS).contains(&count) {
        return Ok(count);
    }
    Err((ResponseError::InvalidPartitions, format!("{count} partitions; 1 to {MAX_PARTITIONS} are possible")))
}

/// Deletes topics, by name or since version 6 by id, and what groups have committed for them.
pub(super) fn delete_topics(client: &Client<'_>, version: i16, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let named = |name: TopicName| DeleteTopicState::default().with_name(Some(name));
    let asked = if version >= 6 { request.topics } else { request.topic_names.into_iter().map(named).collect() };
    let results = asked.into_iter().map(|topic| {
        let known = match &topic.name {
            Some(name) => Ok(name.clone()),
            None => client.shared.topics.get_by_id(topic.topic_id).map(|t| TopicName(StrBytes::from_string(t.name.clone()))),
        };
        match known.and_then(|name| client.shared.topics.delete(&name)) {
            Ok(deleted) => {
                client.shared.groups.forget_topic(&deleted.name);
                tracing::info!(topic = deleted.name, "deleted a topic");
                let name = TopicName(StrBytes::from_string(deleted.name.clone()));
                DeletableTopicResult::default().with_name(Some(name)).with_topic_id(deleted.id)
            }
            Err(error) => {
                let answer = DeletableTopicResult::default().with_name(topic.name).with_topic_id(topic.topic_id);
                answer.with_error_code(error.code())
            }
        }
    });
    DeleteTopicsResponse::default().with_responses(results.collect())
}

/// Gives topics more partitions.
pub(super) fn create_partitions(topics: &Topics, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    let results = request.topics.into_iter().map(|topic| {
        let answer = CreatePartitionsTopicResult::default().with_name(topic.name.clone());
        match grow(topics, &topic, request.validate_only) {
            Ok(()) => answer,
            Err((error, why)) => answer.with_error_code(error.code()).with_error_message(Some(why.into())),
        }
    });
    CreatePartitionsResponse::default().with_results(results.collect())
}

fn grow(topics: &Topics, asked: &CreatePartitionsTopic, validate_only: bool) -> Result<(), Refused> {
    let topic = topics.get(&asked.name).map_err(|error| (error, "no such topic".to_owned()))?;
    let wanted = usize::try_from(bounded(asked.count)?).unwrap_or(0);
    let now = topic.partitions.len();
    if wanted <= now {
        return Err((ResponseError::InvalidPartitions, format!("the topic has {now} partitions; there can only be more")));
    }
    if let Some(assigned) = &asked.assignments
        && (assigned.len() != wanted - now || assigned.iter().any(|a| a.broker_ids != [NODE_ID]))
    {
        let why = format!("each new partition must lie on node {NODE_ID}, the only one");
        return Err((ResponseError::InvalidReplicaAssignment, why));
    }
    if validate_only {
        return Ok(());
    }
    topics.change(&asked.name, wanted, topic.configs.clone()).map_err(|error| (error, "it could not be stored".to_owned()))
}

/// Moves the start of logs forward (KIP-107). The bytes stay in the file.
pub(super) fn delete_records(topics: &Topics, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let results = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|asked| {
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
            let deleted = topics
                .partition(&topic.name, asked.partition_index)
                .and_then(|partition| locked(&partition.log).delete_before(asked.offset));
            match deleted {
                Ok(start) => answer.with_low_watermark(start),
                Err(error) => answer.with_low_watermark(-1).with_error_code(error.code()),
            }
        });
        DeleteRecordsTopicResult::default().with_partitions(partitions.collect()).with_name(topic.name.clone())
    });
    DeleteRecordsResponse::default().with_topics(results.collect())
}

fn repeated<'a>(names: impl Iterator<Item = &'a TopicName>) -> HashSet<TopicName> {
    let mut seen = HashSet::new();
    names.filter(|name| !seen.insert((*name).clone())).cloned().collect()
}
