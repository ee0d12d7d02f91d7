//! Who gives an order, and whether it is meant: the arguments that all commands share which change what runs.

use clap::{Arg, ArgAction, ArgMatches, Command};

/// Adds `--as` and `--yes`.
pub(super) fn args(command: Command) -> Command {
    command
        .arg(
            Arg::new("as")
                .long("as")
                .value_name("NAME")
                .help("Who does this, for the record [env: TIDEMILL_ACTOR] [default: user@host of this machine]"),
        )
        .arg(Arg::new("yes").long("yes").action(ArgAction::SetTrue).help("Do it; without, only what would be done is shown"))
}

/// Who does this.
pub(super) fn actor(matches: &ArgMatches) -> String {
    let given = matches.get_one::<String>("as").cloned().or_else(|| std::env::var("TIDEMILL_ACTOR").ok());
    given.filter(|name| !name.is_empty()).unwrap_or_else(local)
}

/// Whether it is meant.
pub(super) fn meant(matches: &ArgMatches) -> bool {
    matches.get_flag("yes")
}

/// Who runs this process, where.
pub(super) fn local() -> String {
    format!("{}@{}", user(), host())
}

fn user() -> String {
    let name = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
    name.unwrap_or_else(|| "unknown".to_owned())
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::fs::read_to_string("/etc/hostname"));
    name.map(|name| name.trim().to_owned()).ok().filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}
