//! The commands, one file each. `plan` reads the handlers' folder, `host` runs the parts that `serve` and `dev` share; `fleet` has all about deploys.

mod actor;
mod build;
mod consent;
mod dev;
mod fleet;
mod host;
mod migrate;
mod new;
mod offsets;
mod operate;
mod plan;
mod reprocess;
mod serve;
mod test_host;
pub mod token;
mod topics;
mod watch;

use crate::config::{self, Command as Name, Config, LogFormat};
use clap::{ArgMatches, Command};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs the command of the process's arguments and returns its exit code: 0 done, 1 failed, 2 misused (or, of `topics plan`, differences).
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand() {
        Some(("topics", matches)) => topics::run(matches),
        _ => run(&matches).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tidemill: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// All arguments of all commands.
pub fn command() -> Command {
    let handlers = "every folder below --handlers that has a handler.toml";
    Command::new("tidemill")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Runs sandboxed WASM components against HTTP requests and Kafka topics, each invocation inside one PostgreSQL transaction")
        .after_help("Start with `tidemill dev --handlers handlers`. All settings, with their flags, variables and file keys: docs/settings.md")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(config::args(
            Command::new("dev")
                .about("Run everything on this machine: private PostgreSQL, embedded broker, the handlers")
                .arg(dev::watch_flag())
                .after_help(format!("Handlers: {handlers}. Data is kept under the data folder between starts; delete that folder to begin anew.")),
            Name::Dev,
        ))
        .subcommand(config::args(
            Command::new("serve")
                .about("Run the handlers against a PostgreSQL and Kafka brokers that exist (production)")
                .after_help(format!(
                    "With --handlers, {handlers} is deployed at the start; without, what is active runs. Before the first start: `tidemill migrate`\n\
                     and `tidemill topics apply`.\n\
                     Health: /livez, /readyz (its body names what is paused or stuck) and /metrics on the admin address."
                )),
            Name::Serve,
        ))
        .subcommand(migrate::command(handlers))
        .subcommand(topics::command())
        .subcommand(offsets::command())
        .subcommand(reprocess::command())
        .subcommand(token::command())
        .subcommand(new::command())
        .subcommand(build::command())
        .subcommand(test_host::command())
        .subcommands(operate::commands())
        .subcommands(fleet::commands())
}

fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    match matches.subcommand() {
        Some(("token", matches)) => token::run(matches),
        Some(("new", matches)) => new::run(matches),
        Some(("build", matches)) => build::run(matches),
        Some(("test-host", matches)) => test_host::run(matches),
        Some(("dev", matches)) => with_runtime(Name::Dev, matches, |config| dev::run(config, matches.get_flag(dev::WATCH))),
        Some(("serve", matches)) => with_runtime(Name::Serve, matches, serve::run),
        Some(("migrate", matches)) => with_runtime(Name::Migrate, matches, |config| migrate::run(config, matches.clone())),
        Some(("offsets", matches)) => match matches.subcommand() {
            Some(("show", matches)) => with_runtime(Name::Offsets, matches, |config| offsets::show(config, matches.clone())),
            Some(("reset", matches)) => with_runtime(Name::Offsets, matches, |config| offsets::reset(config, matches.clone())),
            _ => anyhow::bail!("`tidemill offsets` needs a command: show, reset"),
        },
        Some(("reprocess", matches)) => with_runtime(Name::Reprocess, matches, |config| reprocess::run(config, matches.clone())),
        Some((name, matches)) if operate::NAMES.contains(&name) => operate::run(name, matches),
        Some((name, matches)) if fleet::NAMES.contains(&name) => fleet::run(name, matches),
        _ => anyhow::bail!("no command given; see `tidemill --help`"),
    }
}

fn with_runtime<T, F: Future<Output = anyhow::Result<T>>>(
    name: Name,
    matches: &ArgMatches,
    command: impl FnOnce(Config) -> F,
) -> anyhow::Result<T> {
    let config = Config::load(name, matches)?;
    start_log(&config)?;
    config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(command(config));
    // What still runs at the end has had its time; a blocking call into librdkafka must not hold the process up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_new(config.log())
        .map_err(|error| anyhow::anyhow!("the log filter `{}` is not valid: {error}", config.log()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match config.log_format() {
        LogFormat::Json => builder.json().init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
