//! `tidemill migrate`: the database to what this version and the handlers need.

use super::plan::Plan;
use crate::config::Config;
use crate::store::Migrator;

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let plan = Plan::load(config.handlers()?, config.installation())?;
    let mut migrator = Migrator::connect(config.admin_database_url()?.expose()).await?;
    let done = migrator.run(config.database_url()?.expose(), &plan.apps()?).await?;
    for line in &done {
        println!("{line}");
    }
    if done.is_empty() {
        println!("nothing to do: the database is up to date");
    }
    Ok(())
}
