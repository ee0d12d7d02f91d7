//! What the brokers say of their topics.

use super::settings;
use crate::config::KafkaAccess;
use crate::kafka::{client_config, reach};
use anyhow::Context;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::Metadata;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long an administrative call may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// What Kafka's brokers take if nobody says otherwise.
const KAFKA_MAX_MESSAGE_BYTES: i64 = 1_048_588;

/// An admin client. It costs threads and a socket per broker: keep it where it is used often. Dropping it may block for 100 ms.
#[derive(Clone)]
pub struct Cluster {
    pub(super) admin: Arc<AdminClient<DefaultClientContext>>,
    access: Arc<KafkaAccess>,
    /// A broker has let this process in: from then on its words are enough.
    reached: Arc<AtomicBool>,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("access", &self.access).finish_non_exhaustive()
    }
}

/// The cluster as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// How many brokers it has.
    pub brokers: usize,
    /// The largest record batch of a topic that says nothing of its own, in bytes.
    pub default_max_message_bytes: i64,
    /// Those of the topics asked for that exist.
    pub topics: BTreeMap<String, FoundTopic>,
}

/// A topic as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundTopic {
    /// How many partitions it has.
    pub partitions: i32,
    /// How many brokers hold the partition that the fewest hold.
    pub replication: i32,
    /// What holds for it, whoever set it, by Kafka's names.
    pub settings: BTreeMap<String, String>,
}

impl FoundTopic {
    /// A setting that is a number; `None` if the broker does not know it.
    pub fn number(&self, setting: &str) -> Option<i64> {
        self.settings.get(setting)?.parse().ok()
    }

    /// A setting in milliseconds, of which a negative number means "without end": `None`. So does one that the broker does not tell.
    pub fn time(&self, setting: &str) -> Option<Duration> {
        self.number(setting).and_then(|millis| u64::try_from(millis).ok()).map(Duration::from_millis)
    }
}

impl Cluster {
    /// A client of these brokers, which may be away.
    pub fn connect(access: &KafkaAccess) -> anyhow::Result<Self> {
        let admin = client_config(access).create().context("the Kafka client cannot be made")?;
        Ok(Self { admin: Arc::new(admin), access: Arc::new(access.clone()), reached: Arc::default() })
    }

    /// What there is of these topics. Asking makes none, whatever `auto.create.topics.enable` says.
    pub async fn describe(&self, topics: &[String]) -> anyhow::Result<Found> {
        if !self.reached.load(Ordering::Relaxed) {
            // An admin client does not tell why it is not let in.
            reach(&self.access, PATIENCE).await?;
            self.reached.store(true, Ordering::Relaxed);
        }
        let admin = self.admin.clone();
        let asked = tokio::task::spawn_blocking(move || {
            // All topics: asking for one by name may make it.
            admin.inner().fetch_metadata(None, PATIENCE).map(|metadata| Seen::of(&metadata))
        });
        let mut seen = asked.await?.with_context(|| self.no_answer())?;
        seen.topics.retain(|name, _| topics.contains(name));
        let names: Vec<&str> = seen.topics.keys().map(String::as_str).collect();
        for (name, settings) in self.topic_settings(&names).await? {
            seen.topics.entry(name).and_modify(|topic| topic.settings = settings);
        }
        let default_max_message_bytes = match seen.brokers.first() {
            // Only what a topic gets that is yet to be made depends on it.
            Some(&broker) if seen.topics.len() < topics.len() => self.default_max_message_bytes(broker).await,
            _ => KAFKA_MAX_MESSAGE_BYTES,
        };
        Ok(Found { brokers: seen.brokers.len(), default_max_message_bytes, topics: seen.topics })
    }

    /// How long records of these topics stay by `retention.ms`; `None`: for ever, as does what is compacted, since the last record of a key
    /// stays whatever its age. A topic that does not exist has no entry.
    pub async fn retentions(&self, topics: &[String]) -> anyhow::Result<BTreeMap<String, Option<Duration>>> {
        let found = self.describe(topics).await?;
        let kept = |topic: &FoundTopic| {
            let compacted = topic.settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
            topic.time("retention.ms").filter(|_| !compacted)
        };
        Ok(found.topics.into_iter().map(|(name, topic)| (name, kept(&topic))).collect())
    }

    /// Changes one setting of a topic; all others stay.
    pub(super) async fn set(&self, topic: &str, setting: &'static str, value: &str) -> Result<(), String> {
        let (admin, topic, value) = (self.admin.clone(), topic.to_owned(), value.to_owned());
        let done = tokio::task::spawn_blocking(move || settings::set(admin.inner(), &topic, setting, &value, PATIENCE));
        done.await.map_err(|error| error.to_string())?
    }

    /// Settings of every administrative call.
    pub(super) fn options() -> AdminOptions {
        AdminOptions::new().request_timeout(Some(PATIENCE)).operation_timeout(Some(PATIENCE))
    }

    /// What to say when no broker answers.
    pub(super) fn no_answer(&self) -> String {
        format!("no answer from Kafka at {}; check TIDEMILL_KAFKA_BROKERS and that a broker runs there", self.access.brokers)
    }

    async fn topic_settings(&self, topics: &[&str]) -> anyhow::Result<Vec<(String, BTreeMap<String, String>)>> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let asked: Vec<_> = topics.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
        let answers = self.admin.describe_configs(&asked, &Self::options()).await.with_context(|| self.no_answer())?;
        let mut settings = Vec::new();
        for answer in answers.into_iter().flatten() {
            let name = match &answer.specifier {
                OwnedResourceSpecifier::Topic(name) => name.clone(),
                _ => continue,
            };
            // librdkafka leaves the settings of a topic out that the broker will not tell; a guess would "change" what is right.
            anyhow::ensure!(
                !answer.entries.is_empty(),
                "Kafka at {} does not tell the settings of topic `{name}`: the login needs DescribeConfigs on it",
                self.access.brokers
            );
            settings.push((name, values(answer)));
        }
        Ok(settings)
    }

    async fn default_max_message_bytes(&self, broker: i32) -> i64 {
        let answers = self.admin.describe_configs(&[ResourceSpecifier::Broker(broker)], &Self::options()).await;
        let settings = answers.into_iter().flatten().flatten().next().map(values).unwrap_or_default();
        // A login may be forbidden to ask, and the embedded broker has nothing to say.
        settings.get("message.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(KAFKA_MAX_MESSAGE_BYTES)
    }
}

fn values(resource: ConfigResource) -> BTreeMap<String, String> {
    resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

/// Metadata, detached from librdkafka.
struct Seen {
    brokers: Vec<i32>,
    topics: BTreeMap<String, FoundTopic>,
}

impl Seen {
    fn of(metadata: &Metadata) -> Self {
        // A topic with an error is being made or deleted, or is forbidden to us: it is not there yet, or no more.
        let usable = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let topics = usable.map(|topic| {
            let partitions = topic.partitions();
            let replication = partitions.iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
            let found = FoundTopic {
                partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
                replication: i32::try_from(replication).unwrap_or(i32::MAX),
                settings: BTreeMap::new(),
            };
            (topic.name().to_owned(), found)
        });
        Self { brokers: metadata.brokers().iter().map(|broker| broker.id()).collect(), topics: topics.collect() }
    }
}
