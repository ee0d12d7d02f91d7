//! `tidemill waiting`, `dlq`, `outbox`, `jobs`, `actions`: what operators do, straight on the database, so that no host has to run.
//!
//! - `args`: the flags that these commands share; `show`: how rows are printed, for people and as JSON
//! - one file for each command

mod actions;
mod args;
mod dlq;
mod jobs;
mod outbox;
pub(super) mod show;
mod waiting;

use super::with_runtime;
use crate::config::{Command as Name, Config};
use crate::store::operate::{Actor, Operator, Session, Via};
use crate::store::{Pool, PoolOptions};
use clap::{ArgMatches, Command};

/// The variable with the operator's name.
const ACTOR: &str = "TIDEMILL_ACTOR";

/// The names of the commands.
pub(super) const NAMES: &[&str] = &["waiting", "dlq", "outbox", "jobs", "actions"];

/// The commands with their arguments.
pub(super) fn commands() -> [Command; 5] {
    [waiting::command(), dlq::command(), outbox::command(), jobs::command(), actions::command()]
}

/// Runs one of [`NAMES`].
pub(super) fn run(name: &str, matches: &ArgMatches) -> anyhow::Result<()> {
    let Some((verb, matches)) = matches.subcommand() else { anyhow::bail!("`tidemill {name}` needs a command; see --help") };
    with_runtime(Name::Operate, matches, async |config| {
        let mut session = open(&config).await?;
        match name {
            "waiting" => waiting::run(verb, matches, &mut session).await,
            "dlq" => dlq::run(verb, matches, &mut session).await,
            "outbox" => outbox::run(verb, matches, &mut session).await,
            "jobs" => jobs::run(verb, matches, &mut session).await,
            _ => actions::run(matches, &session).await,
        }
    })
}

async fn open(config: &Config) -> anyhow::Result<Session> {
    let options = PoolOptions { connections: 1, ..PoolOptions::default() };
    Ok(Operator::new(Pool::new(config.database_url()?.expose(), options)?).open().await?)
}

/// Who acts: `--as`, else the variable, else the user of this machine.
pub(super) fn actor(matches: &ArgMatches) -> anyhow::Result<Actor> {
    let named = matches.get_one::<String>("as").cloned();
    let named = named.or_else(|| std::env::var(ACTOR).ok().filter(|name| !name.trim().is_empty()));
    let name = named.unwrap_or_else(|| {
        let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        format!("{}@{}", user.unwrap_or_else(uid), host.trim())
    });
    Ok(Actor::new(&name, Via::Cli)?)
}

fn uid() -> String {
    let uid = std::fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own));
    uid.map_or("unknown".to_owned(), |uid| format!("uid {uid}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(line: &str) -> Result<ArgMatches, clap::Error> {
        crate::cli::command().try_get_matches_from(line.split(' '))
    }

    #[test]
    fn the_arguments_are_sound() {
        crate::cli::command().debug_assert();
    }

    #[test]
    fn changes_must_say_which_rows_they_mean() {
        for line in ["waiting retry", "waiting dead-letter", "dlq replay", "dlq discard", "outbox retry", "outbox discard"] {
            let error = given(&format!("tidemill {line} --yes")).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
            for which in ["7 9", "--key k", "--key-base64 aw==", "--since 2h", "--topic t", "--all"] {
                assert!(given(&format!("tidemill {line} {which}")).is_ok(), "{line} {which}");
            }
        }
    }

    #[test]
    fn changes_of_jobs_must_say_which() {
        for line in ["jobs cancel", "jobs run-now"] {
            assert_eq!(given(&format!("tidemill {line} --yes")).unwrap_err().exit_code(), 2, "{line}");
            for which in
                ["shop/a shop/b/c", "--app shop", "--handler h", "--prefix a/", "--due-before 2h", "--due-after 2h", "--all"]
            {
                assert!(given(&format!("tidemill {line} {which}")).is_ok(), "{line} {which}");
            }
        }
    }

    #[test]
    fn what_makes_no_sense_is_misuse() {
        let lines = [
            "dlq list --since yesterday",
            "dlq list x",
            "dlq list --key-base64 ?",
            "dlq show",
            "dlq list --limit 0",
            "outbox list --handler h",
            "dlq",
            "dlq replay 1 --wait 3",
            "dlq list --key a --key-base64 aw==",
            "jobs show 7",
            "jobs cancel shop",
            "jobs list --after 7",
            "jobs list --due-before soon",
            "jobs list --state late",
        ];
        for line in lines {
            assert_eq!(given(&format!("tidemill {line}")).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
