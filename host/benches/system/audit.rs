//! HTTP request → committed audit row, on the whole product at a steady rate.

use crate::Sizes;
use crate::machine::{self, Meter};
use crate::relay::metrics::Metrics;
use crate::report::{Report, ms, say};
use crate::site::{PRODUCT, Site};
use anyhow::Context;
use hdrhistogram::Histogram;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Requests a second.
const RATE: u32 = 500;
const WARM_UP: Duration = Duration::from_secs(3);
const USERS: usize = 100;
/// How long the last audit rows may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of each request, by correlation id: when the task committed, its audit unit began, its audit row committed (µs since 1970).
const COMMITS: &str = "\
    SELECT a.correlation_id, (extract(epoch FROM pg_xact_commit_timestamp(t.xmin)) * 1000000)::int8, \
        (extract(epoch FROM a.recorded_at) * 1000000)::int8, (extract(epoch FROM pg_xact_commit_timestamp(a.xmin)) * 1000000)::int8, \
        a.xmin::text \
    FROM todo.audit_log a JOIN todo.tasks t ON t.id = a.task_id";

/// When a request was sent and answered, in microseconds since 1970, and how late it was by the schedule.
struct Sent {
    name: String,
    sent: u64,
    answered: u64,
    late: u64,
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("audit");
    say("audit: starting `tidemill dev`");
    let mut site = Site::build().await?;
    let handlers = site.handlers("handlers", &PRODUCT)?;
    let tokens = site.tokens(USERS)?;
    let product = site.dev(&handlers).await?;
    let resident = machine::resident(product.pid()?)?;
    let client = site.client().await?;
    say(&format!("audit: {RATE} requests a second for {} s", sizes.audit.as_secs()));
    machine::warn_if_busy(report);
    let url = format!("{}/api/tasks", product.said("http")?);
    load(&url, &tokens, "warm", WARM_UP).await?;
    let metrics = Metrics::of(product.said("admin")?);
    let before = metrics.read().await?;
    let meter = Meter::start(Some(product.pid()?), site.postmaster()?)?;
    let sent = load(&url, &tokens, "sent", sizes.audit).await?;
    let cpu = meter.each(sent.len() as f64)?;
    wait_for(&client, sent.len()).await?;
    let relay = metrics.read().await?.since(&before);

    let mut stages = Stages::new()?;
    let mut units = std::collections::HashSet::new();
    let by_name: HashMap<&str, &Sent> = sent.iter().map(|sent| (sent.name.as_str(), sent)).collect();
    let mut counted = 0;
    for row in client.query(COMMITS, &[]).await? {
        let name: Option<&str> = row.get(0);
        let Some(sent) = name.and_then(|name| by_name.get(name)) else {
            continue;
        };
        let [task, began, audit] = [1, 2, 3].map(|column| row.get::<_, i64>(column).try_into().unwrap_or(0_u64));
        stages.record(sent, task, began, audit)?;
        units.insert(row.get::<_, String>(4));
        counted += 1;
    }
    anyhow::ensure!(counted == sent.len(), "{counted} audit rows for {} requests", sent.len());

    report.line(&format!(
        "`tidemill dev`, {RATE} requests a second by the clock for {} s after {} s of warm-up, {counted} requests, {} units of the audit \
         handler ({:.1} events each). CPU a request with its event: host and broker {:.0} µs, PostgreSQL {:.0} µs.\n",
        sizes.audit.as_secs(),
        WARM_UP.as_secs(),
        units.len(),
        counted as f64 / units.len() as f64,
        cpu.server,
        cpu.postgres,
    ));
    let mut rows = stages.rows();
    rows.push(vec![
        "outbox row → broker's acknowledgement (buckets)".into(),
        relay.delay_quantile(0.5),
        relay.delay_quantile(0.99),
        format!("mean {}", ms(relay.mean_delay() * 1e6)),
    ]);
    report.table(&["stage", "p50", "p99", "max"], &rows);
    report.line("Where the time goes, by means; the answer runs beside what comes after the commit:\n");
    report.table(&["share of request sent → audit row committed", "mean", "share"], &stages.shares(relay.mean_delay() * 1e6));
    report.line(&format!(
        "Idle `tidemill dev`: {resident:.0} MB resident; ready {:.1} s after its start.",
        product.took.as_secs_f64()
    ));
    drop(client);
    product.stop().await?;
    site.end().await
}

