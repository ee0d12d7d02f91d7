//! `tidemill waiting`: events that wait in the database for a retry, or behind an earlier one of their key.

use super::args::{self, Kind};
use super::show::{self, Columns, distance, key, or_nothing, time};
use crate::store::operate::{DeadLetterNow, Session, WaitingEvent};
use clap::{ArgMatches, Command};

pub(super) fn command() -> Command {
    let reason = args::text("reason", "TEXT", "Why, for the dead letter");
    Command::new("waiting")
        .about("Events that wait for a retry, or behind an earlier one of their key")
        .subcommand_required(true)
        .subcommand(args::list("List them, oldest first", Kind::Events, "Parked", &["ready", "scheduled", "running", "behind"]))
        .subcommand(args::show("Show one whole: headers, value, error"))
        .subcommand(args::change("retry", "Run them now instead of when they are due", Kind::Events, "Parked"))
        .subcommand(
            args::change(
                "dead-letter",
                "Give them up: they become dead letters, and what waits behind them goes on",
                Kind::Events,
                "Parked",
            )
            .arg(reason),
        )
}

pub(super) async fn run(verb: &str, matches: &ArgMatches, session: &mut Session) -> anyhow::Result<()> {
    let json = args::is_set(matches, "json");
    match verb {
        "list" => show::page(&session.waiting(&args::filter(matches)).await?, json, "events wait", "--after"),
        "show" => show::detail(&session.waiting_event(args::id(matches)).await?, json),
        "retry" => show::report(&session.retry_waiting(&args::order(matches)?).await?, json, "run at once"),
        _ => {
            let how = DeadLetterNow { reason: args::optional(matches, "reason") };
            show::report(&session.dead_letter_waiting(&args::order(matches)?, &how).await?, json, "dead letters")
        }
    }
}

impl Columns for WaitingEvent {
    const NAMES: &'static [&'static str] = &["STATE", "AGE", "HANDLER", "TOPIC", "KEY", "TYPE", "TRIES", "ERROR"];

    fn cells(&self) -> Vec<String> {
        let error = match (&self.error_class, &self.error) {
            (Some(class), Some(error)) => format!("{class}: {error}"),
            (class, error) => or_nothing(class) + &or_nothing(error),
        };
        vec![
            state(self),
            distance(self.parked_at),
            self.handler.clone(),
            self.topic.clone(),
            key(&self.key),
            self.r#type.clone(),
            self.attempts.to_string(),
            error,
        ]
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("state", state(self)),
            ("due", time(&self.due)),
            ("handler", self.handler.clone()),
            ("group", self.group.clone()),
            ("record", format!("{} partition {} offset {}", self.topic, self.partition, self.offset)),
            ("record time", time(&self.record_time)),
            ("key", key(&self.key)),
            ("event", format!("{} from {}, type {}", self.event_id, self.source, self.r#type)),
            ("attempts", self.attempts.to_string()),
            ("host crashes", self.deaths.to_string()),
            ("waits since", self.parked_at.to_string()),
            ("failed last", time(&self.failed_at)),
            ("revision", or_nothing(&self.revision)),
            ("error class", or_nothing(&self.error_class)),
            ("error", or_nothing(&self.error)),
            ("dead letter", or_nothing(&self.dead_letter)),
            ("ordered by", or_nothing(&self.ordered_by)),
        ]
    }
}

fn state(row: &WaitingEvent) -> String {
    match (row.state, row.behind, row.due) {
        ("behind", Some(head), _) => format!("behind {head}"),
        ("scheduled", _, Some(due)) => format!("in {}", distance(due)),
        (state, ..) => state.to_owned(),
    }
}
