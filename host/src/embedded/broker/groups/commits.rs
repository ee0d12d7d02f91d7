//! OffsetCommit, OffsetFetch and OffsetDelete.

use std::time::Instant;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic,
    OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest,
    OffsetFetchResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::super::api::Client;
use super::super::{locked, now};
use super::Groups;
use super::offsets::{ByTopic, Committed};

/// Kafka's `offset.metadata.max.bytes`.
const MAX_METADATA: usize = 4096;

/// Stores offsets for a member of the current generation, or for a client outside any group.
pub(in super::super) fn commit(client: &Client<'_>, request: OffsetCommitRequest) -> OffsetCommitResponse {
    let groups = &client.shared.groups;
    let (mut changes, mut places) = (Vec::new(), Vec::new());
    let mut topics: Vec<OffsetCommitResponseTopic> = Vec::with_capacity(request.topics.len());
    let allowed = may_commit(groups, &request);
    for topic in &request.topics {
        let mut answers = Vec::with_capacity(topic.partitions.len());
        for partition in &topic.partitions {
            let checked = allowed.and_then(|()| checked(client, &topic.name, partition));
            let answer = OffsetCommitResponsePartition::default().with_partition_index(partition.partition_index);
            answers.push(match checked {
                Ok(committed) => {
                    places.push((topics.len(), answers.len()));
                    changes.push((topic.name.to_string(), partition.partition_index, Some(committed)));
                    answer
                }
                Err(error) => answer.with_error_code(error.code()),
            });
        }
        topics.push(OffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(answers));
    }
    if let Err(error) = locked(&groups.offsets).change(&request.group_id, changes, now()) {
        tracing::error!(group = %request.group_id.as_str(), %error, "offsets could not be stored");
        for (topic, partition) in places {
            topics[topic].partitions[partition].error_code = ResponseError::KafkaStorageError.code();
        }
    }
    OffsetCommitResponse::default().with_topics(topics)
}

fn may_commit(groups: &Groups, request: &OffsetCommitRequest) -> Result<(), ResponseError> {
    let (id, instance) = (&request.member_id, request.group_instance_id.as_ref());
    let generation = request.generation_id_or_member_epoch;
    match locked(&groups.active).get_mut(&request.group_id.0) {
        Some(group) => group.may_commit(id, instance, generation, Instant::now()),
        None if generation < 0 => Ok(()),
        None => Err(ResponseError::IllegalGeneration),
    }
}

fn checked(client: &Client<'_>, topic: &str, partition: &OffsetCommitRequestPartition) -> Result<Committed, ResponseError> {
    client.shared.topics.partition(topic, partition.partition_index)?;
    let metadata = partition.committed_metadata.as_deref().unwrap_or_default();
    if metadata.len() > MAX_METADATA {
        return Err(ResponseError::OffsetMetadataTooLarge);
    }
    Ok(Committed {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        metadata: metadata.to_owned(),
    })
}

/// What a partition answers that nothing was committed for.
const NOTHING: Committed = Committed { offset: -1, leader_epoch: -1, metadata: String::new() };

/// What one group has committed, for the partitions asked for or for all.
fn committed<'a>(
    all: Option<&ByTopic>,
    asked: Option<impl Iterator<Item = (&'a TopicName, &'a Vec<i32>)>>,
) -> Vec<(TopicName, Vec<(i32, Committed)>)> {
    match asked {
        Some(asked) => asked
            .map(|(topic, partitions)| {
                let known = all.and_then(|all| all.get(topic.as_str()));
                let one = |p: &i32| (*p, known.and_then(|k| k.get(p)).cloned().unwrap_or(NOTHING));
                (topic.clone(), partitions.iter().map(one).collect())
            })
            .collect(),
        None => {
            let named = |name: &String| TopicName(StrBytes::from_string(name.clone()));
            let topics = all.into_iter().flatten();
            topics.map(|(t, ps)| (named(t), ps.iter().map(|(p, c)| (*p, c.clone())).collect())).collect()
        }
    }
}

/// Tells committed offsets, of one group until version 7 and of several after it (KIP-709).
pub(in super::super) fn fetch(groups: &Groups, version: i16, request: OffsetFetchRequest) -> OffsetFetchResponse {
    let offsets = locked(&groups.offsets);
    if version < 8 {
        let asked = request.topics.as_ref().map(|topics| topics.iter().map(|t| (&t.name, &t.partition_indexes)));
        let topics = committed(offsets.of(&request.group_id), asked).into_iter().map(|(name, partitions)| {
            let one = |(index, c): (i32, Committed)| {
                OffsetFetchResponsePartition::default()
                    .with_partition_index(index)
                    .with_committed_offset(c.offset)
                    .with_committed_leader_epoch(c.leader_epoch)
                    .with_metadata(Some(c.metadata.into()))
            };
            OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.into_iter().map(one).collect())
        });
        return OffsetFetchResponse::default().with_topics(topics.collect());
    }
    let answers = request.groups.into_iter().map(|group| {
        let asked = group.topics.as_ref().map(|topics| topics.iter().map(|t| (&t.name, &t.partition_indexes)));
        let topics = committed(offsets.of(&group.group_id), asked).into_iter().map(|(name, partitions)| {
            let one = |(index, c): (i32, Committed)| {
                OffsetFetchResponsePartitions::default()
                    .with_partition_index(index)
                    .with_committed_offset(c.offset)
                    .with_committed_leader_epoch(c.leader_epoch)
                    .with_metadata(Some(c.metadata.into()))
            };
            OffsetFetchResponseTopics::default().with_name(name).with_partitions(partitions.into_iter().map(one).collect())
        });
        OffsetFetchResponseGroup::default().with_topics(topics.collect()).with_group_id(group.group_id.clone())
    });
    OffsetFetchResponse::default().with_groups(answers.collect())
}

/// Deletes offsets of a group without members (KIP-496). Which topics members read is their secret here, so all count.
pub(in super::super) fn delete(groups: &Groups, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    let group = request.group_id;
    let busy = locked(&groups.active).get(&group.0).is_some_and(|g| !g.members().is_empty());
    let mut offsets = locked(&groups.offsets);
    if !busy && offsets.of(&group).is_none() {
        return OffsetDeleteResponse::default().with_error_code(ResponseError::GroupIdNotFound.code());
    }
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|p| {
            let deleted = if busy {
                Err(ResponseError::GroupSubscribedToTopic)
            } else {
                let change = vec![(topic.name.to_string(), p.partition_index, None)];
                offsets.change(&group, change, now()).map_err(|_| ResponseError::KafkaStorageError)
            };
            OffsetDeleteResponsePartition::default()
                .with_partition_index(p.partition_index)
                .with_error_code(deleted.err().map_or(0, |e| e.code()))
        });
        OffsetDeleteResponseTopic::default().with_partitions(partitions.collect()).with_name(topic.name.clone())
    });
    OffsetDeleteResponse::default().with_topics(topics.collect())
}
