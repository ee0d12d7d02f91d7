//! `tidemill offsets`: how far consumer groups are, and where a paused partition goes on.

use super::actor;
use crate::config::{Command as Name, Config, KafkaAccess, args};
use crate::kafka::offsets::{Observer, TopicPartition};
use crate::kafka::reach;
use crate::store::{Generation, GenerationState, Pool, PoolOptions, Scopes, Target};
use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Serialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long brokers may take to answer at all.
const PATIENCE: Duration = Duration::from_secs(15);

pub(super) fn command() -> Command {
    let group = Arg::new("group").value_name("GROUP");
    let show = Command::new("show")
        .about("Show how far groups are in each partition")
        .arg(group.clone().help("Only this group; a generation of it is NAME.g2, NAME.g3, …"))
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("As JSON"));
    let reset = Command::new("reset")
        .about("Tell a group where to go on in a partition")
        .after_help(
            "The replica that has the partition follows within seconds: it ends the batch under way, commits the offset and reads on from there. \
             Events that the group has handled are known to the inbox and have no second effect.",
        )
        .arg(group.required(true).help("The group; a generation of it is NAME.g2, NAME.g3, …"))
        .arg(Arg::new("topic").long("topic").value_name("T").required(true).help("The topic"))
        .arg(Arg::new("partition").long("partition").value_name("P").required(true).value_parser(value_parser!(i32)).help("The partition"))
        .arg(Arg::new("to").long("to").value_name("earliest|latest|OFFSET").required(true).help("The oldest record, the next one, or this one"));
    Command::new("offsets")
        .about("How far consumer groups are, and where they go on")
        .subcommand_required(true)
        .subcommand(args(show, Name::Offsets))
        .subcommand(args(actor::args(reset), Name::Offsets))
}

/// Opens the scopes of the database that the settings name.
pub(super) fn scopes(config: &Config) -> anyhow::Result<Scopes> {
    let options = PoolOptions { connections: 1, ..PoolOptions::default() };
    Ok(Scopes::new(Pool::new(config.database_url()?.expose(), options)?))
}

/// How far a group is in a partition.
#[derive(Debug, Serialize)]
struct Standing {
    group: String,
    topic: String,
    partition: i32,
    committed: Option<i64>,
    low: i64,
    high: i64,
    lag: Option<i64>,
}

pub(super) async fn show(config: Config, matches: ArgMatches) -> anyhow::Result<()> {
    let kafka = config.kafka()?.clone();
    reach(&kafka, PATIENCE).await?;
    let scopes = scopes(&config)?;
    let mut generations = live(scopes.all().await?);
    if let Some(group) = matches.get_one::<String>("group") {
        generations = vec![find(&generations, group)?];
    }
    let mut standings = Vec::new();
    for generation in generations {
        let topics: BTreeSet<String> = scopes.starts(generation.scope).await?.into_keys().map(|(topic, _)| topic).collect();
        let (kafka, id) = (kafka.clone(), generation.group_id());
        standings.extend(tokio::task::spawn_blocking(move || standing(&kafka, &id, &topics)).await??);
    }
    match matches.get_flag("json") {
        true => println!("{}", serde_json::to_string_pretty(&standings)?),
        false => print(&standings),
    }
    Ok(())
}

fn standing(kafka: &KafkaAccess, group: &str, topics: &BTreeSet<String>) -> anyhow::Result<Vec<Standing>> {
    let observer = Observer::new(kafka, group)?;
    let away = || format!("the brokers at {} do not answer; check TIDEMILL_KAFKA_BROKERS and that they run", kafka.brokers);
    let mut standings = Vec::new();
    for topic in topics {
        let partitions = observer.partitions(topic).with_context(away)?;
        let committed = observer.committed(&partitions).with_context(away)?;
        for name in partitions {
            let (low, high) = observer.watermarks(&name).with_context(away)?;
            let committed = committed.get(&name).copied();
            let lag = committed.map(|committed| high - committed);
            standings.push(Standing { group: group.to_owned(), topic: name.0, partition: name.1, committed, low, high, lag });
        }
    }
    Ok(standings)
}

fn print(standings: &[Standing]) {
    let text = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let mut rows = vec![["group", "topic", "partition", "committed", "low", "high", "lag"].map(str::to_owned)];
    rows.extend(standings.iter().map(|s| {
        let (committed, lag) = (text(s.committed), text(s.lag));
        [s.group.clone(), s.topic.clone(), s.partition.to_string(), committed, s.low.to_string(), s.high.to_string(), lag]
    }));
    table(&rows);
}

/// Prints rows in columns as wide as their widest cell.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        println!("{}", cells.join("  ").trim_end());
    }
}

pub(super) async fn reset(config: Config, matches: ArgMatches) -> anyhow::Result<()> {
    let need = |name: &str| matches.get_one::<String>(name).cloned().unwrap_or_default();
    let target: Target = need("to").parse().map_err(|error| anyhow::anyhow!("--to: {error}"))?;
    let place: TopicPartition = (need("topic"), matches.get_one::<i32>("partition").copied().unwrap_or_default());
    let scopes = scopes(&config)?;
    let generation = find(&live(scopes.all().await?), &need("group"))?;
    let starts = scopes.starts(generation.scope).await?;
    anyhow::ensure!(
        starts.contains_key(&place),
        "group `{}` has never read {}[{}]; it reads {}",
        generation.group_id(),
        place.0,
        place.1,
        starts.keys().map(|(topic, partition)| format!("{topic}[{partition}]")).collect::<Vec<_>>().join(", ")
    );
    let what = format!("group `{}` goes on in {}[{}] at {target}", generation.group_id(), place.0, place.1);
    if !actor::meant(&matches) {
        println!("would be told: {what}; nothing was changed, --yes does it");
        return Ok(());
    }
    scopes.order(&generation, &place, target, &actor::actor(&matches)).await?;
    println!("told: {what}, as soon as a replica that has the partition hears of it (seconds)");
    Ok(())
}

fn live(generations: Vec<Generation>) -> Vec<Generation> {
    generations.into_iter().filter(|generation| generation.state != GenerationState::Retired).collect()
}

/// The generation of a name at the brokers, or the current one of a group.
fn find(generations: &[Generation], name: &str) -> anyhow::Result<Generation> {
    let exact = generations.iter().find(|generation| generation.group_id() == name);
    let current =
        || generations.iter().find(|generation| generation.group == name && generation.state == GenerationState::Current);
    let known = || generations.iter().map(|generation| format!("`{}`", generation.group_id())).collect::<Vec<_>>().join(", ");
    exact.or_else(current).cloned().with_context(|| format!("there is no consumer group `{name}`; there are {}", known()))
}
