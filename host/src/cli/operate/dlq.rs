//! `tidemill dlq`: events that a group has given up.

use super::args::{self, Kind};
use super::show::{self, Columns, distance, key, or_nothing, time};
use crate::store::operate::{DeadLetter, Outcome, ReplayState, Report, Session};
use anyhow::Context;
use clap::{ArgMatches, Command};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How often the outcome of replays is asked for.
const POLL: Duration = Duration::from_millis(200);

pub(super) fn command() -> Command {
    let wait = args::duration("wait", "How long to wait for the outcomes; `0s`: only queue them").default_value("30s");
    Command::new("dlq")
        .about("Dead letters: events that a group has given up")
        .subcommand_required(true)
        .subcommand(args::list(
            "List them, oldest first; without --state those that are dead",
            Kind::Events,
            "Given up",
            &["dead", "queued", "replayed", "discarded", "all"],
        ))
        .subcommand(args::show("Show one whole: headers, value, error"))
        .subcommand(args::change("replay", "Hand them to their group once more", Kind::Events, "Given up").arg(wait))
        .subcommand(args::change("discard", "End them: nobody wants them replayed. Their rows stay", Kind::Events, "Given up"))
}

pub(super) async fn run(verb: &str, matches: &ArgMatches, session: &mut Session) -> anyhow::Result<()> {
    let json = args::is_set(matches, "json");
    match verb {
        "list" => show::page(&session.dead_letters(&args::filter(matches)).await?, json, "dead letters", "--after"),
        "show" => show::detail(&session.dead_letter(args::id(matches)).await?, json),
        "replay" => {
            let mut report = session.replay_dead_letters(&args::order(matches)?).await?;
            let wait = args::wait(matches);
            let waits = !report.dry_run && !wait.is_zero();
            let outcomes = if waits { await_outcomes(session, &mut report, wait).await } else { Ok(()) };
            // What is queued stays so, whatever happens while this waits.
            let shown = show::report(&report, json, if waits && outcomes.is_ok() { "replayed" } else { "queued for replay" });
            outcomes.context("what became of the replays cannot be asked for; `tidemill dlq list --state all` will say it")?;
            shown
        }
        _ => show::report(&session.discard_dead_letters(&args::order(matches)?).await?, json, "discarded"),
    }
}

/// Waits until every queued replay has ended, or the time is over, and puts what became of it into the report.
async fn await_outcomes(session: &Session, report: &mut Report<DeadLetter>, wait: Duration) -> anyhow::Result<()> {
    let queued = |row: &Outcome<DeadLetter>| matches!(row.outcome, "queued" | "already-queued");
    let ids: Vec<i64> = report.rows.iter().filter(|row| queued(row)).map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let deadline = Instant::now() + wait;
    let states = loop {
        let states = session.replay_states(&ids).await?;
        if states.iter().all(|state| state.waits.is_none()) || Instant::now() >= deadline {
            break states;
        }
        tokio::time::sleep(POLL).await;
    };
    let hosts = session.a_host_is_there().await?;
    let states: HashMap<i64, ReplayState> = states.into_iter().map(|state| (state.id, state)).collect();
    for row in report.rows.iter_mut().filter(|row| queued(row)) {
        let before = row.row.as_ref().map_or(0, |row| row.replays);
        if let Some(state) = states.get(&row.id) {
            (row.outcome, row.detail) = outcome(state, before, hosts);
            row.changed = row.outcome == "replayed";
            row.failed = !row.changed;
        }
    }
    report.count();
    Ok(())
}

/// What became of one, with why it still waits.
fn outcome(state: &ReplayState, replays_before: i32, hosts: bool) -> (&'static str, Option<String>) {
    let Some(waits) = state.waits.as_deref() else {
        return match state.state.as_str() {
            "replayed" => ("replayed", None),
            _ if state.replays > replays_before => ("failed-again", Some(format!("{}: {}", state.error_class, state.error))),
            _ => ("taken-back", Some("somebody has taken the replay back".to_owned())),
        };
    };
    let why = match waits {
        _ if !hosts => "no host is connected to this database: start one",
        "running" => "it is being run",
        "behind" => "earlier events of its key wait: see `tidemill waiting list`",
        "scheduled" => "it waits for another attempt",
        _ => "no host has taken it up: its group may have stopped, see /readyz of the hosts",
    };
    ("still-queued", Some(why.to_owned()))
}

impl Columns for DeadLetter {
    const NAMES: &'static [&'static str] = &["STATE", "AGE", "HANDLER", "TOPIC", "KEY", "TYPE", "REPLAYS", "ERROR"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.state.clone(),
            distance(self.died_at),
            self.handler.clone(),
            self.topic.clone(),
            key(&self.key),
            self.r#type.clone(),
            self.replays.to_string(),
            format!("{}: {}", self.error_class, self.error),
        ]
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("state", self.state.clone()),
            ("replays as", self.waiting.map(|id| format!("waiting event {id}")).unwrap_or_default()),
            ("handler", self.handler.clone()),
            ("group", self.group.clone()),
            ("record", format!("{} partition {} offset {}", self.topic, self.partition, self.offset)),
            ("record time", time(&self.record_time)),
            ("key", key(&self.key)),
            ("event", format!("{} from {}, type {}", self.event_id, self.source, self.r#type)),
            ("attempts", self.attempts.to_string()),
            ("failed replays", self.replays.to_string()),
            ("given up", self.died_at.to_string()),
            ("revision", or_nothing(&self.revision)),
            ("error class", self.error_class.clone()),
            ("error", self.error.clone()),
            ("ended", time(&self.ended_at)),
            ("ended by", or_nothing(&self.ended_by)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_that_still_waits_says_why() {
        let state = |state: &str, replays, waits: Option<&str>| ReplayState {
            id: 1,
            state: state.to_owned(),
            replays,
            error_class: "reject".to_owned(),
            error: "no".to_owned(),
            waits: waits.map(str::to_owned),
        };
        assert_eq!(outcome(&state("replayed", 1, None), 1, true).0, "replayed");
        assert_eq!(outcome(&state("dead", 2, None), 1, true), ("failed-again", Some("reject: no".to_owned())));
        assert_eq!(outcome(&state("dead", 1, None), 1, true).0, "taken-back");
        let why = |waits, hosts| outcome(&state("dead", 1, Some(waits)), 1, hosts).1.unwrap();
        assert!(why("ready", false).contains("no host is connected") && why("behind", true).contains("of its key"));
        assert!(why("ready", true).contains("/readyz"));
    }
}
