//! The flags of the operators' commands: which rows, how to show them, who acts.

use super::actor;
use crate::config::units::parse_duration;
use crate::config::{self, Command as Name};
use crate::store::operate::{Filter, Order, parse_when};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use jiff::Timestamp;
use std::time::Duration;

/// What rows are: those of events that a handler failed have more to filter by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Waiting events and dead letters.
    Events,
    /// Outbox rows.
    Outbox,
}

/// Every condition; one of them, or `--all`, has to be given for a change.
const CONDITIONS: &[&str] = &["ids", "key", "key-base64", "topic", "error", "since", "until", "handler", "group", "error-class"];

/// A command that lists rows.
pub(super) fn list(about: &'static str, kind: Kind, time: &'static str, states: &'static [&'static str]) -> Command {
    let states = Arg::new("state").long("state").value_name("STATE").value_parser(states.to_vec()).help("In this state");
    let after = text("after", "ID", "The page after this row").value_parser(value_parser!(i64));
    finished(Command::new("list").about(about).args(conditions(kind, time)).args([states, page_size(), after]))
}

/// How many rows a page has.
pub(super) fn page_size() -> Arg {
    text("limit", "N", "How many rows").value_parser(value_parser!(u32).range(1..=1_000)).default_value("50")
}

/// A command that shows one row whole.
pub(super) fn show(about: &'static str) -> Command {
    let id = Arg::new("id").value_name("ID").required(true).value_parser(value_parser!(i64)).help("The row's number");
    finished(Command::new("show").about(about).arg(id))
}

/// A command that changes rows.
pub(super) fn change(name: &'static str, about: &'static str, kind: Kind, time: &'static str) -> Command {
    let after = text("after", "ID", "Only rows after this one: where the call before has ended").value_parser(value_parser!(i64));
    changing(Command::new(name).about(about).arg(after), conditions(kind, time).collect(), CONDITIONS)
}

/// A command that changes rows under these conditions; one of those that are named has to be given.
pub(super) fn changing(command: Command, known: Vec<Arg>, conditions: &[&'static str]) -> Command {
    let given = conditions.iter().filter(|name| known.iter().any(|arg| arg.get_id() == **name));
    let which = ArgGroup::new("which").args(given).arg("all").required(true).multiple(true);
    let all = flag("all", "Every row");
    let yes = flag("yes", "Do it; without this, only say what would be done");
    let who = text("as", "NAME", "Who acts, for the record [env: TIDEMILL_ACTOR] [default: the user of this machine]");
    let limit = text("limit", "N", "At most so many rows, oldest first").value_parser(value_parser!(u32).range(1..=10_000));
    let command = command.args(known).args([all, limit, yes, who]).group(which);
    finished(command.after_help(
        "Exit code: 0 when every row that was meant is done (or needs nothing), 1 when one is not; the table says which.",
    ))
}

/// A flag with a value.
pub(super) fn text(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// A flag without one.
pub(super) fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// A flag with a duration.
pub(super) fn duration(name: &'static str, help: &'static str) -> Arg {
    text(name, "DURATION", help).value_parser(|text: &str| parse_duration(text))
}

/// With `--json` and the settings.
pub(super) fn finished(command: Command) -> Command {
    config::args(command.arg(flag("json", "One JSON document; its fields: docs/operations.md")), Name::Operate)
}

/// A time as operators write it.
pub(super) fn when() -> ValueParser {
    ValueParser::new(|text: &str| parse_when(text))
}

fn conditions(kind: Kind, time: &'static str) -> impl Iterator<Item = Arg> {
    let of_events = [
        text("handler", "NAME", "Of this handler"),
        text("group", "NAME", "Of this consumer group"),
        text("error-class", "CLASS", "With this error class"),
    ];
    let of_all = [
        Arg::new("ids").value_name("ID").num_args(0..).value_parser(value_parser!(i64)).help("Rows by number"),
        text("key", "TEXT", "With this record key"),
        text("key-base64", "BASE64", "The same for a key that is no text")
            .conflicts_with("key")
            .value_parser(|text: &str| BASE64.decode(text).map_err(|_| "it is no base64".to_owned())),
        text("topic", "NAME", "Of this topic"),
        text("error", "TEXT", "With this text in the error's message"),
        text("since", "TIME", "")
            .value_parser(when())
            .help(format!("{time} at this time or later: RFC 3339, or how long ago (`2h`)")),
        text("until", "TIME", "").value_parser(when()).help(format!("{time} before this time")),
    ];
    let of_events = of_events.into_iter().filter(move |_| kind == Kind::Events);
    of_all.into_iter().chain(of_events)
}

/// The conditions that were given.
pub(super) fn filter(matches: &ArgMatches) -> Filter {
    let text = |name: &str| optional::<String>(matches, name);
    let key = text("key").map(String::into_bytes);
    Filter {
        ids: matches.try_get_many::<i64>("ids").ok().flatten().map(|ids| ids.copied().collect()).unwrap_or_default(),
        key: key.or_else(|| optional::<Vec<u8>>(matches, "key-base64")),
        handler: text("handler"),
        group: text("group"),
        topic: text("topic"),
        error_class: text("error-class"),
        error: text("error"),
        since: optional::<Timestamp>(matches, "since"),
        until: optional::<Timestamp>(matches, "until"),
        state: text("state"),
        all: is_set(matches, "all"),
        limit: optional::<u32>(matches, "limit"),
        after: optional::<i64>(matches, "after"),
    }
}

/// What is to be done, by whom.
pub(super) fn order(matches: &ArgMatches) -> anyhow::Result<Order> {
    order_of(matches, filter(matches))
}

/// The same with these rows.
pub(super) fn order_of<F>(matches: &ArgMatches, filter: F) -> anyhow::Result<Order<F>> {
    Ok(Order { actor: actor(matches)?, filter, dry_run: !is_set(matches, "yes") })
}

/// The row that is to be shown.
pub(super) fn id(matches: &ArgMatches) -> i64 {
    optional(matches, "id").unwrap_or_default()
}

/// A value, also where the command does not have that flag.
pub(super) fn optional<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, name: &str) -> Option<T> {
    matches.try_get_one::<T>(name).ok().flatten().cloned()
}

/// A flag, also where the command does not have it.
pub(super) fn is_set(matches: &ArgMatches, name: &str) -> bool {
    optional(matches, name).unwrap_or_default()
}

/// A duration.
pub(super) fn wait(matches: &ArgMatches) -> Duration {
    optional(matches, "wait").unwrap_or_default()
}
