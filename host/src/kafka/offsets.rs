//! What groups have committed and what the partitions hold. Every call here asks a broker and blocks.

use super::client_config;
use crate::config::KafkaAccess;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A topic and the number of a partition.
pub type TopicPartition = (String, i32);

/// Offsets by partition.
pub type Offsets = BTreeMap<TopicPartition, i64>;

/// The partitions of a topic; none if there is no such topic.
pub fn partitions<C: ConsumerContext>(consumer: &impl Consumer<C>, topic: &str) -> KafkaResult<Vec<TopicPartition>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else {
        return Ok(Vec::new());
    };
    match found.error().map(RDKafkaErrorCode::from) {
        None | Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
        Some(error) => return Err(KafkaError::MetadataFetch(error)),
    }
    Ok(found.partitions().iter().map(|partition| (topic.to_owned(), partition.id())).collect())
}

/// What the consumer's group has committed for these partitions; those without are missing.
pub fn committed<C: ConsumerContext>(consumer: &impl Consumer<C>, of: &[TopicPartition]) -> KafkaResult<Offsets> {
    if of.is_empty() {
        return Ok(Offsets::new());
    }
    numbers(&consumer.committed_offsets(list(of, |_| Offset::Invalid)?, PATIENCE)?)
}

/// The first and the next offset of a partition.
pub fn watermarks<C: ConsumerContext>(consumer: &impl Consumer<C>, of: &TopicPartition) -> KafkaResult<(i64, i64)> {
    consumer.fetch_watermarks(&of.0, of.1, PATIENCE)
}

/// The first offset at or after a time (milliseconds since 1970) of each partition; partitions without such a record are missing.
pub fn at_time<C: ConsumerContext>(consumer: &impl Consumer<C>, of: &[TopicPartition], time: i64) -> KafkaResult<Offsets> {
    if of.is_empty() {
        return Ok(Offsets::new());
    }
    numbers(&consumer.offsets_for_times(list(of, |_| Offset::Offset(time))?, PATIENCE)?)
}

/// Partitions with an offset each, as librdkafka wants them.
pub fn list(of: &[TopicPartition], offset: impl Fn(&TopicPartition) -> Offset) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(of.len());
    for partition in of {
        list.add_partition_offset(&partition.0, partition.1, offset(partition))?;
    }
    Ok(list)
}

/// The entries that are plain offsets. An error of one partition is the error of all.
fn numbers(list: &TopicPartitionList) -> KafkaResult<Offsets> {
    let mut offsets = Offsets::new();
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert((element.topic().to_owned(), element.partition()), offset);
        }
    }
    Ok(offsets)
}

/// Looks at a group from outside: it never joins it.
pub struct Observer {
    client: BaseConsumer,
}

impl Observer {
    /// An observer of a group. Connects at the first question.
    pub fn new(access: &KafkaAccess, group_id: &str) -> KafkaResult<Self> {
        let mut config = client_config(access);
        Ok(Self { client: config.set("group.id", group_id).set("enable.auto.commit", "false").create()? })
    }

    /// See [`partitions`].
    pub fn partitions(&self, topic: &str) -> KafkaResult<Vec<TopicPartition>> {
        partitions(&self.client, topic)
    }

    /// See [`committed`].
    pub fn committed(&self, of: &[TopicPartition]) -> KafkaResult<Offsets> {
        committed(&self.client, of)
    }

    /// See [`watermarks`].
    pub fn watermarks(&self, of: &TopicPartition) -> KafkaResult<(i64, i64)> {
        watermarks(&self.client, of)
    }
}

impl std::fmt::Debug for Observer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}
