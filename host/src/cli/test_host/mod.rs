//! `tidemill test-host`: handlers for their tests, in the real engine on a private PostgreSQL, without a broker. `tidemill-test` starts it and
//! speaks to it over standard input and output, so it needs no port and ends when the tests do.
//!
//! - `scratch`: the server, its folder, and a prepared database for each set of handlers
//! - `world`: one test's database, engine and handlers

mod scratch;
mod world;

use super::build::{self, Source};
use super::host::Signals;
use anyhow::Context;
use clap::{Arg, ArgMatches, Command, value_parser};
use scratch::Scratch;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tidemill_test::wire::{Call, Hello, Order, PROTOCOL, Reply};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use world::World;

pub(super) fn command() -> Command {
    Command::new("test-host")
        .about("Run handlers for their tests; the crate tidemill-test starts it")
        .after_help("It reads orders from its standard input, one JSON object a line, and ends with it.")
        .arg(
            Arg::new("cache")
                .long("cache")
                .value_name("DIR")
                .value_parser(value_parser!(PathBuf))
                .help("Where compiled components are kept between runs"),
        )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("TIDEMILL_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(serve(matches.get_one::<PathBuf>("cache").cloned()));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

async fn serve(cache: Option<PathBuf>) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let scratch = Arc::new(Scratch::start(cache).await?);
    let house = Arc::new(House {
        scratch: scratch.clone(),
        worlds: tokio::sync::RwLock::default(),
        built: tokio::sync::Mutex::default(),
    });
    let out = Arc::new(Mutex::new(std::io::stdout()));
    say(&out, &Hello { tidemill: env!("CARGO_PKG_VERSION").to_owned(), protocol: PROTOCOL });
    let mut calls = read();
    loop {
        let call = tokio::select! {
            call = calls.recv() => call,
            () = signals.wait() => None,
        };
        let Some(call) = call else { break };
        let (house, out) = (house.clone(), out.clone());
        tokio::spawn(async move {
            let result = house.obey(call.id, call.host, call.order).await.map_err(|error| format!("{error:#}"));
            say(&out, &Reply { id: call.id, result });
        });
    }
    scratch.stop().await
}

/// The calls of standard input, from a thread of their own.
fn read() -> mpsc::UnboundedReceiver<Call> {
    let (arrived, calls) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match serde_json::from_str(&line) {
                Ok(call) => match arrived.send(call) {
                    Ok(()) => {}
                    Err(_) => return,
                },
                Err(error) => {
                    tracing::error!(%error, "a line of the standard input is no call; it is for the crate tidemill-test")
                }
            }
        }
    });
    calls
}

fn say(out: &Mutex<std::io::Stdout>, line: &impl serde::Serialize) {
    let mut out = crate::telemetry::lock(out);
    // Nobody listens any more: the end of the input comes as well.
    let _ = serde_json::to_writer(&mut *out, line)
        .map_err(std::io::Error::from)
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
}

/// All hosts of a test process.
struct House {
    scratch: Arc<Scratch>,
    worlds: tokio::sync::RwLock<BTreeMap<u64, Arc<World>>>,
    /// Folders whose components this process has built.
    built: tokio::sync::Mutex<HashSet<PathBuf>>,
}

impl House {
    async fn obey(&self, id: u64, host: u64, order: Order) -> anyhow::Result<Value> {
        if let Order::Open { folders, build } = order {
            if build {
                self.build(&folders).await?;
            }
            let world = World::open(&self.scratch, &folders, id).await?;
            self.worlds.write().await.insert(id, Arc::new(world));
            return Ok(id.into());
        }
        if matches!(order, Order::Close) {
            if let Some(world) = self.worlds.write().await.remove(&host) {
                self.scratch.remove(world.database()).await?;
            }
            return Ok(Value::Null);
        }
        let world = self.worlds.read().await.get(&host).cloned().context("this host has been closed")?;
        world.obey(order).await
    }

    /// Builds what no test of this process has built yet.
    async fn build(&self, folders: &[PathBuf]) -> anyhow::Result<()> {
        let mut built = self.built.lock().await;
        let mut sources = Vec::new();
        for folder in folders.iter().filter(|folder| !built.contains(*folder)) {
            sources.extend(Source::below(folder)?);
        }
        if !sources.is_empty() {
            tokio::task::spawn_blocking(move || build::build(&sources, &build::Options::default())).await??;
        }
        built.extend(folders.iter().cloned());
        Ok(())
    }
}
