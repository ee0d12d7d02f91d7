//! What an operator lets migrations do: `--allow RULE` and `--allow-schema NAME`.

use crate::store::{Consent, Rule};
use clap::{Arg, ArgAction, ArgMatches, Command};

const ALLOW: &str = "allow";
const ALLOW_SCHEMA: &str = "allow-schema";

/// Adds the flags to a command that migrates.
pub(super) fn args(command: Command) -> Command {
    let flag = |name: &'static str, value: &'static str| Arg::new(name).long(name).value_name(value).action(ArgAction::Append);
    let rules: Vec<&str> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    command
        .arg(
            flag(ALLOW, "RULE")
                .value_delimiter(',')
                .value_parser(|text: &str| text.parse::<Rule>())
                .help(format!("Let migrations do what this rule refuses: {}", rules.join(", "))),
        )
        .arg(flag(ALLOW_SCHEMA, "NAME").value_delimiter(',').help("Let migrations name this schema beside the app's own"))
}

/// What was given.
pub(super) fn read(matches: &ArgMatches) -> anyhow::Result<Consent> {
    let rules = matches.get_many::<Rule>(ALLOW).into_iter().flatten().copied();
    let schemas = matches.get_many::<String>(ALLOW_SCHEMA).into_iter().flatten().cloned();
    Consent::default().allow(rules).schemas(schemas).map_err(|error| anyhow::anyhow!("--{ALLOW_SCHEMA}: {error}"))
}
