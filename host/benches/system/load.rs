//! The load generators: wrk for HTTP, pgbench for SQL.

use anyhow::{Context, bail};
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Connections or clients at once.
pub(crate) const CONNECTIONS: usize = 16;

/// What a load generator reports.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    /// Requests, or transactions, a second.
    pub(crate) rate: f64,
    /// How many there were.
    pub(crate) count: f64,
    /// Microseconds, where the generator tells them.
    pub(crate) p50: f64,
    /// Microseconds, where the generator tells them.
    pub(crate) p99: f64,
}

/// Sends requests over keep-alive connections. Any answer but a success, and any broken connection, is an error.
pub(crate) async fn wrk(url: &str, time: Duration, script: Option<&Path>) -> anyhow::Result<Load> {
    wrk_over(CONNECTIONS, url, time, script).await
}

/// The same over so many connections.
pub(crate) async fn wrk_over(connections: usize, url: &str, time: Duration, script: Option<&Path>) -> anyhow::Result<Load> {
    let mut command = Command::new("wrk");
    command.args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{}s", time.as_secs())]);
    if let Some(script) = script {
        command.arg("-s").arg(script);
    }
    let said = output(command.arg(url)).await?;
    if said.contains("Non-2xx") || said.contains("Socket errors") {
        bail!("not every request succeeded:\n{said}");
    }
    let find = |label: &str| said.lines().find_map(|line| line.trim().strip_prefix(label)).map(str::trim);
    let number = |text: Option<&str>| text.and_then(|text| text.split_whitespace().next()?.parse::<f64>().ok());
    let count = said.lines().find(|line| line.contains(" requests in ")).map(str::trim);
    let percentile = |label: &str| find(label).and_then(micros).with_context(|| format!("wrk says no {label}:\n{said}"));
    Ok(Load {
        rate: number(find("Requests/sec:")).with_context(|| format!("wrk says no rate:\n{said}"))?,
        count: number(count).with_context(|| format!("wrk says no count:\n{said}"))?,
        p50: percentile("50%")?,
        p99: percentile("99%")?,
    })
}

/// Runs a script of pgbench with prepared statements.
pub(crate) async fn pgbench(
    url: &str,
    options: &str,
    time: Duration,
    script: &Path,
    variables: &[(&str, &str)],
) -> anyhow::Result<Load> {
    let mut command = Command::new("pgbench");
    command.env("PGOPTIONS", options);
    command.args(["-n", "-M", "prepared", "-j1", &format!("-c{CONNECTIONS}"), &format!("-T{}", time.as_secs())]);
    for (name, value) in variables {
        command.arg("-D").arg(format!("{name}={value}"));
    }
    let said = output(command.arg("-f").arg(script).arg(url)).await?;
    let find = |label: &str| said.lines().find_map(|line| line.trim().strip_prefix(label));
    let number = |label: &str| {
        let word = find(label).and_then(|text| text.split([' ', '/']).find(|word| !word.is_empty()));
        word.and_then(|word| word.parse::<f64>().ok()).with_context(|| format!("pgbench says no `{label}`:\n{said}"))
    };
    let failed = number("number of failed transactions:")?;
    anyhow::ensure!(failed == 0.0, "{failed} transactions failed:\n{said}");
    Ok(Load {
        rate: number("tps =")?,
        count: number("number of transactions actually processed:")?,
        p50: f64::NAN,
        p99: f64::NAN,
    })
}

async fn output(command: &mut Command) -> anyhow::Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let ended = command
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {program}; `scripts/bench` installs it"))?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    if !ended.status.success() {
        bail!("{program} failed: {}\n{said}", String::from_utf8_lossy(&ended.stderr).trim());
    }
    Ok(said)
}

/// wrk's `1.23ms`, `870.00us` or `1.02s` as microseconds.
fn micros(text: &str) -> Option<f64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
    match unit {
        "us" => Some(number),
        "ms" => Some(number * 1e3),
        "s" => Some(number * 1e6),
        "m" => Some(number * 6e7),
        _ => None,
    }
}
