//! `tidemill dev --watch`: whatever is saved is built and takes the place of what runs. What does not build changes nothing.
//!
//! - `files`: what the handlers are made of, and whether it has changed
//! - `swap`: new revisions in the place of those that run

mod files;
mod swap;

use super::build::{self, Source};
use files::Files;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub(super) use swap::{Swap, Swapped};

/// How often the files are looked at. A look at a hundred files takes a tenth of a millisecond.
const ROUND: Duration = Duration::from_millis(30);
/// Editors and tools save in several steps: nothing is built before two looks so far apart were the same.
const QUIET: Duration = Duration::from_millis(15);

/// Builds every handler below a folder, before the first start. The compiler speaks to the terminal.
pub(super) async fn build_all(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || build(&Source::below(&folder)?)).await?
}

/// Watches, builds and swaps until it is dropped.
pub(super) async fn run(mut swap: Swap) {
    let folder = swap.folder.clone();
    let mut watched = Watched::read(folder.clone());
    let mut seen = watched.files.look();
    println!("watching {} and what its handlers are made of", folder.display());
    loop {
        tokio::time::sleep(ROUND).await;
        let mut now = watched.files.look();
        if now == seen {
            continue;
        }
        let saved = Instant::now();
        loop {
            tokio::time::sleep(QUIET).await;
            let again = watched.files.look();
            if again == now {
                break;
            }
            now = again;
        }
        if files::names_what_is_made_of_what(&seen, &now) {
            watched = Watched::read(folder.clone());
            now = watched.files.look();
        }
        seen = now;
        match turn(&watched, &mut swap).await {
            Ok(turn) => turn
                .swapped
                .iter()
                .for_each(|swapped| println!("{swapped} in {:.1} s{}", saved.elapsed().as_secs_f32(), turn.times())),
            Err(error) => println!("{error:#}\nwhat ran goes on"),
        }
    }
}

/// What is watched.
struct Watched {
    /// Or why they cannot be built.
    sources: anyhow::Result<Vec<Source>>,
    files: Files,
}

impl Watched {
    fn read(folder: PathBuf) -> Self {
        let sources = Source::below(&folder);
        let known: &[Source] = sources.as_deref().unwrap_or_default();
        Self { files: Files::of(&folder, known), sources }
    }
}

/// What came of a save.
struct Turn {
    swapped: Vec<Swapped>,
    built: Duration,
    /// Until every replica, here the one, had compiled the component to machine code and linked it.
    prepared: Duration,
}

impl Turn {
    fn times(&self) -> String {
        format!(" ({:.1} s to build, {:.1} s to prepare)", self.built.as_secs_f32(), self.prepared.as_secs_f32())
    }
}

async fn turn(watched: &Watched, swap: &mut Swap) -> anyhow::Result<Turn> {
    let sources = match &watched.sources {
        Ok(sources) => sources.clone(),
        Err(error) => anyhow::bail!("{error:#}"),
    };
    let begun = Instant::now();
    tokio::task::spawn_blocking(move || build(&sources)).await??;
    let built = begun.elapsed();
    let (swapped, prepared) = swap.swap().await?;
    Ok(Turn { swapped, built, prepared })
}

fn build(sources: &[Source]) -> anyhow::Result<()> {
    build::build(sources, build::Options { release: false, show: true }).map(drop)
}
