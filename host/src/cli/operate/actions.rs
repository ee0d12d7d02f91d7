//! `tidemill actions`: who did what, through the command line or the admin API.

use super::args;
use super::show::{self, Columns};
use crate::store::operate::{Action, ActionFilter, Session};
use clap::{ArgMatches, Command, value_parser};

pub(super) fn command() -> Command {
    let list = Command::new("list").about("List the last ones, newest last").args([
        args::text("actor", "NAME", "Of this one"),
        args::text("action", "NAME", "Of this kind, such as dead-letters.replay"),
        args::text("subject", "NAME", "With this row, such as dead-letter/7"),
        args::text("limit", "N", "How many").value_parser(value_parser!(u32).range(1..=1_000)).default_value("50"),
        args::text("before", "ID", "The page before this one").value_parser(value_parser!(i64)),
    ]);
    Command::new("actions").about("What operators have done, and when").subcommand_required(true).subcommand(args::finished(list))
}

pub(super) async fn run(matches: &ArgMatches, session: &Session) -> anyhow::Result<()> {
    let filter = ActionFilter {
        actor: args::optional(matches, "actor"),
        action: args::optional(matches, "action"),
        subject: args::optional(matches, "subject"),
        before: args::optional(matches, "before"),
        limit: args::optional(matches, "limit"),
    };
    show::page(&session.actions(&filter).await?, args::is_set(matches, "json"), "actions", "--before")
}

impl Columns for Action {
    const NAMES: &'static [&'static str] = &["WHEN", "WHO", "VIA", "ACTION", "ROW", "DETAILS"];

    fn cells(&self) -> Vec<String> {
        self.fields().into_iter().skip(1).map(|(_, value)| value).collect()
    }

    fn id(&self) -> String {
        self.id.to_string()
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        vec![
            ("id", self.id.to_string()),
            ("when", self.at.to_string()),
            ("who", self.actor.clone()),
            ("via", self.via.clone()),
            ("action", self.action.clone()),
            ("row", self.subject.clone()),
            ("details", self.details.get().to_owned()),
        ]
    }
}
