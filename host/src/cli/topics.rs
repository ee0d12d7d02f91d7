//! `tidemill topics apply`: makes the declared topics that are missing.

use super::plan::Plan;
use crate::config::Config;
use crate::kafka::{Applied, create_missing};

pub(super) async fn run(config: Config) -> anyhow::Result<()> {
    let plan = Plan::load(config.handlers()?, config.installation())?;
    let applied = create_missing(config.kafka_brokers()?, &plan.topics()?).await?;
    for (name, applied) in &applied {
        match applied {
            Applied::Created => println!("made topic `{name}`"),
            Applied::Present => println!("topic `{name}` was there"),
        }
    }
    if applied.is_empty() {
        println!("nothing to do: no manifest declares a topic");
    }
    Ok(())
}
