//! The benchmark of the whole system, run by `scripts/bench`; `docs/benchmarks.md` says what each figure means.
//!
//! - `create`: task create through WASM, beside native twins and pgbench with the same statements
//! - `empty`: a request without the database, beside a native route
//! - `audit`: HTTP request → committed audit row, at a steady rate
//! - `relay`: a million waiting events, alone and beside a long transaction
//! - `topic`: audit from a full topic of Apache Kafka, beside a native loop and beside one event a unit
//! - `poison`: the other keys beside a poisoned one
//! - `memory`: what the host has resident while a million events wait
//! - `jobs`: due jobs a second and how late they are, beside few waiting ones and very many; what scheduling adds to a request
//! - `list`: a user's tasks among few others' and very many
//! - `deploys`: a deploy every second under load; switches over three replicas; fifty handlers; the first call after a switch
//! - `kafka`, `committed`: Apache Kafka with full topics; how fast rows were committed
//! - `site`, `process`, `load`, `machine`: a private installation, its processes, the load generators, what /proc says
//! - `twin`: the native twins, in a process of their own (this program, started with another argument)
//! - `report`: the tables
//!
//! Everything runs on loopback in a temporary folder and ends with the benchmark. Figures are compared within one run only.

mod audit;
mod committed;
mod create;
mod deploys;
mod empty;
mod jobs;
mod kafka;
mod list;
mod load;
mod machine;
mod memory;
mod poison;
mod process;
mod relay;
mod report;
mod site;
mod topic;
mod twin;

use anyhow::bail;
use report::Report;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "usage: scripts/bench [create|empty|audit|relay|topic|poison|memory|jobs|list|deploys|all] [--quick]";

/// How long everything takes: the real sizes, or just enough to see that it works.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) create: Duration,
    pub(crate) empty: Duration,
    pub(crate) audit: Duration,
    pub(crate) events: u64,
    pub(crate) one_by_one: usize,
    /// Events in the topic that audit reads, in how many rounds (one takes seconds, and what else runs shows in it), and how many of them are
    /// enough one by one.
    pub(crate) topic: u64,
    pub(crate) topic_rounds: usize,
    pub(crate) singles: u64,
    /// Events in each topic of `poison`.
    pub(crate) poison: u64,
    /// Events that wait, and how long the host is watched then.
    pub(crate) waiting: u64,
    pub(crate) watch: Duration,
    /// Jobs that are due at once, and how many wait beside them.
    pub(crate) jobs_due: u64,
    pub(crate) jobs_few: u64,
    pub(crate) jobs_many: u64,
    /// Tasks in the table.
    pub(crate) tasks_few: u64,
    pub(crate) tasks_many: u64,
    /// Of load without deploys, and of load with one every second.
    pub(crate) deploys: Duration,
}

const FULL: Sizes = Sizes {
    rounds: 3,
    warm_up: Duration::from_secs(2),
    create: Duration::from_secs(8),
    empty: Duration::from_secs(4),
    audit: Duration::from_secs(20),
    events: 1_000_000,
    one_by_one: 1_000,
    topic: 300_000,
    topic_rounds: 9,
    singles: 15_000,
    poison: 200_000,
    waiting: 1_000_000,
    watch: Duration::from_secs(10),
    jobs_due: 100_000,
    jobs_few: 10_000,
    jobs_many: 10_000_000,
    tasks_few: 10_000,
    tasks_many: 10_000_000,
    deploys: Duration::from_secs(30),
};

const QUICK: Sizes = Sizes {
    rounds: 1,
    warm_up: Duration::from_secs(1),
    create: Duration::from_secs(2),
    empty: Duration::from_secs(1),
    audit: Duration::from_secs(3),
    events: 50_000,
    one_by_one: 100,
    topic: 30_000,
    topic_rounds: 1,
    singles: 2_000,
    poison: 10_000,
    waiting: 100_000,
    watch: Duration::from_secs(3),
    jobs_due: 10_000,
    jobs_few: 1_000,
    jobs_many: 100_000,
    tasks_few: 1_000,
    tasks_many: 100_000,
    deploys: Duration::from_secs(6),
};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let ran = match arguments.first().map(String::as_str) {
        Some("twin") => runtime().and_then(|runtime| runtime.block_on(twin::serve(arguments.get(1).map_or("", String::as_str)))),
        Some("consumer") => runtime().and_then(|runtime| runtime.block_on(topic::native::consume())),
        // `cargo test --benches` starts this too, without `--bench`: measuring is not testing.
        _ if !arguments.iter().any(|argument| argument == "--bench") => Ok(()),
        _ => runtime().and_then(|runtime| runtime.block_on(run(&arguments))),
    };
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

async fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (mut part, mut sizes) = ("all", FULL);
    for argument in arguments {
        match argument.as_str() {
            "--bench" => {}
            "--quick" => sizes = QUICK,
            "create" | "empty" | "audit" | "relay" | "topic" | "poison" | "memory" | "jobs" | "list" | "deploys" | "all" => {
                part = argument
            }
            other => bail!("unknown argument `{other}`; {USAGE}"),
        }
    }
    let mut report = Report::default();
    tokio::select! {
        measured = measure(part, &sizes, &mut report) => measured?,
        // Dropping what runs ends every process and removes every folder.
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    }
    report.write()
}

async fn measure(part: &str, sizes: &Sizes, report: &mut Report) -> anyhow::Result<()> {
    let wanted = |name: &str| part == name || part == "all";
    machine::describe(report)?;
    if wanted("create") || wanted("empty") {
        let arena = create::Arena::build().await?;
        if wanted("create") {
            create::measure(&arena, sizes, report).await?;
        }
        if wanted("empty") {
            empty::measure(&arena, sizes, report).await?;
        }
        arena.end().await?;
    }
    if wanted("audit") {
        audit::measure(sizes, report).await?;
    }
    if wanted("relay") {
        relay::measure(sizes, report).await?;
    }
    if wanted("topic") {
        topic::measure(sizes, report).await?;
    }
    if wanted("poison") {
        poison::measure(sizes, report).await?;
    }
    if wanted("memory") {
        memory::measure(sizes, report).await?;
    }
    if wanted("jobs") {
        jobs::measure(sizes, report).await?;
    }
    if wanted("list") {
        list::measure(sizes, report).await?;
    }
    if wanted("deploys") {
        deploys::measure(sizes, report).await?;
    }
    Ok(())
}
