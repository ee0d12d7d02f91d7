//! A million waiting events, alone and beside a long transaction; then events one by one on the table that this left behind.

mod drain;
pub(crate) mod metrics;

use crate::Sizes;
use crate::kafka::records;
use crate::machine;
use crate::report::{Report, grouped, ms, say};
use crate::site::{PRODUCT, Site, free_address};
use anyhow::Context;
use drain::{Drain, drain};
use hdrhistogram::Histogram;
use metrics::Metrics;
use std::path::Path;
use std::time::{Duration, Instant};
use tidemill::embedded::Broker;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Structured CloudEvents of about 400 bytes, 10,000 keys in turn, each in its bucket.
pub(crate) const FILL: &str = "\
    WITH keys AS MATERIALIZED (\
        SELECT k, convert_to('user' || k, 'UTF8') AS key, tidemill.key_bucket('todo.task-events', convert_to('user' || k, 'UTF8')) AS bucket \
        FROM generate_series(0, 9999) k) \
    INSERT INTO tidemill.outbox (bucket, topic, key, value, header_names, header_values, event_id) \
    SELECT bucket, 'todo.task-events', key, convert_to(format(\
        '{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"bench\",\"type\":\"task.created\",\"time\":\"2026-01-01T00:00:00.000000Z\",\
        \"datacontenttype\":\"application/json\",\"data\":{\"task_id\":\"%s\",\"user_id\":\"user%s\",\"title\":\"%s\"}}', \
        lpad(n::text, 36, '0'), lpad(n::text, 36, '0'), k, repeat('x', 150)), 'UTF8'), \
        ARRAY['content-type'], ARRAY[convert_to('application/cloudevents+json; charset=UTF-8', 'UTF8')], lpad(n::text, 36, '0') \
    FROM generate_series(1, $1::int8) n JOIN keys ON k = n % 10000 ORDER BY n";

/// What the table takes, with its index and what is stored aside.
const SIZE: &str = "SELECT pg_total_relation_size('tidemill.outbox'), (SELECT count(*) FROM tidemill.outbox)";

/// The longest time for the events that are sent one by one.
const ONE_BY_ONE: Duration = Duration::from_secs(60);

/// One of the two scenes.
struct Scene {
    name: &'static str,
    drain: Drain,
    size: i64,
    left: i64,
    single: Single,
}

/// Events sent one by one.
struct Single {
    count: usize,
    /// Request sent → acknowledgement seen on `/metrics`, in microseconds.
    seen: Histogram<u64>,
    /// Outbox row → acknowledgement: p50, p99, mean.
    delay: [String; 3],
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("relay");
    let site = Site::build().await?;
    let handlers = site.handlers("handlers", &["task-api"])?;
    site.migrate(&site.handlers("all", &PRODUCT)?).await?;
    let broker = EmbeddedBroker::start(&site.path("broker")).await?;
    site.topics(&handlers, &broker.addr).await?;
    // Once with nothing to send, so that neither scene begins with compiling the handler.
    site.serve(&handlers, &broker.addr, &free_address()?).await?.stop().await?;
    let mut scenes = Vec::new();
    for (name, long) in [("nothing beside it", false), ("a long transaction beside it", true)] {
        say(&format!("relay: {} events, {name}", grouped(sizes.events as f64)));
        machine::warn_if_busy(report);
        scenes.push(scene(&site, &broker, &handlers, name, long, sizes).await?);
    }
    let sent: u64 = scenes.iter().map(|scene| scene.drain.sent + scene.single.count as u64).sum();
    let addr = broker.addr.clone();
    let records = tokio::task::spawn_blocking(move || records(&addr, "todo.task-events")).await??;
    anyhow::ensure!(records >= sent, "{sent} events were acknowledged, and the topic has {records} records");
    tables(&scenes, sizes, report);
    broker.stop().await?;
    site.end().await
}

async fn scene(
    site: &Site,
    broker: &EmbeddedBroker,
    handlers: &Path,
    name: &'static str,
    long: bool,
    sizes: &Sizes,
) -> anyhow::Result<Scene> {
    let client = site.client().await?;
    client.batch_execute("TRUNCATE tidemill.outbox").await?;
    client.execute(FILL, &[&i64::try_from(sizes.events)?]).await?;
    client.batch_execute("CHECKPOINT").await?;
    let beside = site.client().await?;
    if long {
        beside.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        beside.query_one("SELECT count(*) FROM tidemill.migrations", &[]).await?;
    }
    let admin = free_address()?;
    let metrics = Metrics::of(&format!("http://{admin}"));
    let starting = site.serve(handlers, &broker.addr, &admin);
    let (host, drain) = drain(starting, &metrics, site.postmaster()?, sizes.events).await?;
    // What the deletes leave behind is in the size; what was sent last may wait for its delete.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let row = client.query_one(SIZE, &[]).await?;
    let single = one_by_one(host.said("http")?, &metrics, &site.tokens(100)?, sizes.one_by_one).await?;
    host.stop().await?;
    if long {
        beside.batch_execute("COMMIT").await?;
    }
    Ok(Scene { name, drain, size: row.get(0), left: row.get(1), single })
}

