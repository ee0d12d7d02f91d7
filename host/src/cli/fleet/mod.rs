//! `tidemill deploy`, `rollback`, `undeploy`, `pause`, `resume`, `ps`, `revisions`, `diff`: what runs, and changing it. All of them work on the
//! database, so they work whether hosts run or not.
//!
//! - `change`: what changes something, and what is printed of it; `look`: what only looks

mod change;
mod look;

use super::operate::show;
use super::with_runtime;
use crate::config::{self, Command as Name, Config};
use crate::store::{Pool, PoolOptions};
use clap::{Arg, ArgAction, ArgMatches, Command};

/// The names of the commands.
pub(super) const NAMES: &[&str] = &["deploy", "rollback", "undeploy", "pause", "resume", "ps", "revisions", "diff"];

/// The commands with their arguments.
pub(super) fn commands() -> Vec<Command> {
    [change::commands(), look::commands()].concat()
}

/// Runs one of [`NAMES`].
pub(super) fn run(name: &str, matches: &ArgMatches) -> anyhow::Result<()> {
    match name {
        "ps" | "revisions" | "diff" => with_runtime(Name::Fleet, matches, |config| look::run(name, matches, config)),
        "deploy" | "rollback" => with_runtime(Name::Deploy, matches, |config| change::run(name, matches, config)),
        _ => with_runtime(Name::Fleet, matches, |config| change::run(name, matches, config)),
    }
}

fn pool(config: &Config) -> anyhow::Result<Pool> {
    Pool::new(config.database_url()?.expose(), PoolOptions { connections: 4, ..PoolOptions::default() })
}

/// What all of these commands have.
fn finished(command: Command, name: Name) -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print one JSON document");
    config::args(command.arg(json), name)
}

fn handler(help: &'static str) -> Arg {
    Arg::new("handler").value_name("HANDLER").help(help)
}

fn json(matches: &ArgMatches) -> bool {
    matches.get_flag("json")
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map_or("", String::as_str)
}
