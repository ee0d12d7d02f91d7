//! `tidemill outbox`: published events that have not left; those that the broker refuses are stuck.

use super::args::{self, Kind};
use super::show::{self, Columns, distance, key, or_nothing, time};
use crate::store::operate::{OutboxDiscard, OutboxEntry, Session};
use clap::{ArgMatches, Command};

pub(super) fn command() -> Command {
    let not_stuck = args::flag("not-stuck", "Also rows that the broker does not refuse");
    let stuck = args::flag("stuck", "The same as --state stuck").conflicts_with("state");
    let (kind, time) = (Kind::Outbox, "Published");
    Command::new("outbox")
        .about("Published events that have not left; those that the broker refuses are stuck")
        .subcommand_required(true)
        .subcommand(args::list("List them, oldest first", kind, time, &["stuck", "waiting"]).arg(stuck))
        .subcommand(args::show("Show one whole: headers, value, what the broker said"))
        .subcommand(args::change("retry", "Forget that they are stuck: the cause is gone", kind, time))
        .subcommand(
            args::change("discard", "Delete them: these events are never sent. They are kept in `tidemill actions`", kind, time)
                .arg(not_stuck),
        )
}

pub(super) async fn run(verb: &str, matches: &ArgMatches, session: &mut Session) -> anyhow::Result<()> {
    let json = args::is_set(matches, "json");
    match verb {
        "list" => {
            let mut filter = args::filter(matches);
            if args::is_set(matches, "stuck") {
                filter.state = Some("stuck".to_owned());
            }
            show::page(&session.outbox(&filter).await?, json, "outbox rows", "--after")
        }
        "show" => show::detail(&session.outbox_entry(args::id(matches)).await?, json),
        "retry" => show::report(&session.retry_outbox(&args::order(matches)?).await?, json, "tried again"),
        _ => {
            let how = OutboxDiscard { not_stuck: args::is_set(matches, "not-stuck") };
            show::report(&session.discard_outbox(&args::order(matches)?, how).await?, json, "discarded")
        }
    }
}

impl Columns for OutboxEntry {
    const NAMES: &'static [&'static str] = &["STATE", "AGE", "TOPIC", "KEY", "EVENT", "BYTES", "REASON"];

    fn cells(&self) -> Vec<String> {
        vec![
            self.state.to_owned(),
            distance(self.created_at),
            self.topic.clone(),
            key(&self.key),
            or_nothing(&self.event_id),
            or_nothing(&self.value_bytes),
            or_nothing(&self.stuck_reason),
        ]
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("state", self.state.to_owned()),
            ("topic", self.topic.clone()),
            ("key", key(&self.key)),
            ("event", or_nothing(&self.event_id)),
            ("correlation", or_nothing(&self.correlation_id)),
            ("trace", or_nothing(&self.traceparent)),
            ("published", self.created_at.to_string()),
            ("stuck since", time(&self.stuck_since)),
            ("reason", or_nothing(&self.stuck_reason)),
        ]
    }
}
