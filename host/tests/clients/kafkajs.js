// kafkajs against a broker: kafkajs.js ADDRESS NAME, with the folder of its packages in NODE_PATH.
'use strict';
const assert = require('node:assert/strict');
const { setTimeout: sleep } = require('node:timers/promises');
const { Kafka, CompressionCodecs, CompressionTypes, ConfigResourceTypes, logLevel } = require('kafkajs');
const { ZstdCodec } = require('zstd-codec');
CompressionCodecs[CompressionTypes.Snappy] = require('kafkajs-snappy');
const lz4 = require('lz4-napi');
const codec = (compress, decompress) => () => ({
  compress: async ({ buffer }) => Buffer.from(await compress(buffer)),
  decompress: async (buffer) => Buffer.from(await decompress(buffer)),
});
CompressionCodecs[CompressionTypes.LZ4] = codec(lz4.compressFrame, lz4.decompressFrame);

const [broker, topic] = process.argv.slice(2);
const kafka = new Kafka({ clientId: 'kafkajs', brokers: [broker], logLevel: logLevel.NOTHING });
const admin = kafka.admin();
const codecs = { none: 0, gzip: CompressionTypes.GZIP, snappy: CompressionTypes.Snappy, lz4: CompressionTypes.LZ4, zstd: CompressionTypes.ZSTD };
let sent = 0;

const step = (text) => console.log('step:', text);

async function eventually(what, condition) {
  const deadline = Date.now() + 60_000;
  while (!(await condition())) {
    assert(Date.now() < deadline, `it never came true that ${what}`);
    await sleep(50);
  }
}

async function produce(codec, count) {
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  const message = (_, i) => ({ key: `${codec}-key-${i}`, value: `${codec}-value-${i}`, headers: { codec, n: String(i) } });
  const messages = Array.from({ length: count }, message);
  for (let at = 0; at < count; at += 100) {
    await producer.send({ topic, acks: -1, compression: codecs[codec], messages: messages.slice(at, at + 100) });
  }
  await producer.disconnect();
  sent += count;
}

// A member of a group; `seen` gets partition and offset of each of its records.
async function member(groupId, seen) {
  const consumer = kafka.consumer({ groupId, sessionTimeout: 10_000, heartbeatInterval: 500, rebalanceTimeout: 10_000 });
  const self = { consumer, owned: 0 };
  consumer.on(consumer.events.GROUP_JOIN, ({ payload }) => {
    self.owned = (payload.memberAssignment[topic] ?? []).length;
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  await consumer.run({
    eachMessage: async ({ partition, message }) => {
      const codec = message.headers.codec.toString();
      const n = message.headers.n.toString();
      assert.equal(`${message.key}`, `${codec}-key-${n}`);
      assert.equal(`${message.value}`, `${codec}-value-${n}`);
      seen.push(`${partition}/${message.offset}`);
    },
  });
  return self;
}

function exactly(...all) {
  const everything = all.flat();
  assert.equal(everything.length, sent);
  assert.equal(new Set(everything).size, sent);
}

async function committed(groupId) {
  const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [topic] });
  return partitions.reduce((sum, { offset }) => sum + Math.max(0, Number(offset)), 0);
}

async function twoMembers(groupId) {
  const seen = [[], []];
  const all = () => seen[0].length + seen[1].length;
  await produce('none', 1000);
  const first = await member(groupId, seen[0]);
  await eventually('the first member has read what is there', () => all() >= sent && first.owned === 4);
  const second = await member(groupId, seen[1]);
  await eventually('both have two partitions', () => first.owned === 2 && second.owned === 2);
  for (const codec of Object.keys(codecs)) await produce(codec, 1000);
  await eventually('everything is read', () => all() >= sent);
  assert(seen[1].length > 0);
  const { groups } = await admin.describeGroups([groupId]);
  assert.deepEqual([groups[0].state, groups[0].members.length], ['Stable', 2]);
  await second.consumer.disconnect();
  await eventually('the first member has all partitions', () => first.owned === 4);
  await produce('none', 1000);
  await eventually('the first member reads on alone', () => all() >= sent);
  await first.consumer.disconnect();
  exactly(...seen);
  assert.equal(await committed(groupId), sent);
}

async function topics() {
  await admin.createTopics({
    topics: [{ topic, numPartitions: 3, replicationFactor: 1, configEntries: [{ name: 'retention.ms', value: '3600000' }] }],
  });
  await admin.createPartitions({ topicPartitions: [{ topic, count: 4 }] });
  const type = ConfigResourceTypes.TOPIC;
  const configEntries = [{ name: 'segment.bytes', value: '2097152' }];
  await admin.alterConfigs({ validateOnly: false, resources: [{ type, name: topic, configEntries }] });
  // Brokers answer a change before all of them have heard of it.
  await eventually('the changes are seen', async () => {
    const { resources } = await admin.describeConfigs({ includeSynonyms: false, resources: [{ type, name: topic }] });
    const found = Object.fromEntries(resources[0].configEntries.map((e) => [e.configName, e.configValue]));
    const described = await admin.fetchTopicMetadata({ topics: [topic] });
    const partitions = described.topics[0].partitions.length;
    return found['segment.bytes'] === '2097152' && found['retention.ms'] === '604800000' && partitions === 4;
  });
}

async function groups(groupId) {
  const listed = (await admin.listGroups()).groups.map((group) => group.groupId);
  assert(listed.includes(groupId));
  await admin.resetOffsets({ groupId, topic, earliest: true });
  const seen = [];
  const again = await member(groupId, seen);
  await eventually('everything is read again', () => seen.length >= sent);
  await again.consumer.disconnect();
  exactly(seen);
  await admin.setOffsets({ groupId, topic, partitions: [0, 1, 2, 3].map((partition) => ({ partition, offset: '5' })) });
  assert.equal(await committed(groupId), 20);
  await admin.deleteGroups([groupId]);
  assert(!(await admin.listGroups()).groups.some((group) => group.groupId === groupId));
}

async function records() {
  await admin.deleteTopicRecords({ topic, partitions: [{ partition: 0, offset: '100' }] });
  const [first] = (await admin.fetchTopicOffsets(topic)).filter(({ partition }) => partition === 0);
  assert.equal(first.low, '100');
  const [found] = (await admin.fetchTopicOffsetsByTimestamp(topic, 1)).filter(({ partition }) => partition === 0);
  assert.equal(found.offset, '100');
}

async function main() {
  const zstd = await new Promise((resolve) => ZstdCodec.run((all) => resolve(new all.Simple())));
  CompressionCodecs[CompressionTypes.ZSTD] = codec((bytes) => zstd.compress(bytes), (bytes) => zstd.decompress(bytes));
  console.log('version: kafkajs', require('kafkajs/package.json').version);
  await admin.connect();
  step('create, grow, describe and alter a topic');
  await topics();
  step(`two members, 1,000 records each of: ${Object.keys(codecs).join(' ')}`);
  await twoMembers(`${topic}-group`);
  step('list groups, reset and set offsets, delete a group');
  await groups(`${topic}-group`);
  step('delete records');
  await records();
  step('delete the topic');
  await admin.deleteTopics({ topics: [topic] });
  await eventually('the topic is gone', async () => !(await admin.listTopics()).includes(topic));
  await admin.disconnect();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
