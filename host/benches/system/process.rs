//! A process that serves until it is stopped.

use anyhow::{Context, bail};
use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long a process may take to be ready: a first start compiles the components.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that said `ready key=value …`. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    said: HashMap<String, String>,
    /// How long it took to be ready.
    pub(crate) took: Duration,
}

impl Process {
    /// Starts a program and waits for its `ready` line. Its log goes to a file, whose end is shown if it fails.
    pub(crate) async fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let started = Instant::now();
        let file = std::fs::File::create(log)?;
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let ready = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(said) = line.strip_prefix("ready ") {
                    let pairs = said.split_whitespace().filter_map(|pair| pair.split_once('='));
                    return Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
                }
            }
            bail!("it ended before it was ready")
        };
        let said = match tokio::time::timeout(PATIENCE, ready).await {
            Ok(Ok(said)) => said,
            Ok(Err(error)) => return Err(error.context(end_of(log))),
            Err(_) => bail!("not ready after {PATIENCE:?}; {}", end_of(log)),
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { child, said, took: started.elapsed() })
    }

    /// A value of the `ready` line.
    pub(crate) fn said(&self, name: &str) -> anyhow::Result<&str> {
        self.said.get(name).map(String::as_str).with_context(|| format!("the ready line has no `{name}`"))
    }

    /// The process's id.
    pub(crate) fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Ends it with SIGTERM and waits.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.pid()?.to_string();
        Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().await?;
        match tokio::time::timeout(Duration::from_secs(30), self.child.wait()).await {
            Ok(status) => drop(status?),
            Err(_) => self.child.kill().await?,
        }
        Ok(())
    }
}

fn end_of(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    format!("the end of its log:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
}
