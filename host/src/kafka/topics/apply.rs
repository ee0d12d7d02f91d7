//! Making a plan true.

use super::plan::{Plan, Step};
use super::{Cluster, Found};
use anyhow::Context;
use rdkafka::admin::{NewPartitions, NewTopic, TopicReplication};
use rdkafka::error::RDKafkaErrorCode;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long brokers may take to tell what a controller has done.
const SETTLING: Duration = Duration::from_secs(5);

/// One step, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The topic.
    pub topic: String,
    /// What was to be done.
    pub step: Step,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is done.
    Done,
    /// Somebody else has made the topic in the meantime; whether it is as declared, the next plan says.
    Overtaken,
    /// It waits for the word that keys may move.
    HeldBack,
    /// It cannot be done.
    Refused,
    /// The broker does not do it.
    Failed(String),
}

impl Outcome {
    /// Whether the topic is as declared as far as this step goes.
    pub fn is_good(&self) -> bool {
        matches!(self, Self::Done | Self::Overtaken)
    }
}

impl Cluster {
    /// Takes all steps that can be taken, and says what became of each. What fails does not hold up the rest, and repeating is safe.
    pub async fn apply(&self, plan: &Plan) -> anyhow::Result<Vec<Applied>> {
        let created = self.create(plan).await?;
        let mut applied = Vec::new();
        for (topic, step) in plan.topics.iter().flat_map(|(topic, steps)| steps.iter().map(move |step| (topic, step))) {
            let outcome = match step {
                Step::Create { .. } => created.get(topic).cloned().unwrap_or(Outcome::Failed("no answer to it".to_owned())),
                Step::Grow { allowed: false, .. } => Outcome::HeldBack,
                Step::Grow { to, .. } => self.grow(topic, *to).await?,
                Step::Set { setting, to, .. } => {
                    self.set(topic, setting, to).await.map_or_else(Outcome::Failed, |()| Outcome::Done)
                }
                Step::Refuse { .. } => Outcome::Refused,
            };
            applied.push(Applied { topic: topic.clone(), step: step.clone(), outcome });
        }
        self.settle(&applied).await;
        Ok(applied)
    }

    async fn create(&self, plan: &Plan) -> anyhow::Result<BTreeMap<String, Outcome>> {
        let steps = plan.topics.iter().flat_map(|(topic, steps)| steps.iter().map(move |step| (topic, step)));
        let new = steps.filter_map(|(topic, step)| match step {
            Step::Create { partitions, replication, settings } => {
                // -1: the brokers' default.
                let new = NewTopic::new(topic, *partitions, TopicReplication::Fixed(replication.unwrap_or(-1)));
                Some(settings.iter().fold(new, |new, (setting, value)| new.set(setting, value)))
            }
            _ => None,
        });
        let new: Vec<NewTopic<'_>> = new.collect();
        if new.is_empty() {
            return Ok(BTreeMap::new());
        }
        let results = self.admin.create_topics(&new, &Self::options()).await.with_context(|| self.no_answer())?;
        let outcome = |result| match result {
            Ok(name) => (name, Outcome::Done),
            Err((name, RDKafkaErrorCode::TopicAlreadyExists)) => (name, Outcome::Overtaken),
            Err((name, error)) => (name, Outcome::Failed(error.to_string())),
        };
        Ok(results.into_iter().map(outcome).collect())
    }

    async fn grow(&self, topic: &str, to: i32) -> anyhow::Result<Outcome> {
        let grown = [NewPartitions::new(topic, usize::try_from(to)?)];
        let results = self.admin.create_partitions(&grown, &Self::options()).await.with_context(|| self.no_answer())?;
        Ok(match results.into_iter().next() {
            Some(Err((_, error))) => Outcome::Failed(error.to_string()),
            _ => Outcome::Done,
        })
    }

    /// Waits until the brokers tell what was done, so that whatever starts next sees it.
    async fn settle(&self, applied: &[Applied]) {
        let done: Vec<&Applied> = applied.iter().filter(|applied| applied.outcome == Outcome::Done).collect();
        if done.is_empty() {
            return;
        }
        let names: Vec<String> = done.iter().map(|applied| applied.topic.clone()).collect();
        let deadline = Instant::now() + SETTLING;
        while Instant::now() < deadline {
            if let Ok(found) = self.describe(&names).await
                && done.iter().all(|applied| applied.is_told(&found))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Applied {
    fn is_told(&self, found: &Found) -> bool {
        found.topics.get(&self.topic).is_some_and(|topic| match &self.step {
            Step::Create { partitions, .. } => topic.partitions >= *partitions,
            Step::Grow { to, .. } => topic.partitions >= *to,
            Step::Set { setting, to, .. } => topic.settings.get(*setting) == Some(to),
            Step::Refuse { .. } => true,
        })
    }
}
