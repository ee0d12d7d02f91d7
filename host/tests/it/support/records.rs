//! What a test puts into topics and reads from them, with librdkafka.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value as Json, json};

use super::schemas;

const CALL: Duration = Duration::from_secs(10);

/// CloudEvents `source` of what tests put into topics.
pub const SOURCE: &str = "test";

/// One record of a topic.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its key as text.
    pub key: Option<String>,
    /// Its value as it is.
    pub value: Vec<u8>,
    /// It has no value at all.
    pub tombstone: bool,
    /// Its headers as text.
    pub headers: Vec<(String, String)>,
    /// Where it is.
    pub partition: i32,
    /// Where in the partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
}

impl Record {
    /// The value as JSON.
    pub fn json(&self) -> Json {
        serde_json::from_slice(&self.value).unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.value)))
    }

    /// One header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }
}

fn config(address: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", address).set("log_level", "0").set("broker.address.family", "v4");
    config.set("reconnect.backoff.max.ms", "500");
    config
}

/// Whether a broker speaks Kafka's protocol there.
pub async fn answers(address: &str) -> bool {
    let config = config(address);
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        consumer.fetch_metadata(None, Duration::from_secs(1)).is_ok_and(|metadata| !metadata.brokers().is_empty())
    });
    asked.await.unwrap()
}

/// A CloudEvent in structured form.
pub fn event(id: &str, kind: &str, data: &Json) -> Vec<u8> {
    let event = json!({
        "specversion": "1.0", "id": id, "source": SOURCE, "type": kind, "time": "2026-01-02T03:04:05Z",
        "datacontenttype": "application/json", "data": data,
    });
    event.to_string().into_bytes()
}

/// Appends a CloudEvent in structured form, to the partition or to where its key belongs; returns partition and offset.
pub async fn produce_event(address: &str, topic: &str, partition: Option<i32>, key: &str, value: &[u8]) -> (i32, i64) {
    let headers = [("content-type", "application/cloudevents+json; charset=UTF-8")];
    produce(address, topic, partition, Some(key), value, &headers).await
}

/// Appends a record of any bytes; returns partition and offset.
pub async fn produce(
    address: &str,
    topic: &str,
    partition: Option<i32>,
    key: Option<&str>,
    value: &[u8],
    headers: &[(&str, &str)],
) -> (i32, i64) {
    let producer: FutureProducer = config(address).set("partitioner", "murmur2_random").create().unwrap();
    let mut record = FutureRecord::<str, [u8]>::to(topic).payload(value);
    record.partition = partition;
    record.key = key;
    let empty = OwnedHeaders::new();
    record.headers = Some(headers.iter().fold(empty, |all, (key, value)| all.insert(Header { key, value: Some(*value) })));
    let delivery = producer.send(record, CALL).await.map_err(|(error, _)| error).unwrap();
    (delivery.partition, delivery.offset)
}

/// A record to append with others.
#[derive(Clone, Debug)]
pub struct New {
    /// Where to.
    pub partition: i32,
    /// Its key.
    pub key: String,
    /// Its value, a structured CloudEvent.
    pub value: Vec<u8>,
    /// Milliseconds since 1970; now, if none.
    pub timestamp: Option<i64>,
}

impl New {
    /// An event of the probe.
    pub fn event(partition: i32, id: &str) -> Self {
        Self { partition, key: "k".into(), value: event(id, "probe.ok", &json!({ "id": id })), timestamp: None }
    }

    /// The same with a timestamp.
    pub fn at(self, timestamp: i64) -> Self {
        Self { timestamp: Some(timestamp), ..self }
    }
}

/// Appends records in their order, all through one producer.
pub async fn produce_all(address: &str, topic: &str, records: &[New]) {
    let producer: FutureProducer = config(address).set("linger.ms", "5").create().unwrap();
    let headers = || OwnedHeaders::new().insert(Header { key: "content-type", value: Some("application/cloudevents+json") });
    let sent = records.iter().map(|new| {
        let mut record = FutureRecord::<str, [u8]>::to(topic).payload(&new.value).key(&new.key).headers(headers());
        (record.partition, record.timestamp) = (Some(new.partition), new.timestamp);
        producer.send_result(record).map_err(|(error, _)| error).unwrap()
    });
    for delivery in futures_util::future::join_all(sent.collect::<Vec<_>>()).await {
        delivery.unwrap().map_err(|(error, _)| error).unwrap();
    }
}

