//! What is to run together, checked together: handlers out of a folder and handlers that are deployed.

use super::Bundle;
use super::DeployError;
use crate::engine::{HandlerSource, check_routes, short};
use crate::kafka::topics::{Size, Topics, Wanted};
use crate::manifest::{self, Manifest, Migration, Part, Payload};
use crate::store::fleet::Revision;
use crate::store::{AppPlan, HandlerRole};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};

/// A handler of a set.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) manifest: Manifest,
    pub(super) migrations: Option<Vec<Migration>>,
    pub(super) digest: [u8; 32],
    pub(super) revision: String,
    origin: String,
    deployed: bool,
}

impl Member {
    /// One that is on its way.
    pub(super) fn new(bundle: &Bundle) -> Self {
        Self {
            manifest: bundle.manifest.clone(),
            migrations: bundle.migrations.clone(),
            digest: bundle.digest,
            revision: bundle.revision.clone(),
            origin: bundle.origin.clone(),
            deployed: false,
        }
    }

    /// One that is, or was, deployed.
    pub(super) fn deployed(revision: Revision) -> anyhow::Result<Self> {
        let origin = format!("revision {} of `{}`, which is deployed", short(&revision.revision), revision.handler);
        let manifest = Manifest::parse(&origin, &revision.manifest)?;
        let Revision { digest, revision, migrations, .. } = revision;
        Ok(Self { manifest, migrations, digest, revision, origin, deployed: true })
    }

    /// What the engine makes it from.
    pub(super) fn source(&self, installation: &str, component: Option<Vec<u8>>) -> anyhow::Result<HandlerSource> {
        Ok(HandlerSource {
            revision: self.revision.clone(),
            role: manifest::role(installation, &self.manifest.name).map_err(anyhow::Error::msg)?,
            manifest: self.manifest.clone(),
            digest: self.digest,
            component,
        })
    }

    fn part(&self) -> Part<'_> {
        let Self { origin, manifest, migrations, deployed, .. } = self;
        Part { origin: origin.clone(), manifest, migrations: migrations.as_deref(), deployed: *deployed }
    }
}

/// What is active with these members instead of their earlier revisions, if all of it fits together.
pub(super) fn together(active: &[Member], new: &[Member]) -> Result<Vec<Member>, DeployError> {
    let stays = active.iter().filter(|member| !new.iter().any(|new| new.manifest.name == member.manifest.name));
    let all: Vec<Member> = stays.chain(new).cloned().collect();
    let parts: Vec<Part<'_>> = all.iter().map(Member::part).collect();
    manifest::check_together(&parts).map_err(|problems| DeployError::Refused(problems.to_string()))?;
    check_routes(all.iter().map(|member| &member.manifest)).map_err(|error| DeployError::Refused(error.to_string()))?;
    drop(parts);
    Ok(all)
}

/// Whether what `leaving` handlers declare of their topics is declared still, where that says how their readers take the records: a topic of
/// raw payloads that nobody declares would be read as CloudEvents, and every record become a dead letter.
pub(super) fn declared(stays: &[Member], leaving: &[&Member]) -> Result<(), DeployError> {
    for member in leaving {
        let raw = member.manifest.declares.iter().filter(|(_, topic)| topic.payload == Payload::Raw).map(|(name, _)| name);
        for topic in raw.filter(|topic| !stays.iter().any(|stays| stays.manifest.declares.contains_key(*topic))) {
            if let Some(reader) = stays.iter().find(|stays| stays.manifest.topics.iter().any(|read| read.name == *topic)) {
                return Err(DeployError::Refused(format!(
                    "`{}` reads topic `{topic}`, which only `{}` declares to have raw payloads: undeploy `{0}` first, or declare the topic \
                     in its manifest; nothing was switched",
                    reader.manifest.name, member.manifest.name
                )));
            }
        }
    }
    Ok(())
}

/// What the apps of `new` need in the database: everything that any handler of theirs brings, by number.
pub(super) fn plans(installation: &str, all: &[Member], new: &[Member]) -> anyhow::Result<Vec<AppPlan>> {
    let touched: BTreeSet<&str> = new.iter().map(|member| member.manifest.app.as_str()).collect();
    let of = all.iter().filter(|member| touched.contains(member.manifest.app.as_str()));
    apps(installation, of.map(|member| (&member.manifest, member.migrations.as_deref())))
}

/// What the apps of these handlers need in the database.
pub fn apps<'a>(
    installation: &str,
    handlers: impl Iterator<Item = (&'a Manifest, Option<&'a [Migration]>)>,
) -> anyhow::Result<Vec<AppPlan>> {
    let mut apps: BTreeMap<&str, (Vec<HandlerRole>, BTreeMap<i32, &Migration>)> = BTreeMap::new();
    for (manifest, migrations) in handlers {
        let role = manifest::role(installation, &manifest.name).map_err(anyhow::Error::msg)?;
        let (roles, list) = apps.entry(&manifest.app).or_default();
        roles.push(HandlerRole { handler: manifest.name.clone(), role });
        list.extend(migrations.unwrap_or_default().iter().map(|one| (one.number, one)));
    }
    apps.into_iter()
        .map(|(app, (handlers, migrations))| {
            Ok(AppPlan {
                app: app.to_owned(),
                owner: manifest::owner_role(installation, app).map_err(anyhow::Error::msg)?,
                handlers,
                migrations: migrations.into_values().cloned().collect(),
            })
        })
        .collect()
}

/// The topics that these manifests declare, their dead-letter topics, and those that the handlers use of others.
pub fn topics<'a>(manifests: impl Iterator<Item = &'a Manifest> + Clone) -> anyhow::Result<Topics> {
    let declared = manifests.clone().flat_map(|manifest| &manifest.declares).map(|(name, topic)| wanted(name, topic));
    let read: BTreeSet<String> =
        manifests.clone().flat_map(|manifest| &manifest.topics).map(|topic| topic.name.clone()).collect();
    let published = manifests.clone().flat_map(|manifest| &manifest.publish).cloned().collect();
    Ok(Topics::new(declared.collect::<anyhow::Result<_>>()?, &read, &published))
}

fn wanted(name: &str, topic: &manifest::Topic) -> anyhow::Result<Wanted> {
    let number =
        |number: u32| i32::try_from(number).with_context(|| format!("topic `{name}`: {number} is more than Kafka can count"));
    let bytes = topic.max_message_bytes.map(i64::try_from).transpose()?;
    Ok(Wanted {
        name: name.to_owned(),
        partitions: number(topic.partitions)?,
        retention: topic.retention,
        replication: topic.replication.map(number).transpose()?,
        min_insync_replicas: topic.min_insync_replicas.map(number).transpose()?,
        size: bytes.map_or(Size::Default, Size::Exactly),
        derived: false,
    })
}
