//! Due jobs: how many leave a second, how late they are, what a waiting multitude costs them, and what scheduling adds to a request.

use crate::Sizes;
use crate::create::{Round, of};
use crate::load::{CONNECTIONS, wrk_over};
use crate::machine::{self, Meter, Spent, cpu};
use crate::process::Process;
use crate::relay::EmbeddedBroker;
use crate::relay::metrics::Metrics;
use crate::report::{Report, grouped, ms, ratio, say};
use crate::site::{PRODUCT, Site, free_address};
use anyhow::Context;
use hdrhistogram::Histogram;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tidemill::config::KafkaAccess;
use tidemill::kafka::client_config;
use tokio_postgres::Client;

/// One partition, so that a consumer sees all events in their order.
const TOPIC: &str = "todo.reminders";
/// Jobs with events of about 400 bytes and 10,000 keys in turn. `$1`: how they are named; `$2`: how many; `$3`, `$4`: the first is due so many
/// milliseconds from now, and each other one so many microseconds after the one before.
const FILL: &str = "\
    WITH keys AS MATERIALIZED (\
        SELECT k, convert_to('user' || k, 'UTF8') AS key, tidemill.key_bucket('todo.reminders', convert_to('user' || k, 'UTF8')) AS bucket \
        FROM generate_series(0, 9999) k) \
    INSERT INTO tidemill.jobs (app, name, handler, due, bucket, topic, key, event) \
    SELECT 'todo', $1::text || '/' || lpad(n::text, 9, '0'), 'task-api', \
        now() + $3::int8 * interval '1 millisecond' + n * $4::int8 * interval '1 microsecond', bucket, 'todo.reminders', key, convert_to(format(\
        '\"source\":\"bench\",\"type\":\"bench.due\",\"datacontenttype\":\"application/json\",\"data\":{\"user_id\":\"user%s\",\"title\":\"%s\"}}', \
        k, repeat('x', 150)), 'UTF8') \
    FROM generate_series(1, $2::int8) n JOIN keys ON k = n % 10000 ORDER BY n";
const HOUR: i64 = 3_600_000;
/// How often the counter is read.
const SAMPLE: Duration = Duration::from_millis(20);
/// How long all due jobs may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// Due jobs a second, for their lateness.
const RATE: i64 = 1_000;
/// The first of them is due so many milliseconds after it was scheduled.
const AHEAD: i64 = 3_000;
/// Far ahead, in microseconds since 1970: the year 2100.
const LATER: &str = "4102444800000000";

/// Due jobs, while others wait.
struct Burst {
    waiting: u64,
    /// Jobs a second, from the first acknowledgement to the last.
    rate: f64,
    /// CPU microseconds a job.
    cpu: Spent,
    broker_cpu: f64,
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("jobs");
    let site = Site::build().await?;
    // None of the product's consumers runs: what is measured is the way to the topic.
    let handlers = site.handlers("handlers", &["task-api", "probe"])?;
    site.migrate(&site.handlers("all", &[&PRODUCT[..], &["probe"]].concat())?).await?;
    let broker = EmbeddedBroker::start(&site.path("broker")).await?;
    site.topics(&site.handlers("all", &PRODUCT)?, &broker.addr).await?;
    let client = site.client().await?;
    // The first start compiles the components.
    site.serve(&handlers, &broker.addr, "127.0.0.1:0").await?.stop().await?;
    late(&site, &handlers, &broker, &client, sizes, report).await?;
    bursts(&site, &handlers, &broker, &client, sizes, report).await?;
    broker.stop().await?;
    scheduling(&site, &handlers, &client, sizes, report).await?;
    drop(client);
    site.end().await
}

async fn fill(client: &Client, name: &str, count: u64, first: i64, step: i64) -> anyhow::Result<()> {
    client.execute(FILL, &[&name, &i64::try_from(count)?, &first, &step]).await?;
    Ok(())
}

