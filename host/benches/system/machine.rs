//! What the machine and its `/proc` say.

use crate::report::{Report, TIDEMILL};
use anyhow::Context;
use std::fs;
use std::io::Write;
use std::time::Instant;

/// Clock ticks of `/proc` a second: 100 on every Linux that the host runs on.
const TICKS: f64 = 100.0;

/// CPU seconds of one process.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<f64> {
    let [user, system, ..] = times(&format!("{pid}"))?;
    Ok((user + system) / TICKS)
}

/// CPU seconds of a process, its children, and those of its children that have ended.
pub(crate) fn cpu_of_family(pid: u32) -> anyhow::Result<f64> {
    let mut sum = times(&format!("{pid}"))?.iter().sum::<f64>() / TICKS;
    for child in fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?.split_whitespace() {
        // One may have ended since: then its parent counts it the next time.
        sum += child.parse().ok().and_then(|child| cpu(child).ok()).unwrap_or(0.0);
    }
    Ok(sum)
}

/// CPU seconds of this process's children that have ended.
pub(crate) fn cpu_of_ended_children() -> anyhow::Result<f64> {
    let [_, _, user, system] = times("self")?;
    Ok((user + system) / TICKS)
}

/// utime, stime, cutime, cstime.
fn times(pid: &str) -> anyhow::Result<[f64; 4]> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} has ended"))?;
    // The name in parentheses may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has another form")?;
    let fields: Vec<f64> = fields.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    fields.try_into().ok().context("/proc/PID/stat has another form")
}

/// Resident memory of a process, in MB.
pub(crate) fn resident(pid: u32) -> anyhow::Result<f64> {
    status(pid, "VmRSS:")
}

/// The most that it had resident since its start or since [`forget_peak`], in MB.
pub(crate) fn peak(pid: u32) -> anyhow::Result<f64> {
    status(pid, "VmHWM:")
}

/// Begins to look for the peak anew.
pub(crate) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    let file = format!("/proc/{pid}/clear_refs");
    fs::write(&file, "5").with_context(|| format!("cannot write {file}"))
}

fn status(pid: u32, name: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in /proc"))?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
}

/// Compilers beside the measurement make its figures worthless.
pub(crate) fn warn_if_busy(report: &mut Report) {
    let names = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("comm")).ok());
    if names.filter(|name| matches!(name.trim(), "rustc" | "cc1plus" | "clippy-driver")).count() > 0 {
        report.line("**A compiler runs beside this: the figures are worthless.**\n");
        crate::report::say("a compiler runs beside this: the figures are worthless");
    }
}

/// What the figures were measured on.
pub(crate) fn describe(report: &mut Report) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let size = fs::metadata(TIDEMILL)?.len() as f64 / 1e6;
    report.line(&format!(
        "{cores} cores ({model}) for everything: load generator, host, PostgreSQL, broker. A synced write of 8 kB takes {:.0} µs \
         (median). Release binary: {size:.1} MB.",
        synced_write()?
    ));
    let busy = busy_share()? * 100.0;
    report.line(&format!("Before the benchmark began, {busy:.0} % of the cores' time was used by something else."));
    warn_if_busy(report);
    Ok(())
}

/// How much of the cores' time is used, over a second in which this process does nothing.
fn busy_share() -> anyhow::Result<f64> {
    let read = || {
        let stat = fs::read_to_string("/proc/stat")?;
        let fields: Vec<f64> =
            stat.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
        // The fourth and fifth are idle time.
        anyhow::Ok((fields.iter().take(8).sum::<f64>(), fields.iter().skip(3).take(2).sum::<f64>()))
    };
    let (all, idle) = read()?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let (all_later, idle_later) = read()?;
    Ok(1.0 - (idle_later - idle) / (all_later - all))
}

/// The median time of write + fdatasync, in microseconds: what a commit waits for.
fn synced_write() -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile()?;
    let block = [7_u8; 8192];
    let mut times = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(crate::report::median(times))
}

/// Counts the CPU of a server, of PostgreSQL and of the load generator over a round.
#[derive(Debug)]
pub(crate) struct Meter {
    server: Option<u32>,
    postgres: u32,
    start: Spent,
}

/// CPU time, in seconds at first and in microseconds a request in the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spent {
    pub(crate) server: f64,
    pub(crate) postgres: f64,
    pub(crate) load: f64,
}

impl Meter {
    /// Begins to count. The load generator must start and end while this counts.
    pub(crate) fn start(server: Option<u32>, postgres: u32) -> anyhow::Result<Self> {
        let start = read(server, postgres)?;
        Ok(Self { server, postgres, start })
    }

    /// Microseconds for each of so many requests.
    pub(crate) fn each(&self, requests: f64) -> anyhow::Result<Spent> {
        let (now, start) = (read(self.server, self.postgres)?, self.start);
        let each = |from: f64, to: f64| (to - from) * 1e6 / requests;
        Ok(Spent {
            server: each(start.server, now.server),
            postgres: each(start.postgres, now.postgres),
            load: each(start.load, now.load),
        })
    }
}

fn read(server: Option<u32>, postgres: u32) -> anyhow::Result<Spent> {
    Ok(Spent {
        server: server.map(cpu).transpose()?.unwrap_or(0.0),
        postgres: cpu_of_family(postgres)?,
        load: cpu_of_ended_children()?,
    })
}
