//! New revisions in the place of those that run: what changed is deployed, as `tidemill deploy` does it.

use super::super::{actor, dev::create_missing_topics, plan::Plan};
use crate::config::{Config, KafkaAccess};
use crate::fleet::{Administration, Deployer, Order, Report};
use crate::kafka::topics::Topics;
use crate::store::operate::{Actor, Via};
use std::collections::BTreeSet;
use std::fmt::{Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

/// What swapping works on.
pub(in crate::cli) struct Swap {
    /// The handlers' folder.
    pub(in crate::cli) folder: PathBuf,
    installation: String,
    revision_size: u64,
    deployer: Deployer,
    administration: Administration,
    kafka: KafkaAccess,
    order: Order,
    /// Those that were made.
    topics: Topics,
    /// The handlers that came from the folder.
    handlers: BTreeSet<String>,
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
            handlers: names(plan),
        })
    }

    /// Brings what runs to what the folder has now, all together or not at all; also says how long preparing it took.
    pub(in crate::cli) async fn swap(&mut self) -> anyhow::Result<(Vec<Swapped>, Duration)> {
        let plan = Plan::load(&self.folder, &self.installation)?;
        let topics = plan.topics()?.on_one_broker();
        if topics != self.topics {
            create_missing_topics(&self.kafka, &topics).await?;
            self.topics = topics;
        }
        let bundles = plan.bundles(self.revision_size)?;
        let report = self.deployer.deploy(&bundles, &self.order, Some(&self.administration)).await?;
        let prepared = Duration::from_secs_f64(report.prepared_ms.max(0.0) / 1_000.0);
        let mut swapped = changes(report);
        let now = names(&plan);
        for gone in self.handlers.difference(&now) {
            swapped.extend(changes(self.deployer.undeploy(gone, &self.order).await?));
        }
        self.handlers = now;
        Ok((swapped, prepared))
    }
}

fn names(plan: &Plan) -> BTreeSet<String> {
    plan.handlers.iter().map(|handler| handler.manifest.name.clone()).collect()
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