/// Creates tasks, each after the event of the one before was acknowledged.
async fn one_by_one(http: &str, metrics: &Metrics, tokens: &[String], count: usize) -> anyhow::Result<Single> {
    let client = reqwest::Client::new();
    let (url, started) = (format!("{http}/api/tasks"), Instant::now());
    let before = metrics.read().await?;
    let mut seen = Histogram::new(3)?;
    let mut last = before.clone();
    let mut done = 0;
    while done < count && started.elapsed() < ONE_BY_ONE {
        let token = tokens.get(done % tokens.len()).context("no tokens")?;
        let sent = Instant::now();
        let request = client.post(&url).bearer_auth(token).header("content-type", "application/json");
        request.body(r#"{"title": "Water the plants"}"#).send().await?.error_for_status()?;
        let wanted = last.sent + 1;
        while last.sent < wanted {
            anyhow::ensure!(sent.elapsed() < Duration::from_secs(30), "an event was not acknowledged within 30 s");
            last = metrics.read().await?;
        }
        seen.record(sent.elapsed().as_micros() as u64)?;
        done += 1;
    }
    let added = last.since(&before);
    let delay = [added.delay_quantile(0.5), added.delay_quantile(0.99), ms(added.mean_delay() * 1e6)];
    Ok(Single { count: done, seen, delay })
}

fn tables(scenes: &[Scene], sizes: &Sizes, report: &mut Report) {
    report.line(&format!(
        "{} waiting events of about 400 bytes, 10,000 keys, a topic of 3 partitions on the embedded broker (in a process of its own), no \
         consumer. The long transaction is open from before the first delete to the end.\n",
        grouped(sizes.events as f64)
    ));
    let rows: Vec<Vec<String>> = scenes
        .iter()
        .map(|Scene { name, drain, size, left, .. }| {
            let whole = match drain.sent {
                sent if sent == sizes.events => format!("{:.1} s", drain.time),
                sent => format!("given up after {:.0} s, {} sent", drain.time, grouped(sent as f64)),
            };
            vec![
                (*name).to_owned(),
                drain.first.map_or("–".into(), grouped),
                drain.last.map_or("–".into(), grouped),
                whole,
                format!("{} / {} / {}", drain.cpu.server.round(), drain.cpu.postgres.round(), drain.broker_cpu.round()),
                format!("{:.0} MB, {left} rows", *size as f64 / 1e6),
            ]
        })
        .collect();
    let tenth = grouped(sizes.events as f64 / 10.0);
    let (first, last) = (format!("first {tenth}, a second"), format!("last {tenth}, a second"));
    report
        .table(&["beside it", &first, &last, "whole", "CPU µs an event: host / PostgreSQL / broker", "outbox afterwards"], &rows);
    report.line("Then events one by one, each a task created over HTTP after the one before was acknowledged:\n");
    let rows: Vec<Vec<String>> = scenes
        .iter()
        .map(|Scene { name, single, .. }| {
            let seen = |share: f64| ms(single.seen.value_at_quantile(share) as f64);
            let [p50, p99, mean] = single.delay.clone();
            vec![(*name).to_owned(), single.count.to_string(), p50, p99, mean, seen(0.5), seen(0.99)]
        })
        .collect();
    let head = ["beside it", "events", "outbox → ack p50", "p99", "mean", "request → ack seen p50", "p99"];
    report.table(&head, &rows);
}

/// The embedded broker, in this process.
pub(crate) struct EmbeddedBroker {
    pub(crate) addr: String,
    stop: oneshot::Sender<()>,
    serving: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl EmbeddedBroker {
    pub(crate) async fn start(folder: &Path) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?.to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let broker = Broker::open(folder).await?;
        let serving = tokio::spawn(broker.serve(listener, async {
            let _ = stopped.await;
        }));
        Ok(Self { addr, stop, serving })
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        self.serving.await?
    }
}
