//! `tidemill reprocess`: lets a handler read its topics anew, beside what it does, until it has caught up.

use super::actor;
use super::offsets::{scopes, table};
use crate::config::{Command as Name, Config, args};
use crate::store::{Generation, GenerationState, Scopes};
use anyhow::{Context, bail, ensure};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};

pub(super) fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let command = Command::new("reprocess")
        .about("Let a handler read its topics anew")
        .after_help(
            "A new generation of the consumer group reads from the given time on, each event once, while the current one goes on. When it has \
             caught up it takes the current one's place; events that arrive around that moment may be handled by both. Handlers that keep a \
             projection of events should have it emptied first, or write it so that handling an event again changes nothing.",
        )
        .arg(Arg::new("handler").value_name("HANDLER").required_unless_present("list").help("The handler"))
        .arg(Arg::new("group").long("group").value_name("G").help("Its consumer group, if it has several"))
        .arg(Arg::new("from").long("from").value_name("TIME").help("Begin with the first record at or after this time, such as 2026-01-31T00:00:00Z"))
        .arg(flag("earliest", "Begin with the oldest record"))
        .arg(flag("cancel", "End the generation that is building"))
        .arg(flag("list", "Show all generations"))
        .group(ArgGroup::new("what").args(["from", "earliest", "cancel", "list"]).required(true));
    args(actor::args(command), Name::Reprocess)
}

pub(super) async fn run(config: Config, matches: ArgMatches) -> anyhow::Result<()> {
    let scopes = scopes(&config)?;
    let handler = matches.get_one::<String>("handler").map(String::as_str);
    let generations = scopes.all().await?;
    if matches.get_flag("list") {
        list(generations.into_iter().filter(|generation| handler.is_none_or(|handler| generation.handler == handler)));
        return Ok(());
    }
    let group = group(&generations, handler.unwrap_or_default(), matches.get_one::<String>("group").map(String::as_str))?;
    let building = generations.iter().find(|other| other.group == group.group && other.state == GenerationState::Building);
    match matches.get_flag("cancel") {
        true => cancel(&scopes, group, building, &matches).await,
        false => start(&scopes, group, building, &generations, &matches).await,
    }
}

async fn start(
    scopes: &Scopes,
    current: &Generation,
    building: Option<&Generation>,
    all: &[Generation],
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    let begins_at = matches.get_one::<String>("from").map(|text| time(text)).transpose()?;
    let refused = |generation: &Generation| {
        let (group, number) = (&generation.group, generation.number);
        anyhow::anyhow!("generation {number} of group `{group}` is building already; wait for it, or end it with --cancel")
    };
    if let Some(building) = building {
        return Err(refused(building));
    }
    let number = all.iter().filter(|other| other.group == current.group).map(|other| other.number).max().unwrap_or(0) + 1;
    let from = matches
        .get_one::<String>("from")
        .map_or_else(|| "the oldest record".to_owned(), |time| format!("the first record at or after {time}"));
    let (group, handler) = (&current.group, &current.handler);
    if !actor::meant(matches) {
        println!(
            "handler `{handler}` would read what group `{group}` reads anew, from {from} on, as generation {number} beside the current one; \
             nothing was changed, --yes does it"
        );
        return Ok(());
    }
    match scopes.rebuild(group, begins_at, &actor::actor(matches)).await? {
        Some(made) => {
            println!(
                "generation {} of group `{group}` (`{}` at the brokers) begins within seconds, from {from} on; see `tidemill reprocess --list` and \
                 `tidemill offsets show`",
                made.number,
                made.group_id()
            );
            Ok(())
        }
        None => bail!("another generation of group `{group}` was begun just now; see `tidemill reprocess --list`"),
    }
}

async fn cancel(
    scopes: &Scopes,
    current: &Generation,
    building: Option<&Generation>,
    matches: &ArgMatches,
) -> anyhow::Result<()> {
    let group = &current.group;
    let Some(building) = building else { bail!("no generation of group `{group}` is building") };
    if !actor::meant(matches) {
        println!("generation {} of group `{group}` would be ended; nothing was changed, --yes does it", building.number);
        return Ok(());
    }
    match scopes.cancel(group, &actor::actor(matches)).await? {
        Some(number) => println!("generation {number} of group `{group}` is ended; what it has done stays"),
        None => bail!("generation {} of group `{group}` has taken over just now", building.number),
    }
    Ok(())
}

/// The current generation of the group that is meant.
fn group<'a>(generations: &'a [Generation], handler: &str, group: Option<&str>) -> anyhow::Result<&'a Generation> {
    let current = || generations.iter().filter(|generation| generation.state == GenerationState::Current);
    let of_handler: Vec<&Generation> = current().filter(|generation| generation.handler == handler).collect();
    let names = |generations: &[&Generation]| generations.iter().map(|g| format!("`{}`", g.group)).collect::<Vec<_>>().join(", ");
    if of_handler.is_empty() {
        let known: Vec<String> = current().map(|generation| format!("`{}`", generation.handler)).collect();
        bail!("no consumer group of a handler `{handler}` is known; there are groups of {}", known.join(", "));
    }
    match group {
        Some(group) => {
            let found = of_handler.iter().find(|generation| generation.group == group).copied();
            found.with_context(|| format!("handler `{handler}` has no group `{group}`, but {}", names(&of_handler)))
        }
        None => {
            ensure!(of_handler.len() == 1, "handler `{handler}` has the groups {}; name one with --group", names(&of_handler));
            Ok(of_handler[0])
        }
    }
}

fn time(text: &str) -> anyhow::Result<i64> {
    let time: jiff::Timestamp =
        text.parse().map_err(|error| anyhow::anyhow!("--from: `{text}` is no time such as 2026-01-31T00:00:00Z: {error}"))?;
    ensure!(time <= jiff::Timestamp::now(), "--from: {text} is in the future");
    Ok(time.as_millisecond())
}

fn list(generations: impl Iterator<Item = Generation>) {
    let heading = ["group", "generation", "at the brokers", "state", "handler", "from", "begun", "ended"].map(str::to_owned);
    let row = |generation: Generation| {
        let state = match generation.state {
            GenerationState::Current => "current",
            GenerationState::Building => "building",
            GenerationState::Retired => "retired",
        };
        let from = generation.begins_at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let id = generation.group_id();
        [
            generation.group,
            generation.number.to_string(),
            id,
            state.to_owned(),
            generation.handler,
            from.map_or_else(|| "-".to_owned(), |time| time.to_string()),
            generation.created_at,
            generation.ended_at.unwrap_or_else(|| "-".to_owned()),
        ]
    };
    let rows: Vec<_> = std::iter::once(heading).chain(generations.map(row)).collect();
    table(&rows);
}
