//! The native loop beside the audit handler: rdkafka and tokio-postgres, one worker for each partition, batches of up to 500, the same
//! statements in two round trips, and the offset stored after the commit.

use super::statements::{ASSUME, ENTER, HELD, NOTE, PATH, RECORD, ROLE, SCOPE};
use super::{TOPIC, columns::Columns};
use crate::kafka::PARTITIONS;
use crate::twin::DATABASE_URL;
use anyhow::{Context, bail};
use futures_util::{FutureExt, StreamExt, future};
use rdkafka::consumer::stream_consumer::StreamPartitionQueue;
use rdkafka::consumer::{Consumer, DefaultConsumerContext, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::sync::Arc;
use tidemill::config::KafkaAccess;
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls, Statement};

/// Variables of its environment, beside [`DATABASE_URL`].
pub(super) const BROKERS: &str = "BENCH_BROKERS";
pub(super) const GROUP: &str = "BENCH_GROUP";

/// Events of one transaction, at most: the host's `[limits] batch`.
const BATCH: usize = 500;

type Queue = StreamPartitionQueue<DefaultConsumerContext>;

/// Consumes until the process is ended.
pub(crate) async fn consume() -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let mut config = tidemill::kafka::client_config(&KafkaAccess::plaintext(&variable(BROKERS)?));
    config.set("group.id", variable(GROUP)?).set("enable.auto.commit", "true").set("enable.auto.offset.store", "false");
    // How much is read ahead is left to librdkafka: a bound of the host's that costs it speed must show.
    let consumer: Arc<StreamConsumer> = Arc::new(config.create()?);
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(TOPIC, partition, Offset::Beginning)?;
    }
    let url = variable(DATABASE_URL)?;
    let mut connections = vec![Connection::open(&url).await?];
    let scope: i32 = connections[0].client.query_one(SCOPE, &[&variable(GROUP)?]).await?.get(0);
    for _ in 1..PARTITIONS {
        connections.push(Connection::open(&url).await?);
    }
    consumer.assign(&all)?;
    let mut workers = JoinSet::new();
    for (partition, connection) in (0..PARTITIONS).zip(connections) {
        let queue = consumer.split_partition_queue(TOPIC, partition).context("no queue of the partition")?;
        workers.spawn(work(consumer.clone(), queue, connection, scope));
    }
    println!("ready partitions={PARTITIONS}");
    loop {
        tokio::select! {
            // Serves the client's other events; records come by the partitions' queues.
            read = consumer.recv() => drop(read?),
            Some(ended) = workers.join_next() => ended??,
        }
    }
}

async fn work(consumer: Arc<StreamConsumer>, queue: Queue, connection: Connection, scope: i32) -> anyhow::Result<()> {
    let mut stream = queue.stream();
    loop {
        let mut batch = vec![stream.next().await.context("the queue has ended")??];
        while batch.len() < BATCH {
            let Some(Some(read)) = stream.next().now_or_never() else { break };
            batch.push(read?);
        }
        connection.keep(&batch, scope).await?;
        if let Some(last) = batch.last() {
            consumer.store_offset_from_message(last)?;
        }
    }
}

/// A worker's connection with its statements.
struct Connection {
    client: Client,
    enter: Statement,
    note: Statement,
    held: Statement,
    assume: Statement,
    record: Statement,
}

impl Connection {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        let [enter, note, held, assume] = [ENTER, NOTE, HELD, ASSUME].map(|text| client.prepare(text));
        let (enter, note, held, assume) = future::try_join4(enter, note, held, assume).await?;
        // Only the handler's role may name the table.
        client.batch_execute(&format!("BEGIN; SET LOCAL ROLE {ROLE}")).await?;
        let record = client.prepare(RECORD).await?;
        client.batch_execute("COMMIT").await?;
        Ok(Self { client, enter, note, held, assume, record })
    }

    /// One batch, one transaction.
    async fn keep(&self, batch: &[BorrowedMessage<'_>], scope: i32) -> anyhow::Result<()> {
        let mut columns = Columns::read(batch)?;
        let keys: HashSet<&[u8]> = batch.iter().filter_map(|message| message.key()).collect();
        let hashes: Vec<_> = keys.into_iter().map(Sha256::digest).collect();
        let hashes: Vec<&[u8]> = hashes.iter().map(|hash| hash.as_slice()).collect();
        let days = (columns.days.iter().min().copied(), columns.days.iter().max().copied());
        let client = &self.client;
        let (begun, entered, noted, held) = future::join4(
            client.batch_execute("BEGIN"),
            client.query_one(&self.enter, &[&scope, &days.0, &days.1]),
            client.query(&self.note, &[&scope, &columns.days, &columns.sources, &columns.ids]),
            client.query(&self.held, &[&scope, &TOPIC, &hashes, &10_000_i64]),
        )
        .await;
        begun?;
        entered?;
        let noted = noted?;
        if !held?.is_empty() {
            bail!("a key waits, and this loop parks nothing");
        }
        if noted.len() < columns.ids.len() {
            let new: HashSet<(&str, &str)> = noted.iter().map(|row| (row.get(0), row.get(1))).collect();
            columns.keep(|source, id| new.contains(&(source, id)));
        }
        let (assumed, recorded, committed) = future::join3(
            client.query_one(&self.assume, &[&ROLE, &PATH, &"", &"5000"]),
            client.execute(&self.record, &columns.params()),
            client.batch_execute("COMMIT"),
        )
        .await;
        assumed?;
        recorded?;
        Ok(committed?)
    }
}
