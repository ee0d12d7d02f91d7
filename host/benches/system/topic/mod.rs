//! Audit from a full topic of Apache Kafka: the host, a native loop with the same statements, and the host with one event a unit, in
//! alternating rounds.

mod columns;
pub(crate) mod native;
mod statements;

use crate::Sizes;
use crate::committed::{Committed, drawn};
use crate::kafka::{Apache, KEYS};
use crate::machine::{self, Meter, Spent, cpu};
use crate::process::Process;
use crate::report::{Report, grouped, median, ratio, say};
use crate::site::{PRODUCT, Site};
use crate::twin::DATABASE_URL;
use std::path::PathBuf;
use tokio::process::Command;

/// The topic that is full.
pub(crate) const TOPIC: &str = "todo.task-events";
const TABLE: &str = "todo.audit_log";

/// Who consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Host,
    Native,
    Single,
}

impl Who {
    const ALL: [Self; 3] = [Self::Host, Self::Native, Self::Single];

    fn name(self) -> &'static str {
        match self {
            Self::Host => "WASM host",
            Self::Native => "native loop, rdkafka + tokio-postgres",
            Self::Single => "WASM host, `batch = 1`",
        }
    }
}

/// One round of one consumer.
struct Round {
    committed: Committed,
    cpu: Spent,
    /// CPU microseconds of Apache Kafka an event.
    broker: f64,
}

struct Arena {
    site: Site,
    client: tokio_postgres::Client,
    broker: Apache,
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("topic");
    say(&format!("topic: {} events into Apache Kafka", grouped(sizes.topic as f64)));
    let arena = Arena::build(sizes.topic).await?;
    say("topic: warming up");
    // Whoever reads first finds Apache Kafka uncompiled and PostgreSQL's memory cold, and pays for all.
    arena.round(Who::Native, 0, sizes.topic).await?;
    arena.round(Who::Host, 0, sizes.topic).await?;
    let mut rounds: [Vec<Round>; 3] = Default::default();
    for number in 1..=sizes.topic_rounds {
        // Neither always comes before the other.
        let order = if number % 2 == 1 { [0, 1, 2] } else { [1, 0, 2] };
        for index in order {
            let who = Who::ALL[index];
            say(&format!("topic, round {number} of {}: {}", sizes.topic_rounds, who.name()));
            machine::warn_if_busy(report);
            let events = if who == Who::Single { sizes.singles } else { sizes.topic };
            rounds[index].push(arena.round(who, number, events).await?);
        }
    }
    tables(&rounds, sizes, report);
    arena.broker.stop().await?;
    drop(arena.client);
    arena.site.end().await
}

impl Arena {
    async fn build(events: u64) -> anyhow::Result<Self> {
        let site = Site::build().await?;
        let all = site.handlers("all", &PRODUCT)?;
        site.migrate(&all).await?;
        let broker = Apache::start(&site.path("kafka")).await?;
        site.topics(&all, &broker.addr).await?;
        broker.fill(TOPIC, events, |_| "task.created").await?;
        let client = site.client().await?;
        Ok(Self { site, client, broker })
    }

    /// One round: an empty table, a new group.
    async fn round(&self, who: Who, number: usize, events: u64) -> anyhow::Result<Round> {
        self.client.batch_execute("TRUNCATE todo.audit_log, tidemill.inbox RESTART IDENTITY").await?;
        self.client.batch_execute("CHECKPOINT").await?;
        let consumer = self.start(who, number).await?;
        let (meter, broker) = (Meter::start(Some(consumer.pid()?), self.site.postmaster()?)?, cpu(self.broker.pid()?)?);
        let rows = drawn(&self.client, "todo.audit_log_id_seq", events).await?;
        let spent = meter.each(rows as f64)?;
        let broker = (cpu(self.broker.pid()?)? - broker) * 1e6 / rows as f64;
        // What is under way then commits as well.
        consumer.stop().await?;
        let committed = Committed::read(&self.client, TABLE, "true").await?;
        let complete = if who == Who::Single { committed.rows >= events } else { committed.rows == events };
        anyhow::ensure!(complete, "{}: {} audit rows of {events} events", who.name(), committed.rows);
        Ok(Round { committed, cpu: spent, broker })
    }

    async fn start(&self, who: Who, number: usize) -> anyhow::Result<Process> {
        let group = format!("audit-{who:?}-{number}").to_lowercase();
        if who != Who::Native {
            return self.site.serve(&self.handlers(&group, who == Who::Single)?, &self.broker.addr, "127.0.0.1:0").await;
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("consumer").env(DATABASE_URL, self.site.database_url());
        command.env(native::BROKERS, &self.broker.addr).env(native::GROUP, &group);
        Process::start(command, &self.site.path("native.log")).await
    }

    /// The audit handler in a group of its own, which therefore reads the whole topic.
    fn handlers(&self, group: &str, single: bool) -> anyhow::Result<PathBuf> {
        let folder = self.site.handlers(group, &["audit"])?;
        let file = folder.join("audit/handler.toml");
        let mut manifest = std::fs::read_to_string(&file)?.replace("\"audit-consumer\"", &format!("\"{group}\""));
        anyhow::ensure!(manifest.contains(group), "the manifest of `audit` has another group");
        if single {
            manifest.push_str("\n[limits]\nbatch = 1\n");
        }
        std::fs::write(&file, manifest)?;
        Ok(folder)
    }
}

fn tables(rounds: &[Vec<Round>; 3], sizes: &Sizes, report: &mut Report) {
    let rates = |of: usize| rounds[of].iter().map(|round| round.committed.rate);
    report.line(&format!("- WASM host ÷ native loop: **{}** (target: at least 0.85)", ratio(rates(0).zip(rates(1)))));
    report.line(&format!("- WASM host ÷ one event a unit: **{}** (target: at least 5)", ratio(rates(0).zip(rates(2)))));
    report.line(&format!(
        "\n{} events of about 400 bytes and {KEYS} keys wait in a topic of 3 partitions on Apache Kafka; {} of them one by one. {} rounds, \
         medians; ratios by rounds, with the lowest and the highest. CPU is time of all cores for each event.\n",
        grouped(sizes.topic as f64),
        grouped(sizes.singles as f64),
        sizes.topic_rounds,
    ));
    let rows: Vec<Vec<String>> = Who::ALL.iter().zip(rounds).map(|(who, rounds)| row(*who, rounds)).collect();
    let head =
        ["who", "events a second", "lowest–highest", "events a unit", "CPU consumer", "CPU PostgreSQL", "CPU Apache Kafka"];
    report.table(&head, &rows);
}

fn row(who: Who, rounds: &[Round]) -> Vec<String> {
    let of = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
    let rates = || rounds.iter().map(|round| round.committed.rate);
    let micros = |micros: f64| format!("{micros:.1} µs");
    vec![
        who.name().to_owned(),
        grouped(of(|round| round.committed.rate)),
        format!("{}–{}", grouped(rates().fold(f64::MAX, f64::min)), grouped(rates().fold(0.0, f64::max))),
        format!("{:.0}", of(|round| round.committed.each)),
        micros(of(|round| round.cpu.server)),
        micros(of(|round| round.cpu.postgres)),
        micros(of(|round| round.broker)),
    ]
}