/// Due jobs beside few waiting ones and beside very many.
async fn bursts(
    site: &Site,
    handlers: &Path,
    broker: &EmbeddedBroker,
    client: &Client,
    sizes: &Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut bursts = Vec::new();
    let mut there = 0;
    client.batch_execute("TRUNCATE tidemill.jobs, tidemill.outbox").await?;
    for waiting in [sizes.jobs_few, sizes.jobs_many] {
        say(&format!("jobs: {} due while {} wait", grouped(sizes.jobs_due as f64), grouped(waiting as f64)));
        // A week ahead, a millisecond apart.
        fill(client, &format!("waiting-{waiting}"), waiting - there, 168 * HOUR, 1_000).await?;
        there = waiting;
        client.batch_execute("VACUUM ANALYZE tidemill.jobs").await?;
        for round in 1..=sizes.rounds {
            fill(client, &format!("due-{waiting}-{round}"), sizes.jobs_due, -HOUR, 100).await?;
            client.batch_execute("CHECKPOINT").await?;
            machine::warn_if_busy(report);
            bursts.push(Burst { waiting, ..burst(site, handlers, broker, sizes.jobs_due).await? });
        }
    }
    report.line(&format!(
        "{} jobs that are due when the host starts, events of about 400 bytes, 10,000 keys, one partition on the embedded broker (in a \
         process of its own), no consumer; {} rounds, medians. From the first acknowledgement to the last; CPU is time of all cores a job.\n",
        grouped(sizes.jobs_due as f64),
        sizes.rounds,
    ));
    let of_waiting = |waiting: u64| bursts.iter().filter(move |burst| burst.waiting == waiting);
    let middle = |waiting: u64, pick: fn(&Burst) -> f64| crate::report::median(of_waiting(waiting).map(pick));
    let row = |waiting: u64| {
        let micros = |pick: fn(&Burst) -> f64| format!("{:.1} µs", middle(waiting, pick));
        vec![
            grouped(waiting as f64),
            grouped(middle(waiting, |burst| burst.rate)),
            micros(|burst| burst.cpu.server),
            micros(|burst| burst.cpu.postgres),
            micros(|burst| burst.broker_cpu),
        ]
    };
    report.table(
        &["waiting beside them", "jobs a second", "CPU host", "CPU PostgreSQL", "CPU broker"],
        &[sizes.jobs_few, sizes.jobs_many].map(row),
    );
    let cost = |burst: &Burst| burst.cpu.server + burst.cpu.postgres;
    let pairs = of_waiting(sizes.jobs_many).zip(of_waiting(sizes.jobs_few)).map(|(many, few)| (cost(many), cost(few)));
    report.line(&format!(
        "- CPU a due job (host and PostgreSQL) with {} waiting ÷ with {}: **{}**",
        grouped(sizes.jobs_many as f64),
        grouped(sizes.jobs_few as f64),
        ratio(pairs)
    ));
    Ok(())
}

/// Starts the host on jobs that are due and watches until the broker has all their events.
async fn burst(site: &Site, handlers: &Path, broker: &EmbeddedBroker, due: u64) -> anyhow::Result<Burst> {
    let admin = free_address()?;
    let metrics = Metrics::of(&format!("http://{admin}"));
    let postgres = Meter::start(None, site.postmaster()?)?;
    let broker_before = cpu(std::process::id())?;
    let started = Instant::now();
    let watching = async {
        let (mut first, mut before) = (None, 0);
        loop {
            let sent = metrics.read().await.map_or(0, |reading| reading.sent);
            if sent > 0 && first.is_none() {
                (first, before) = (Some(Instant::now()), sent);
            }
            if let Some(first) = first.filter(|_| sent >= due) {
                return Ok((due - before) as f64 / first.elapsed().as_secs_f64());
            }
            anyhow::ensure!(started.elapsed() < PATIENCE, "{sent} of {due} events were sent within {PATIENCE:?}");
            tokio::time::sleep(SAMPLE).await;
        }
    };
    let (host, rate) = tokio::join!(site.serve(handlers, &broker.addr, &admin), watching);
    let (host, rate): (Process, f64) = (host?, rate?);
    let mut each = postgres.each(due as f64)?;
    each.server = cpu(host.pid()?)? * 1e6 / due as f64;
    let broker_cpu = (cpu(std::process::id())? - broker_before) * 1e6 / due as f64;
    host.stop().await?;
    Ok(Burst { waiting: 0, rate, cpu: each, broker_cpu })
}

/// How late events arrive at a consumer, at a steady rate.
async fn late(
    site: &Site,
    handlers: &Path,
    broker: &EmbeddedBroker,
    client: &Client,
    sizes: &Sizes,
    report: &mut Report,
) -> anyhow::Result<()> {
    let count = u64::try_from(RATE)? * sizes.audit.as_secs();
    say(&format!("jobs: {RATE} a second for {} s", sizes.audit.as_secs()));
    machine::warn_if_busy(report);
    let host = site.serve(handlers, &broker.addr, "127.0.0.1:0").await?;
    let addr = broker.addr.clone();
    let consuming = tokio::task::spawn_blocking(move || consume(&addr, count));
    fill(client, "steady", count, AHEAD, 1_000_000 / RATE).await?;
    let meter = Meter::start(Some(host.pid()?), site.postmaster()?)?;
    let late = consuming.await??;
    let cpu = meter.each(count as f64)?;
    host.stop().await?;
    let at = |share: f64| ms(late.value_at_quantile(share) as f64);
    report.line(&format!(
        "{RATE} jobs a second, {} of them: from the scheduled time to a consumer of the topic p50 **{}**, p99 **{}**, max {}. CPU a job: host \
         {:.0} µs, PostgreSQL {:.0} µs. None came early.\n",
        grouped(count as f64),
        at(0.5),
        at(0.99),
        ms(late.max() as f64),
        cpu.server,
        cpu.postgres,
    ));
    Ok(())
}