/// A record as it is to be put into a topic.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// The partition; where the key belongs if there is none.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value; none is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order, doubles included.
    pub headers: Vec<(String, Vec<u8>)>,
    /// Milliseconds since 1970; now if there is none.
    pub timestamp: Option<i64>,
}

/// Appends records in this order; says of each where it is, or what the broker answered.
pub async fn produce_each(address: &str, topic: &str, records: &[Outgoing]) -> Vec<Result<(i32, i64), KafkaError>> {
    let mut config = config(address);
    // The broker is asked about sizes, not the client; and records keep their order whatever happens.
    config.set("partitioner", "murmur2_random").set("message.max.bytes", "8000000").set("enable.idempotence", "true");
    let producer: FutureProducer = config.create().unwrap();
    let mut sent = Vec::new();
    for outgoing in records {
        let mut record = FutureRecord::<[u8], [u8]>::to(topic);
        record.partition = outgoing.partition;
        record.key = outgoing.key.as_deref();
        record.payload = outgoing.value.as_deref();
        record.timestamp = outgoing.timestamp;
        let headers = outgoing.headers.iter();
        let headers = headers.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
        record.headers = Some(headers);
        sent.push(producer.send_result(record).map_err(|(error, _)| error));
    }
    let mut answers = Vec::new();
    for delivery in sent {
        answers.push(match delivery {
            Ok(delivery) => delivery.await.unwrap().map(|d| (d.partition, d.offset)).map_err(|(error, _)| error),
            Err(error) => Err(error),
        });
    }
    answers
}

/// Every record of a topic, partition after partition; empty when there is no such topic. Events of the product are as their schemas say.
pub async fn all(address: &str, topic: &str) -> Vec<Record> {
    let (address, topic) = (address.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || all_at_once(&address, &topic)).await.unwrap()
}

/// The same, for who may wait.
pub fn all_at_once(address: &str, topic: &str) -> Vec<Record> {
    let records = read_all(&config(address), topic);
    records.iter().for_each(|record| schemas::check(topic, record.key.as_deref(), &record.value));
    records
}

fn read_all(config: &ClientConfig, topic: &str) -> Vec<Record> {
    let mut config = config.clone();
    let consumer: BaseConsumer = config.set("group.id", "reader-of-tests").set("enable.auto.commit", "false").create().unwrap();
    let mut from = TopicPartitionList::new();
    let mut missing = 0;
    for partition in partitions(&consumer, topic) {
        let Ok((low, high)) = consumer.fetch_watermarks(topic, partition, CALL) else {
            continue;
        };
        missing += high - low;
        from.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&from).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + super::PATIENCE;
    while (records.len() as i64) < missing && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            records.push(owned(&message));
        }
    }
    assert!(records.len() as i64 >= missing, "{topic} was not read to its end: {} of {missing} records", records.len());
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), CALL);
    metadata
        .map(|metadata| metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|one| one.id()).collect())
        .unwrap_or_default()
}

fn owned(message: &impl Message) -> Record {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = message
        .headers()
        .map(|headers| headers.iter().map(|one| (one.key.to_owned(), one.value.map(text).unwrap_or_default())).collect());
    Record {
        key: message.key().map(text),
        value: message.payload().unwrap_or_default().to_vec(),
        tombstone: message.payload().is_none(),
        headers: headers.unwrap_or_default(),
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
    }
}

/// The number of partitions of a topic; 0 when there is no such topic.
pub async fn partition_count(address: &str, topic: &str) -> usize {
    let config = config(address);
    let topic = topic.to_owned();
    tokio::task::spawn_blocking(move || partitions(&config.create::<BaseConsumer>().unwrap(), &topic).len()).await.unwrap()
}

