"""confluent-kafka, that is librdkafka, against a broker: confluent.py ADDRESS NAME."""

import sys
import time
import warnings

import confluent_kafka
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic, OffsetSpec, ResourceType,
)

BROKER, TOPIC = sys.argv[1:3]
COMMON = {"bootstrap.servers": BROKER, "broker.address.family": "v4"}
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
warnings.simplefilter("ignore", DeprecationWarning)
admin = AdminClient(COMMON)
sent = 0


def step(text):
    print("step:", text, flush=True)


def eventually(condition):
    """Brokers answer a change before all of them have heard of it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def done(futures):
    return {key: future.result(30) for key, future in futures.items()}


def produce(codec, count):
    global sent
    delivered = []

    def report(error, message):
        assert error is None, error
        delivered.append((message.partition(), message.offset()))

    producer = Producer(COMMON | {"compression.type": codec, "enable.idempotence": True, "linger.ms": 20})
    for i in range(count):
        producer.produce(TOPIC, f"{codec}-value-{i}", f"{codec}-key-{i}", headers={"codec": codec, "n": str(i)},
                         on_delivery=report)
    assert producer.flush(30) == 0
    assert len(set(delivered)) == count
    sent += count


def member(group, **settings):
    return Consumer(COMMON | {"group.id": group, "auto.offset.reset": "earliest"} | settings)


def read(members, seen, until):
    """Polls all members until the condition holds; `seen` has partition and offset of each record by member."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, f"only {[len(s) for s in seen]} of {sent} records"
        for consumer, own in zip(members, seen):
            for message in consumer.consume(500, 0.05):
                assert message.error() is None, message.error()
                headers = {key: value.decode() for key, value in message.headers()}
                codec, n = headers["codec"], headers["n"]
                assert message.key() == f"{codec}-key-{n}".encode() and message.value() == f"{codec}-value-{n}".encode()
                own.append((message.partition(), message.offset()))


def exactly(seen):
    everything = [place for own in seen for place in own]
    assert len(everything) == len(set(everything)) == sent, (len(everything), len(set(everything)), sent)


def owned(members):
    return sorted(len(consumer.assignment()) for consumer in members)


def two_members(strategy):
    step(f"two members with {strategy}, 1,000 records each of: {' '.join(CODECS)}")
    group, seen = f"{TOPIC}-{strategy}", ([], [])
    settings = {"partition.assignment.strategy": strategy}
    if sent == 0:
        produce("none", 1000)
    members = [member(group, **settings)]
    members[0].subscribe([TOPIC])
    read(members, seen, lambda: len(seen[0]) >= 500)
    members.append(member(group, **settings))
    members[1].subscribe([TOPIC])
    for codec in CODECS[1:]:
        produce(codec, 1000)
    read(members, seen, lambda: owned(members) == [2, 2])
    produce("none", 1000)
    read(members, seen, lambda: sum(map(len, seen)) >= sent)
    assert len(seen[1]) > 0
    described = admin.describe_consumer_groups([group])[group].result(30)
    assert described.state.name == "STABLE" and len(described.members) == 2, described
    members.pop().close()
    read(members, seen, lambda: owned(members) == [4])
    produce("none", 1000)
    read(members, seen, lambda: sum(map(len, seen)) >= sent)
    members.pop().close()
    exactly(seen)
    assert sum(offsets(group).values()) == sent
    return group


def offsets(group):
    asked = [ConsumerGroupTopicPartitions(group)]
    return {p.partition: p.offset for p in admin.list_consumer_group_offsets(asked)[group].result(30).topic_partitions}


def topics():
    done(admin.create_topics([NewTopic(TOPIC, 3, 1, config={"retention.ms": "3600000"})]))
    done(admin.create_partitions([NewPartitions(TOPIC, 4)]))
    resource = ConfigResource(ResourceType.TOPIC, TOPIC)
    change = ConfigEntry("segment.bytes", "2097152", incremental_operation=AlterConfigOpType.SET)
    done(admin.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, incremental_configs=[change])]))

    def settings(retention, segment):
        found = done(admin.describe_configs([resource]))[resource]
        return (found["retention.ms"].value, found["segment.bytes"].value) == (retention, segment)

    eventually(lambda: settings("3600000", "2097152"))
    done(admin.alter_configs([ConfigResource(ResourceType.TOPIC, TOPIC, set_config={"retention.bytes": "-1"})]))
    eventually(lambda: settings("604800000", "1073741824"))
    eventually(lambda: len(admin.list_topics(TOPIC).topics[TOPIC].partitions) == 4)


def groups(group):
    listed = {one.group_id for one in admin.list_consumer_groups().result(30).valid}
    assert group in listed, listed
    zero = [TopicPartition(TOPIC, p, 0) for p in range(4)]
    admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, zero)])[group].result(30)
    again = member(group)
    again.subscribe([TOPIC])
    seen = ([],)
    read([again], seen, lambda: len(seen[0]) >= sent)
    again.close()
    exactly(seen)
    done(admin.delete_consumer_groups([group]))
    assert group not in {one.group_id for one in admin.list_consumer_groups().result(30).valid}


def records():
    done(admin.delete_records([TopicPartition(TOPIC, 0, 100)]))
    first = admin.list_offsets({TopicPartition(TOPIC, 0): OffsetSpec.earliest()})
    assert [one.result(30).offset for one in first.values()] == [100]
    consumer = member("none", **{"auto.offset.reset": "error"})
    consumer.assign([TopicPartition(TOPIC, 0, 99)])
    message = consumer.poll(30)
    assert message.error().code() == KafkaError._AUTO_OFFSET_RESET, message.error()
    consumer.close()


print("version: confluent-kafka", confluent_kafka.__version__, "with librdkafka", confluent_kafka.libversion()[0])
step("create, grow, describe and alter a topic")
topics()
two_members("range")
last = two_members("cooperative-sticky")
step("list groups, reset offsets, delete a group")
groups(last)
step("delete records; a read before the start is out of range")
records()
step("a transaction is refused at once or, where there are transactions, works")
transactional = Producer(COMMON | {"transactional.id": TOPIC})
try:
    transactional.init_transactions(30)
except KafkaException as refused:
    assert refused.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, refused
step("delete the topic")
done(admin.delete_topics([TOPIC]))
eventually(lambda: TOPIC not in admin.list_topics(timeout=30).topics)
