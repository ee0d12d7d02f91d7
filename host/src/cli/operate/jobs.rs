//! `tidemill jobs`: events that are published when their time has come.

use super::args;
use super::show::{self, Columns, distance, key, or_nothing};
use crate::store::operate::{Job, JobCursor, JobFilter, JobId, Session};
use clap::{Arg, ArgMatches, Command};
use jiff::{SignedDuration, Timestamp};

/// Every condition; one of them, or `--all`, has to be given for a change.
const CONDITIONS: &[&str] = &["ids", "app", "handler", "prefix", "due-after", "due-before"];

pub(super) fn command() -> Command {
    let state = args::text("state", "STATE", "Their time has come, or not").value_parser(["due", "scheduled"]);
    let after = args::text("after", "CURSOR", "The page after this").value_parser(|text: &str| text.parse::<JobCursor>());
    let list = Command::new("list").about("List them, the first due first").args(conditions());
    let id = ids().num_args(1).required(true).help("The job: its app, a slash, its name");
    let change =
        |name: &'static str, about: &'static str| args::changing(Command::new(name).about(about), conditions(), CONDITIONS);
    Command::new("jobs")
        .about("Jobs: events that are published when their time has come")
        .subcommand_required(true)
        .subcommand(args::finished(list.args([state, args::page_size(), after])))
        .subcommand(args::finished(Command::new("show").about("Show one whole, with the event that it will publish").arg(id)))
        .subcommand(change("cancel", "Take them away: they never fire. They are kept in `tidemill actions`"))
        .subcommand(change("run-now", "Publish their next event now; repeating ones go on with the time after that"))
}

fn ids() -> Arg {
    Arg::new("ids").value_name("APP/NAME").num_args(0..).value_parser(|text: &str| text.parse::<JobId>()).help("These jobs")
}

fn conditions() -> Vec<Arg> {
    vec![
        ids(),
        args::text("app", "NAME", "Of this app"),
        args::text("handler", "NAME", "Scheduled by this handler"),
        args::text("prefix", "TEXT", "With names that begin so"),
        args::text("due-after", "TIME", "Due at this time or later: RFC 3339, `in 2h`, or how long ago (`2h`)")
            .value_parser(args::when()),
        args::text("due-before", "TIME", "Due before this time").value_parser(args::when()),
    ]
}

fn filter(matches: &ArgMatches) -> JobFilter {
    let text = |name: &str| args::optional::<String>(matches, name);
    JobFilter {
        ids: matches.try_get_many::<JobId>("ids").ok().flatten().map(|ids| ids.cloned().collect()).unwrap_or_default(),
        app: text("app"),
        handler: text("handler"),
        prefix: text("prefix"),
        due_after: args::optional::<Timestamp>(matches, "due-after"),
        due_before: args::optional::<Timestamp>(matches, "due-before"),
        state: text("state"),
        all: args::is_set(matches, "all"),
        limit: args::optional::<u32>(matches, "limit"),
        after: args::optional::<JobCursor>(matches, "after"),
    }
}

pub(super) async fn run(verb: &str, matches: &ArgMatches, session: &mut Session) -> anyhow::Result<()> {
    let json = args::is_set(matches, "json");
    let filter = filter(matches);
    match verb {
        "list" => show::page(&session.jobs(&filter).await?, json, "jobs", "--after"),
        "show" => {
            let [id] = &filter.ids[..] else { anyhow::bail!("say which job") };
            show::detail(&session.job(id).await?, json)
        }
        "cancel" => show::report(&session.cancel_jobs(&args::order_of(matches, filter)?).await?, json, "cancelled"),
        _ => show::report(&session.run_jobs(&args::order_of(matches, filter)?).await?, json, "fired"),
    }
}

impl Columns for Job {
    const NAMES: &'static [&'static str] = &["STATE", "DUE", "REPEATS", "HANDLER", "TOPIC", "KEY"];

    fn cells(&self) -> Vec<String> {
        let state = match self.late_ms {
            Some(late) => format!("{} late", late_text(late)),
            None => format!("in {}", distance(self.due)),
        };
        vec![state, self.due.to_string(), repeats(self), self.handler.clone(), self.topic.clone(), key(&self.key)]
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("app", self.id.app.clone()),
            ("name", self.id.name.clone()),
            ("state", self.state.to_owned()),
            ("due", self.due.to_string()),
            ("late", self.late_ms.map(late_text).unwrap_or_default()),
            ("repeats", repeats(self)),
            ("missed times", or_nothing(&self.missed)),
            ("handler", self.handler.clone()),
            ("topic", self.topic.clone()),
            ("key", key(&self.key)),
            ("next event", self.event_id.clone()),
            ("correlation", or_nothing(&self.correlation_id)),
            ("trace", or_nothing(&self.traceparent)),
            ("scheduled", self.scheduled_at.to_string()),
        ]
    }
}

/// How late a job is: below a second exactly, above in its two largest units.
fn late_text(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms}ms"),
        1_000..60_000 => format!("{}s", ms / 1_000),
        60_000..3_600_000 => format!("{}m{}s", ms / 60_000, ms / 1_000 % 60),
        3_600_000..86_400_000 => format!("{}h{}m", ms / 3_600_000, ms / 60_000 % 60),
        _ => format!("{}d{}h", ms / 86_400_000, ms / 3_600_000 % 24),
    }
}

fn repeats(job: &Job) -> String {
    match (job.period_micros, &job.cron, &job.time_zone) {
        (Some(period), ..) => format!("every {:#}", SignedDuration::from_micros(period)),
        (None, Some(cron), Some(zone)) => format!("{cron} {zone}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lateness_is_said_in_units_that_fit() {
        let cases = [(7, "7ms"), (1_000, "1s"), (61_500, "1m1s"), (3_720_000, "1h2m"), (90_000_000, "1d1h")];
        cases.iter().for_each(|(ms, text)| assert_eq!(late_text(*ms), *text));
    }
}
