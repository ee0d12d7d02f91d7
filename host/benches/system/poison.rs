//! One poisoned key among a thousand: how fast the other keys go with it and without it, in alternating rounds.

use crate::Sizes;
use crate::committed::{Committed, counted, drawn};
use crate::kafka::{Apache, KEYS, key};
use crate::machine::{self, Meter, Spent};
use crate::report::{Report, grouped, median, ratio, say};
use crate::site::Site;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// The two topics: without the poison, and with it.
const TOPICS: [&str; 2] = ["probe.plain", "probe.poisoned"];
/// The events of the other keys; the key of the first event is the poisoned one.
const OTHERS: &str = "subject_key <> 'user0'";
const EMPTY: &str = "TRUNCATE probe.seen, tidemill.inbox, tidemill.waiting, tidemill.single_attempts, tidemill.dead_letters, \
    tidemill.outbox RESTART IDENTITY";

/// One round of one scene.
struct Round {
    rate: f64,
    cpu: Spent,
    /// Events of the poisoned key that wait in the end.
    waiting: i64,
    /// And those that are dead.
    dead: i64,
}

struct Arena {
    site: Site,
    client: tokio_postgres::Client,
    broker: Apache,
}

/// Measures and reports.
pub(crate) async fn measure(sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    report.part("poison");
    say(&format!("poison: twice {} events into Apache Kafka", grouped(sizes.poison as f64)));
    let arena = Arena::build(sizes.poison).await?;
    say("poison: warming up");
    arena.round(0, 0, sizes.poison).await?;
    let mut rounds: [Vec<Round>; 2] = Default::default();
    for number in 1..=sizes.rounds {
        // Each scene is the first as often as the other.
        let order = if number % 2 == 1 { [0, 1] } else { [1, 0] };
        for scene in order {
            say(&format!("poison, round {number} of {}: {}", sizes.rounds, TOPICS[scene]));
            machine::warn_if_busy(report);
            rounds[scene].push(arena.round(scene, number, sizes.poison).await?);
        }
    }
    tables(&rounds, sizes, report);
    arena.broker.stop().await?;
    drop(arena.client);
    arena.site.end().await
}

impl Arena {
    async fn build(events: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(key(0) == "user0", "the poisoned key is another");
        let site = Site::build().await?;
        let handlers = handlers(&site, "all", TOPICS[0])?;
        site.migrate(&handlers).await?;
        let broker = Apache::start(&site.path("kafka")).await?;
        site.topics(&handlers, &broker.addr).await?;
        broker.fill(TOPICS[0], events, |_| "probe.ok").await?;
        broker.fill(TOPICS[1], events, |n| if n % KEYS == 0 { "probe.fail" } else { "probe.ok" }).await?;
        let client = site.client().await?;
        Ok(Self { site, client, broker })
    }

    async fn round(&self, scene: usize, number: usize, events: u64) -> anyhow::Result<Round> {
        self.client.batch_execute(EMPTY).await?;
        self.client.batch_execute("CHECKPOINT").await?;
        let topic = TOPICS[scene];
        let handlers = handlers(&self.site, &format!("{topic}-{number}"), topic)?;
        let host = self.site.serve(&handlers, &self.broker.addr, "127.0.0.1:0").await?;
        let meter = Meter::start(Some(host.pid()?), self.site.postmaster()?)?;
        let others = events - events / KEYS;
        // Numbers of what was rolled back are drawn as well.
        drawn(&self.client, "probe.seen_seq_seq", others).await?;
        counted(&self.client, "probe.seen", OTHERS, others).await?;
        let cpu = meter.each(events as f64)?;
        let aside = "SELECT (SELECT count(*) FROM tidemill.waiting), (SELECT count(*) FROM tidemill.dead_letters)";
        let aside = self.client.query_one(aside, &[]).await?;
        let (waiting, dead): (i64, i64) = (aside.get(0), aside.get(1));
        host.stop().await?;
        anyhow::ensure!((waiting + dead > 0) == (scene == 1), "`{topic}`: {waiting} events wait, {dead} are dead");
        let committed = Committed::read(&self.client, "probe.seen", OTHERS).await?;
        anyhow::ensure!(committed.rows == others, "`{topic}`: {} rows of {others} events", committed.rows);
        Ok(Round { rate: committed.rate, cpu, waiting, dead })
    }
}

/// The probe as a consumer of one of the topics, in a group of its own.
fn handlers(site: &Site, group: &str, topic: &str) -> anyhow::Result<PathBuf> {
    let folder = site.handlers(group, &["probe"])?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/probe/migrations/0001_probe.sql");
    let migrations = site.path("migrations/probe");
    std::fs::create_dir_all(&migrations)?;
    std::fs::copy(&sources, migrations.join("0001_probe.sql")).with_context(|| format!("cannot copy {}", sources.display()))?;
    let declared = TOPICS.map(|topic| format!("[topics.\"{topic}\"]\npartitions = 3\nretention = \"1d\"\n\n")).concat();
    let manifest = format!(
        "name = \"probe\"\napp = \"probe\"\ncomponent = \"probe.wasm\"\nmigrations = \"../../migrations/probe\"\n\n\
         [[topic]]\nname = \"{topic}\"\ngroup = \"{group}\"\nstart = \"earliest\"\n\n\
         [publish]\ntopics = [\"probe.out\"]\n\n{declared}[sql]\n\n[jobs]\n"
    );
    std::fs::write(folder.join("probe/handler.toml"), manifest)?;
    Ok(folder)
}

fn tables(rounds: &[Vec<Round>; 2], sizes: &Sizes, report: &mut Report) {
    let rates = |of: usize| rounds[of].iter().map(|round| round.rate);
    report.line(&format!(
        "- the other keys, with the poison ÷ without it: **{}** (target: at least 0.95)",
        ratio(rates(1).zip(rates(0)))
    ));
    report.line(&format!(
        "\n{} events of {KEYS} keys wait in a topic of 3 partitions on Apache Kafka; the handler writes one row for each. All events of one \
         key fail, with the retries of the manifest's defaults. {} rounds, medians; only the rows of the other keys count.\n",
        grouped(sizes.poison as f64),
        sizes.rounds,
    ));
    let row = |(name, rounds): (&str, &Vec<Round>)| {
        let of = |pick: fn(&Round) -> f64| median(rounds.iter().map(pick));
        let rates = || rounds.iter().map(|round| round.rate);
        vec![
            name.to_owned(),
            grouped(of(|round| round.rate)),
            format!("{}–{}", grouped(rates().fold(f64::MAX, f64::min)), grouped(rates().fold(0.0, f64::max))),
            format!("{:.0}", of(|round| round.waiting as f64)),
            format!("{:.0}", of(|round| round.dead as f64)),
            format!("{:.0} µs", of(|round| round.cpu.server)),
            format!("{:.0} µs", of(|round| round.cpu.postgres)),
        ]
    };
    let rows: Vec<Vec<String>> = ["without the poison", "with it"].into_iter().zip(rounds).map(row).collect();
    let head = ["scene", "events of the other keys a second", "lowest–highest", "waiting", "dead", "CPU host", "CPU PostgreSQL"];
    report.table(&head, &rows);
}