/// Sends requests by the clock, whatever the answers do.
async fn load(url: &str, tokens: &[String], name: &str, time: Duration) -> anyhow::Result<Vec<Sent>> {
    let client = reqwest::Client::builder().pool_max_idle_per_host(256).build()?;
    let url: Arc<str> = url.into();
    let gap = Duration::from_secs(1) / RATE;
    let started = Instant::now();
    let mut requests = JoinSet::new();
    for number in 0..u32::try_from(time.as_secs())? * RATE {
        let due = started + gap * number;
        tokio::time::sleep_until(due).await;
        let token = tokens.get(number as usize % tokens.len()).context("no tokens")?.clone();
        let (client, url, name) = (client.clone(), url.clone(), format!("{name}-{number}"));
        requests.spawn(async move {
            let late = due.elapsed().as_micros() as u64;
            let request = client.post(&*url).bearer_auth(token).header("x-correlation-id", &name);
            let request =
                request.header("content-type", "application/json").body(r#"{"title": "Water the plants", "tags": ["home"]}"#);
            let sent = now();
            let response = request.send().await?.error_for_status()?;
            response.bytes().await?;
            anyhow::Ok(Sent { name, sent, answered: now(), late })
        });
    }
    let mut sent = Vec::new();
    while let Some(request) = requests.join_next().await {
        sent.push(request??);
    }
    Ok(sent)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// Waits until the audit rows of all requests are there.
async fn wait_for(client: &tokio_postgres::Client, requests: usize) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        let rows: i64 =
            client.query_one("SELECT count(*) FROM todo.audit_log WHERE correlation_id LIKE 'sent-%'", &[]).await?.get(0);
        if usize::try_from(rows)? >= requests {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "{rows} of {requests} audit rows after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The stages of the walk, in microseconds.
struct Stages(Vec<(&'static str, Histogram<u64>)>);

impl Stages {
    fn new() -> anyhow::Result<Self> {
        let names = [
            "request sent → audit row committed",
            "request sent → answer received",
            "request sent → task committed",
            "task committed → audit unit begins",
            "audit unit begins → committed",
            "schedule → request sent (the load generator's own delay)",
        ];
        names.into_iter().map(|name| Ok((name, Histogram::new(3)?))).collect::<anyhow::Result<_>>().map(Self)
    }

    fn record(&mut self, sent: &Sent, task: u64, began: u64, audit: u64) -> anyhow::Result<()> {
        let times = [
            audit.saturating_sub(sent.sent),
            sent.answered.saturating_sub(sent.sent),
            task.saturating_sub(sent.sent),
            began.saturating_sub(task),
            audit.saturating_sub(began),
            sent.late,
        ];
        for ((_, histogram), time) in self.0.iter_mut().zip(times) {
            histogram.record(time)?;
        }
        Ok(())
    }

    /// The walk by means. `ack` is that from the outbox row, which is written just before the commit, to the broker's acknowledgement.
    fn shares(&self, ack: f64) -> Vec<Vec<String>> {
        let mean = |stage: usize| self.0.get(stage).map_or(f64::NAN, |(_, times)| times.mean());
        let all = mean(0);
        let stages = [
            ("request sent → task committed", mean(2)),
            ("task committed → broker's acknowledgement", ack),
            ("broker's acknowledgement → audit unit begins (what is left)", mean(3) - ack),
            ("audit unit begins → committed", mean(4)),
            ("all", all),
            ("beside it: request sent → answer received", mean(1)),
        ];
        let row = |(name, time): (&str, f64)| vec![name.to_owned(), ms(time), format!("{:.0} %", time / all * 100.0)];
        stages.into_iter().map(row).collect()
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let row = |(name, times): &(&str, Histogram<u64>)| {
            let at = |share: f64| ms(times.value_at_quantile(share) as f64);
            vec![(*name).to_owned(), at(0.5), at(0.99), ms(times.max() as f64)]
        };
        self.0.iter().map(row).collect()
    }
}
