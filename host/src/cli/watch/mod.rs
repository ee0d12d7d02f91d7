//! `tidemill dev --watch`: whatever is saved is built and takes the place of what runs. What does not build changes nothing.
//!
//! - `files`: what the handlers are made of, and whether it has changed
//! - `watched`: waiting for the next save
//! - `swap`: new revisions in the place of those that run

mod files;
mod swap;
mod watched;

use super::build::{self, Leash, Source};
use super::plan::Plan;
use crate::config::Config;
use crate::fleet::DeployError;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
pub(super) use swap::{Swap, Swapped};
pub(super) use watched::Watched;

/// How often a swap is tried again that failed for something that passes, and after which time.
const TRIES: u32 = 10;
const AGAIN: Duration = Duration::from_secs(1);

/// Builds and reads what there is, once; the compiler speaks to the terminal.
pub(super) async fn once(watched: &Watched, config: &Config) -> anyhow::Result<Plan> {
    build(watched.sources()?).await?;
    Plan::load(config.handlers()?, config.installation())
}

/// Says what keeps the handlers from a start, waits for a save, and builds and reads them again, until that succeeds.
pub(super) async fn until_mended(watched: &mut Watched, config: &Config, mut error: anyhow::Error) -> Plan {
    loop {
        println!("{error:#}\nwaiting for a save that mends it");
        watched.saved().await;
        match once(watched, config).await {
            Ok(plan) => return plan,
            Err(other) => error = other,
        }
    }
}

/// Watches, builds and swaps until it is dropped.
pub(super) async fn run(mut watched: Watched, mut swap: Swap) {
    println!("watching {} and what its handlers are made of", watched.folder().display());
    loop {
        let saved = watched.saved().await;
        let mut tries = 0;
        loop {
            match turn(&watched, &mut swap).await {
                Ok(turn) => turn.print(saved),
                Err(error) if passes(&error) && tries < TRIES => {
                    println!("{error:#}; trying again");
                    tries += 1;
                    tokio::time::sleep(AGAIN).await;
                    watched.read();
                    continue;
                }
                Err(error) => println!("{error:#}\nwhat ran goes on"),
            }
            break;
        }
    }
}

/// Whether the same may well succeed a moment later.
fn passes(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(DeployError::may_pass)
}

/// What came of a save.
struct Turn {
    swapped: Vec<Swapped>,
    built: Duration,
    /// Until every replica, here the one, had compiled the component to machine code and linked it.
    prepared: Duration,
}

impl Turn {
    fn print(&self, saved: Instant) {
        let (all, built, prepared) = (saved.elapsed().as_secs_f32(), self.built.as_secs_f32(), self.prepared.as_secs_f32());
        for swapped in &self.swapped {
            println!("{swapped} in {all:.1} s ({built:.1} s to build, {prepared:.1} s to prepare)");
        }
    }
}

async fn turn(watched: &Watched, swap: &mut Swap) -> anyhow::Result<Turn> {
    let sources = watched.sources()?;
    let names: BTreeSet<String> = sources.iter().map(|source| source.name.clone()).collect();
    let begun = Instant::now();
    build(sources).await?;
    let built = begun.elapsed();
    let (swapped, prepared) = swap.swap(&names).await?;
    Ok(Turn { swapped, built, prepared })
}

/// Builds; if nobody waits for it any more, the compiler ends.
async fn build(sources: Vec<Source>) -> anyhow::Result<()> {
    let leash = Leash::default();
    let _hand = leash.hand();
    let options = build::Options { release: false, show: true, leash: Some(leash) };
    tokio::task::spawn_blocking(move || build::build(&sources, &options).map(drop)).await?
}
