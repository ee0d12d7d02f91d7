//! What a topic's settings no longer keep is gone, for readers and after a restart, and offsets go on where they were.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rdkafka::Offset;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::support::{Broker, Kind, eventually, on_both_brokers};

on_both_brokers!(old_records_and_those_beyond_the_size_are_removed_and_offsets_go_on);

const CALL: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

async fn old_records_and_those_beyond_the_size_are_removed_and_offsets_go_on(kind: Kind) {
    let broker = Broker::dedicated(kind).await;
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker.address()).set("broker.address.family", "v4").set("log_level", "0");
    create(&config, "time", &[("retention.ms", "1800000")]).await;
    create(&config, "size", &[("retention.bytes", "1048576"), ("segment.bytes", "1048576")]).await;
    for number in 0..3 {
        assert_eq!(produce(&config, "time", 10, HOUR).await, number);
        assert_eq!(produce(&config, "size", 900_000, Duration::ZERO).await, number);
    }
    until_offsets_are(&config, "time", (3, 3)).await;
    // The newest two: without the second, less than what is to be kept would be left.
    until_offsets_are(&config, "size", (1, 3)).await;
    assert_out_of_range(&config, "time", 2).await;
    broker.stop().await;
    broker.start().await;
    until_offsets_are(&config, "time", (3, 3)).await;
    until_offsets_are(&config, "size", (1, 3)).await;
    assert_out_of_range(&config, "size", 0).await;
    assert_eq!(produce(&config, "time", 10, Duration::ZERO).await, 3);
    until_offsets_are(&config, "time", (3, 4)).await;
}

async fn create(config: &ClientConfig, topic: &str, settings: &[(&str, &str)]) {
    let admin: AdminClient<_> = config.create().unwrap();
    let topic = NewTopic::new(topic, 1, TopicReplication::Fixed(1));
    let topic = settings.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
    let made = admin.create_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert!(made.iter().all(Result::is_ok), "{made:?}");
}

/// Appends a record of so many bytes and of that age; returns its offset.
async fn produce(config: &ClientConfig, topic: &str, bytes: usize, age: Duration) -> i64 {
    let producer: FutureProducer = config.create().unwrap();
    let when = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - age;
    let value = vec![b'x'; bytes];
    let record = FutureRecord::<(), _>::to(topic).payload(&value).timestamp(when.as_millis().try_into().unwrap());
    producer.send(record, CALL).await.map_err(|(error, _)| error).unwrap().offset
}

/// The first offset and the next one.
async fn until_offsets_are(config: &ClientConfig, topic: &'static str, wanted: (i64, i64)) {
    let ask = |config: ClientConfig| move || config.create::<BaseConsumer>().unwrap().fetch_watermarks(topic, 0, CALL).ok();
    eventually(&format!("the offsets of `{topic}` are {wanted:?}"), async || {
        let found = tokio::task::spawn_blocking(ask(config.clone())).await.unwrap();
        (found == Some(wanted)).then_some(())
    })
    .await;
}

/// A reader that does not say where to begin instead is told that there is nothing any more.
async fn assert_out_of_range(config: &ClientConfig, topic: &'static str, offset: i64) {
    let mut config = config.clone();
    config.set("group.id", "reader").set("enable.auto.commit", "false").set("auto.offset.reset", "error");
    let told = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer = config.create().unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(topic, 0, Offset::Offset(offset)).unwrap();
        consumer.assign(&from).unwrap();
        consumer.poll(CALL).map(|polled| polled.map(drop))
    });
    let told = told.await.unwrap();
    assert!(matches!(told, Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset)))), "{told:?}");
}
