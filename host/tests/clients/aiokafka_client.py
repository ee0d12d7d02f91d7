"""aiokafka against a broker: aiokafka_client.py ADDRESS NAME."""

import asyncio
import sys
import time

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import OffsetOutOfRangeError

BROKER, TOPIC = sys.argv[1:3]
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
sent = 0


def step(text):
    print("step:", text, flush=True)


async def eventually(condition):
    """Brokers answer a change before all of them have heard of it."""
    deadline = time.monotonic() + 30
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)


async def produce(codec, count):
    global sent
    kind = None if codec == "none" else codec
    async with AIOKafkaProducer(bootstrap_servers=BROKER, enable_idempotence=True, compression_type=kind) as producer:
        pending = []
        for i in range(count):
            headers = [("codec", codec.encode()), ("n", str(i).encode())]
            value, key = f"{codec}-value-{i}".encode(), f"{codec}-key-{i}".encode()
            pending.append(await producer.send(TOPIC, value, key, headers=headers))
        places = {(sent.partition, sent.offset) for sent in await asyncio.gather(*pending)}
    assert len(places) == count
    sent += count


async def member(group, assignor):
    consumer = AIOKafkaConsumer(TOPIC, bootstrap_servers=BROKER, group_id=group, auto_offset_reset="earliest",
                                partition_assignment_strategy=(assignor,), metadata_max_age_ms=2000)
    await consumer.start()
    return consumer


async def read(members, seen, until):
    """Polls all members until the condition holds; `seen` has partition and offset of each record by member."""
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline, f"only {[len(s) for s in seen]} of {sent} records"
        for consumer, own in zip(members, seen):
            for batch in (await consumer.getmany(timeout_ms=50)).values():
                own.extend(place(record) for record in batch)


def place(record):
    headers = {key: value.decode() for key, value in record.headers}
    codec, n = headers["codec"], headers["n"]
    assert record.key == f"{codec}-key-{n}".encode() and record.value == f"{codec}-value-{n}".encode(), record
    return record.partition, record.offset


def exactly(seen):
    everything = [place for own in seen for place in own]
    assert len(everything) == len(set(everything)) == sent, (len(everything), len(set(everything)), sent)


def owned(members):
    return sorted(len(consumer.assignment()) for consumer in members)


async def two_members(admin, assignor):
    step(f"two members with {assignor.name}, 1,000 records each of: {' '.join(CODECS)}")
    group, seen = f"{TOPIC}-{assignor.name}", ([], [])
    if sent == 0:
        await produce("none", 1000)
    members = [await member(group, assignor)]
    await read(members, seen, lambda: len(seen[0]) >= 500)
    # It waits for the first one to join again, which must poll meanwhile.
    joining = asyncio.create_task(member(group, assignor))
    for codec in CODECS[1:]:
        await produce(codec, 1000)
    await read(members, seen, joining.done)
    members.append(await joining)
    await read(members, seen, lambda: owned(members) == [2, 2])
    await produce("none", 1000)
    await read(members, seen, lambda: sum(map(len, seen)) >= sent)
    assert len(seen[1]) > 0
    await members.pop().stop()
    await read(members, seen, lambda: owned(members) == [4])
    await produce("none", 1000)
    await read(members, seen, lambda: sum(map(len, seen)) >= sent)
    await members.pop().stop()
    exactly(seen)
    committed = await admin.list_consumer_group_offsets(group)
    assert sum(one.offset for one in committed.values()) == sent, committed
    return group


async def topics(admin):
    await admin.create_topics([NewTopic(TOPIC, 3, 1, topic_configs={"retention.ms": "3600000"})])
    await admin.create_partitions({TOPIC: NewPartitions(4)})
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC, configs={"segment.bytes": "2097152"})])

    async def settled():
        [answer] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, TOPIC)])
        found = {config[0]: config[1] for config in answer.resources[0][4]}
        [described] = await admin.describe_topics([TOPIC])
        return (found["segment.bytes"], found["retention.ms"]) == ("2097152", "604800000") and len(described["partitions"]) == 4

    await eventually(settled)


async def records(admin):
    start = TopicPartition(TOPIC, 0)
    assert await admin.delete_records({start: RecordsToDelete(before_offset=100)}) == {start: 100}
    consumer = AIOKafkaConsumer(bootstrap_servers=BROKER, auto_offset_reset="none")
    await consumer.start()
    assert await consumer.beginning_offsets([start]) == {start: 100}
    consumer.assign([start])
    consumer.seek(start, 99)
    try:
        await asyncio.wait_for(consumer.getone(), 30)
        raise AssertionError("a deleted record was read")
    except OffsetOutOfRangeError:
        pass
    consumer.seek(start, 100)
    assert (await asyncio.wait_for(consumer.getone(), 30)).offset == 100
    assert (await consumer.offsets_for_times({start: 1}))[start].offset == 100
    await consumer.stop()


async def main():
    print("version: aiokafka", aiokafka.__version__)
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    step("create, grow, describe and alter a topic")
    await topics(admin)
    group = await two_members(admin, RangePartitionAssignor)
    await two_members(admin, StickyPartitionAssignor)
    step("list and describe groups")
    assert group in {one[0] for one in await admin.list_consumer_groups()}
    [described] = await admin.describe_consumer_groups([group])
    assert described.groups[0][1:3] == (group, "Empty"), described
    step("delete records; a read before the start is out of range")
    await records(admin)
    step("delete the topic")
    await admin.delete_topics([TOPIC])

    async def gone():
        return TOPIC not in await admin.list_topics()

    await eventually(gone)
    await admin.close()


asyncio.run(main())