/// Reads so many new events and says how long after their `time` each arrived, in microseconds. One before its time is an error.
fn consume(brokers: &str, count: u64) -> anyhow::Result<Histogram<u64>> {
    let mut config = client_config(&KafkaAccess::plaintext(brokers));
    config.set("group.id", "bench-late").set("enable.auto.commit", "false").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create()?;
    let mut places = TopicPartitionList::new();
    places.add_partition_offset(TOPIC, 0, Offset::Beginning)?;
    consumer.assign(&places)?;
    let mut late = Histogram::new(3)?;
    let started = Instant::now();
    while late.len() < count {
        anyhow::ensure!(started.elapsed() < PATIENCE, "{} of {count} events arrived within {PATIENCE:?}", late.len());
        let Some(record) = consumer.poll(Duration::from_millis(100)) else { continue };
        let record = record?;
        let now = jiff::Timestamp::now();
        let event: serde_json::Value = serde_json::from_slice(record.payload().context("an event without a value")?)?;
        let due: jiff::Timestamp = event["time"].as_str().context("an event without a time")?.parse()?;
        let micros = now.as_microsecond() - due.as_microsecond();
        late.record(u64::try_from(micros).with_context(|| format!("an event came {micros} µs after its time"))?)?;
    }
    Ok(late)
}

/// A request that inserts a row and publishes an event, and the same one scheduling a job as well, in alternating rounds.
async fn scheduling(site: &Site, handlers: &Path, client: &Client, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    client.batch_execute("TRUNCATE tidemill.jobs, tidemill.outbox").await?;
    // With no broker the relay waits, once it has more than it takes at once.
    let host = site.serve(handlers, &free_address()?, "127.0.0.1:0").await?;
    let plain = ("without a job", "insert-then-publish");
    let with_job = ("with a job", "insert-then-publish-then-schedule");
    let script = |steps: &str| -> anyhow::Result<PathBuf> {
        let file = site.path(&format!("{steps}.lua"));
        std::fs::write(&file, lua(steps, site.tokens(1)?.first().context("no token")?))?;
        Ok(file)
    };
    let scripts = [(plain.0, script(plain.1)?), (with_job.0, script(with_job.1)?)];
    let url = host.said("http")?.to_owned();
    for (connections, what) in [(1, "one connection"), (CONNECTIONS, "as many connections as keep both cores busy")] {
        let rounds = rounds(site, (&host, &url), client, connections, &scripts, (sizes, report)).await?;
        report.line(&format!(
            "\nA request that inserts a row and publishes an event, without and with scheduling a job: {what} ({connections}), {} alternating \
             rounds of {} s, medians.\n",
            sizes.rounds,
            sizes.create.as_secs()
        ));
        let row = |(name, rounds): (&str, &[Round])| [vec![name.to_owned()], crate::create::cells(rounds)].concat();
        report.table(
            &["request", "a second", "lowest–highest", "p50", "p99", "CPU server", "CPU PostgreSQL", "CPU load"],
            &[row((plain.0, &rounds[0])), row((with_job.0, &rounds[1]))],
        );
        let pairs = rounds[0].iter().zip(&rounds[1]).map(|(plain, with_job)| (plain.load.rate, with_job.load.rate));
        report.line(&format!("- Time of a request with a job ÷ without: **{}** (by rates)", ratio(pairs)));
        let p50 = |rounds: &[Round]| of(rounds, |round| round.load.p50);
        report.line(&format!("- The same by p50: {:.2}", p50(&rounds[1]) / p50(&rounds[0])));
    }
    host.stop().await
}

/// Alternating rounds of both scripts, the first of each left out.
async fn rounds(
    site: &Site,
    (host, url): (&Process, &str),
    client: &Client,
    connections: usize,
    scripts: &[(&str, PathBuf); 2],
    (sizes, report): (&Sizes, &mut Report),
) -> anyhow::Result<[Vec<Round>; 2]> {
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for number in 0..=sizes.rounds {
        for ((name, script), rounds) in scripts.iter().zip(&mut rounds) {
            client.batch_execute("TRUNCATE tidemill.jobs, tidemill.outbox, probe.rows").await?;
            client.batch_execute("CHECKPOINT").await?;
            let time = if number == 0 { sizes.warm_up } else { sizes.create };
            say(&format!("jobs: requests {name}, round {number} of {}", sizes.rounds));
            machine::warn_if_busy(report);
            let meter = Meter::start(Some(host.pid()?), site.postmaster()?)?;
            let load = wrk_over(connections, url, time, Some(script)).await?;
            let cpu = meter.each(load.count)?;
            if number > 0 {
                rounds.push(Round { load, cpu });
            }
        }
    }
    Ok(rounds)
}

/// A script of wrk whose requests each have a row and a job of their own.
fn lua(steps: &str, token: &str) -> String {
    format!(
        "local n = 0\nlocal seed = tostring(os.time())\n\
         wrk.method = \"POST\"\nwrk.headers[\"authorization\"] = \"Bearer {token}\"\nwrk.headers[\"content-type\"] = \"application/json\"\n\
         function request()\n  n = n + 1\n  local id = seed .. \"-\" .. n\n  \
         local body = '{{\"id\":\"' .. id .. '\",\"name\":\"job-' .. id .. '\",\"topic\":\"probe.out\",\"key\":\"user' .. (n % 1000) .. '\",\"at\":{LATER}}}'\n  \
         return wrk.format(\"POST\", \"/probe/{steps}\", nil, body)\nend\n"
    )
}
