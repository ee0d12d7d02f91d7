//! `tidemill migrate`: the database to what this version and the handlers need.

use super::consent;
use super::plan::Plan;
use crate::config::{Command as Name, Config, args};
use crate::store::{MigrationOptions, Migrator};
use clap::{Arg, ArgAction, ArgMatches, Command};

const CHECK: &str = "check";

pub(super) fn command(handlers: &str) -> Command {
    let command = Command::new("migrate").about("Bring the database to what this version and the handlers need").after_help(format!(
        "Makes the schema `tidemill`, the runtime login of --database-url, and for each app its schema, roles and numbered migrations.\n\
         Everything is checked before anything is changed; each file is one transaction, so one that fails leaves nothing of it.\n\
         What would harm the revision that runs is refused, unless --allow names it: docs/migrations.md. Handlers: {handlers}."
    ));
    let check =
        Arg::new(CHECK).long(CHECK).action(ArgAction::SetTrue).help("Say what would be applied or refused, and change nothing");
    args(consent::args(command.arg(check)), Name::Migrate)
}

pub(super) async fn run(config: Config, matches: ArgMatches) -> anyhow::Result<()> {
    let plan = Plan::load(config.handlers()?, config.installation())?;
    let options = MigrationOptions { consent: consent::read(&matches)?, lock_timeout: config.migration_lock_timeout() };
    let mut migrator = Migrator::connect(config.admin_database_url()?.expose()).await?.with(options);
    let done = match matches.get_flag(CHECK) {
        true => migrator.check(&plan.apps()?).await?,
        false => migrator.run(config.database_url()?.expose(), &plan.apps()?).await?,
    };
    for line in &done {
        println!("{line}");
    }
    if done.is_empty() {
        println!("nothing to do: the database is up to date");
    }
    Ok(())
}