/// Creates a topic.
pub async fn create_topic(address: &str, topic: &str, partitions: i32) {
    create(address, NewTopic::new(topic, partitions, TopicReplication::Fixed(1))).await;
}

/// Creates a topic with its partitions on these nodes.
pub async fn create_topic_on(address: &str, topic: &str, nodes: &[i32]) {
    let partitions: Vec<&[i32]> = nodes.iter().map(std::slice::from_ref).collect();
    create(address, NewTopic::new(topic, partitions.len() as i32, TopicReplication::Variable(&partitions))).await;
}

async fn create(address: &str, topic: NewTopic<'_>) {
    let admin: AdminClient<_> = config(address).create().unwrap();
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Deletes the records of a partition below an offset.
pub async fn delete_before(address: &str, topic: &str, partition: i32, offset: i64) {
    let admin: AdminClient<_> = config(address).create().unwrap();
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(topic, partition, Offset::Offset(offset)).unwrap();
    let deleted = admin.delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    assert_eq!(deleted.elements()[0].offset(), Offset::Offset(offset));
}

/// Gives a topic more partitions.
pub async fn grow_topic(address: &str, topic: &str, partitions: usize) {
    let admin: AdminClient<_> = config(address).create().unwrap();
    let grown = admin.create_partitions(&[NewPartitions::new(topic, partitions)], &AdminOptions::new()).await.unwrap();
    assert!(grown.iter().all(Result::is_ok), "{grown:?}");
}

/// What a group has committed for a topic, by partition.
pub async fn committed(address: &str, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    super::eventually("the broker says what the group has committed", async || {
        let mut config = config(address);
        config.set("group.id", group).set("enable.auto.commit", "false");
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || try_committed(&config, &topic)).await.unwrap()
    })
    .await
}

fn try_committed(config: &ClientConfig, topic: &str) -> Option<BTreeMap<i32, i64>> {
    let consumer: BaseConsumer = config.create().unwrap();
    let mut list = TopicPartitionList::new();
    for partition in partitions(&consumer, topic) {
        list.add_partition(topic, partition);
    }
    let list = consumer.committed_offsets(list, CALL).ok()?;
    let numbers = list.elements().into_iter().filter_map(|one| Some((one.partition(), one.offset().to_raw()?)));
    Some(numbers.filter(|(_, offset)| *offset >= 0).collect())
}

/// Commits an offset for a group without members.
pub async fn commit(address: &str, group: &str, topic: &str, partition: i32, offset: i64) {
    super::eventually("the group's offset can be committed", async || {
        let mut config = config(address);
        config.set("group.id", group).set("enable.auto.commit", "false");
        let topic = topic.to_owned();
        let done = tokio::task::spawn_blocking(move || {
            let consumer: BaseConsumer = config.create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(offset)).unwrap();
            consumer.commit(&list, CommitMode::Sync).ok()
        });
        done.await.unwrap()
    })
    .await;
}

/// Sets a group without members back to the beginning of a topic.
pub async fn rewind(address: &str, group: &str, topic: &str) {
    super::eventually("the group's offsets can be reset", async || {
        let mut config = config(address);
        config.set("group.id", group).set("enable.auto.commit", "false");
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || try_rewind(&config, &topic)).await.unwrap()
    })
    .await;
}

fn try_rewind(config: &ClientConfig, topic: &str) -> Option<()> {
    let consumer: BaseConsumer = config.create().unwrap();
    let mut offsets = TopicPartitionList::new();
    for partition in partitions(&consumer, topic) {
        offsets.add_partition_offset(topic, partition, Offset::Offset(0)).unwrap();
    }
    consumer.commit(&offsets, CommitMode::Sync).ok()
}

/// The ids of a group's members as the brokers know them.
pub async fn members(address: &str, group: &str) -> Vec<String> {
    let (config, group) = (config(address), group.to_owned());
    let asked = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let list = consumer.fetch_group_list(Some(&group), CALL).unwrap();
        let mut ids: Vec<String> =
            list.groups().iter().flat_map(|group| group.members().iter().map(|member| member.id().to_owned())).collect();
        ids.sort();
        ids
    });
    asked.await.unwrap()
}
