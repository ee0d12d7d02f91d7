//! New revisions in the place of those that run. The folder is the truth: what it has not got goes out of service, in the same switch.

use super::super::dev::{create_missing_topics, with_way_out};
use super::super::{actor, plan::Plan};
use crate::config::{Config, KafkaAccess};
use crate::fleet::{Administration, DeployError, Deployer, Order, Report};
use crate::kafka::topics::Topics;
use crate::store::operate::{Actor, Via};
use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

/// What swapping works on.
pub(in crate::cli) struct Swap {
    /// The handlers' folder.
    folder: PathBuf,
    /// The data folder, for what only a new beginning mends.
    data: PathBuf,
    installation: String,
    revision_size: u64,
    deployer: Deployer,
    administration: Administration,
    kafka: KafkaAccess,
    order: Order,
    /// Those that were made.
    topics: Topics,
}

/// A handler that runs another revision than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct Swapped {
    pub(in crate::cli) handler: String,
    /// None if it is new.
    pub(in crate::cli) from: Option<String>,
    /// None if it is gone.
    pub(in crate::cli) to: Option<String>,
}

impl Swap {
    /// Swaps what the folder of this configuration has for what was deployed by `plan`.
    pub(in crate::cli) fn new(
        config: &Config,
        deployer: &Deployer,
        administration: Administration,
        kafka: KafkaAccess,
        plan: &Plan,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            folder: config.handlers()?.to_owned(),
            data: config.data_dir().to_owned(),
            installation: config.installation().to_owned(),
            revision_size: config.revision_size(),
            deployer: deployer.clone(),
            administration,
            kafka,
            order: Order {
                actor: Actor::new(&actor::local(), Via::Host)?,
                note: Some("saved while `dev --watch` ran".to_owned()),
            },
            topics: plan.topics()?.on_one_broker(),
        })
    }

    /// Brings what runs to what the folder has now, all together or not at all; also says how long preparing it took. `built`: the handlers
    /// that were built for it. If the folder has others by now, it waits for its next turn.
    pub(super) async fn swap(&mut self, built: &BTreeSet<String>) -> anyhow::Result<(Vec<Swapped>, Duration)> {
        let plan = Plan::load(&self.folder, &self.installation)?;
        if plan.handlers.iter().map(|handler| &handler.manifest.name).ne(built) {
            return Err(DeployError::Busy("handlers came or went while the others were built".to_owned()).into());
        }
        let topics = plan.topics()?.on_one_broker();
        if topics != self.topics {
            create_missing_topics(&self.kafka, &topics).await?;
            self.topics = topics;
        }
        let bundles = plan.bundles(self.revision_size)?;
        let report = self.deployer.exactly(&bundles, &self.order, Some(&self.administration)).await;
        let report = report.map_err(|error| with_way_out(error.into(), &self.data))?;
        let prepared = Duration::from_secs_f64(report.prepared_ms.max(0.0) / 1_000.0);
        Ok((changes(report), prepared))
    }
}

fn changes(report: Report) -> Vec<Swapped> {
    let swapped = report.handlers.into_iter().map(|one| Swapped { handler: one.handler, from: one.from, to: one.revision });
    swapped.filter(|swapped| swapped.from != swapped.to).collect()
}

impl Display for Swapped {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let short = |revision: &str| format!("{}…", revision.get(..4).unwrap_or(revision));
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{} {} → {}", self.handler, short(from), short(to)),
            (None, Some(to)) => write!(f, "{} is new: {}", self.handler, short(to)),
            _ => write!(f, "{} is gone", self.handler),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Swapped;

    #[test]
    fn a_swap_is_one_line() {
        let line = |from: Option<&str>, to: Option<&str>| {
            Swapped { handler: "notes".into(), from: from.map(Into::into), to: to.map(Into::into) }.to_string()
        };
        assert_eq!(line(Some("3f2a77"), Some("9c1b01")), "notes 3f2a… → 9c1b…");
        assert_eq!(line(None, Some("9c1b01")), "notes is new: 9c1b…");
        assert_eq!(line(Some("3f2a77"), None), "notes is gone");
    }
}
