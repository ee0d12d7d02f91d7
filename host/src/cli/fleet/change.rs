//! The commands that change what runs.

use super::super::consent;
use super::super::operate::actor;
use super::{Config, Name, finished, handler, json, pool, show, text};
use crate::engine::short;
use crate::fleet::{Administration, Bundle, Deployer, HandlerOutcome, Order, Report};
use crate::manifest;
use crate::store::MigrationOptions;
use clap::{Arg, ArgMatches, Command, value_parser};
use std::path::PathBuf;

pub(super) fn commands() -> Vec<Command> {
    let paths = Arg::new("paths")
        .value_name("DIR|FILE")
        .required(true)
        .num_args(1..)
        .value_parser(value_parser!(PathBuf))
        .help("handler.toml files, or folders: every handler.toml below them");
    let revision = Arg::new("revision").value_name("REV").help("The beginning of its name [default: the one that ran before]");
    let one = |name: &'static str, about: &'static str| {
        with_words(finished(Command::new(name).about(about).arg(handler("Its name").required(true)), Name::Fleet))
    };
    vec![
        with_words(finished(
            consent::args(Command::new("deploy"))
                .about("Make revisions of handlers and switch to them, all together or not at all")
                .arg(paths)
                .after_help(
                    "Every running host compiles and checks them first; one refusal refuses them everywhere. No host need run. The same content\n\
                     again changes nothing. Migrations are applied if TIDEMILL_ADMIN_DATABASE_URL is given; what would harm the revision that runs is refused, unless --allow\n\
                     names it (docs/migrations.md).",
                ),
            Name::Deploy,
        )),
        with_words(finished(
            Command::new("rollback")
                .about("Switch a handler back to an earlier revision")
                .arg(handler("Its name").required(true))
                .arg(revision)
                .after_help("Refused if a table that the revision's migrations make is gone. Migrations are never undone."),
            Name::Deploy,
        )),
        one("undeploy", "Take a handler out of service: its routes are 404, its consumer groups are left; its rows and revisions stay"),
        one("pause", "Let a handler rest: its routes answer 503, its events stay in their topics, its retries wait"),
        one("resume", "Let a paused handler go on"),
    ]
}

fn with_words(command: Command) -> Command {
    let arg =
        |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    command.arg(arg("note", "TEXT", "What others should know about it; shown by `tidemill ps` and `revisions`")).arg(arg(
        "as",
        "NAME",
        "Who acts, for the record [env: TIDEMILL_ACTOR] [default: the user of this machine]",
    ))
}

pub(super) async fn run(name: &str, matches: &ArgMatches, config: Config) -> anyhow::Result<()> {
    let order = Order::new(actor(matches)?, matches.get_one::<String>("note").cloned())?;
    let deployer = Deployer::new(pool(&config)?, config.installation(), Some(config.data_dir().join("cache")));
    let handler = matches.try_get_one::<String>("handler").ok().flatten().map_or("", String::as_str);
    let report = match name {
        "deploy" => deploy(&deployer, matches, &config, &order).await?,
        "rollback" => {
            let revision = matches.get_one::<String>("revision").map(String::as_str);
            deployer.rollback(handler, revision, &order).await?
        }
        "undeploy" => deployer.undeploy(handler, &order).await?,
        "pause" => deployer.pause(handler, &order).await?,
        _ => deployer.resume(text(matches, "handler"), &order).await?,
    };
    match json(matches) {
        true => show::document(&report),
        false => show::print(&lines(&report)),
    }
}

async fn deploy(deployer: &Deployer, matches: &ArgMatches, config: &Config, order: &Order) -> anyhow::Result<Report> {
    let paths: Vec<PathBuf> = matches.get_many::<PathBuf>("paths").into_iter().flatten().cloned().collect();
    let loaded = manifest::load_paths(&paths)?;
    let bundles = loaded.iter().map(|loaded| Bundle::read(loaded, config.revision_size())).collect::<anyhow::Result<Vec<_>>>()?;
    let admin = match config.admin_database_url_if_given() {
        Some(url) => Some(Administration {
            admin_url: url.expose().to_owned(),
            runtime_url: config.database_url()?.expose().to_owned(),
            options: MigrationOptions { consent: consent::read(matches)?, lock_timeout: config.migration_lock_timeout() },
        }),
        None => None,
    };
    Ok(deployer.deploy(&bundles, order, admin.as_ref()).await?)
}

/// The report for people.
fn lines(report: &Report) -> String {
    let mut text = String::new();
    for line in &report.migrations {
        text += &format!("{line}\n");
    }
    let width = report.handlers.iter().map(|handler| handler.handler.len()).max().unwrap_or(0);
    for handler in &report.handlers {
        text += &format!("{:width$}  {}\n", handler.handler, outcome(handler));
    }
    for warning in &report.warnings {
        text += &format!("warning: {warning}\n");
    }
    if !report.changed {
        return text + "nothing to do: this is what runs already\n";
    }
    for replica in &report.replicas {
        text += &match (&replica.loaded, &replica.trouble) {
            (true, _) => format!("replica {} works by it\n", replica.replica),
            (false, Some(trouble)) => format!("replica {} does not work by it: {trouble}\n", replica.replica),
            (false, None) => format!("replica {} does not work by it yet: `tidemill ps` shows it\n", replica.replica),
        };
    }
    if report.replicas.is_empty() {
        text += "no host runs; the next one that starts works by it\n";
    }
    let (prepared, switched, loaded) = (report.prepared_ms, report.switched_ms, report.loaded_ms);
    text + &format!("prepared in {prepared:.0} ms, switched in {switched:.1} ms, loaded everywhere after {loaded:.1} ms\n")
}

fn outcome(handler: &HandlerOutcome) -> String {
    let name =
        |revision: &Option<String>| revision.as_deref().map_or("nothing".to_owned(), |revision| short(revision).to_owned());
    match handler.from == handler.revision {
        true => format!("{} at {}", handler.outcome, name(&handler.revision)),
        false => format!("{}: {} instead of {}", handler.outcome, name(&handler.revision), name(&handler.from)),
    }
}
