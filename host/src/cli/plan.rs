//! The handlers' folder, as plans for the database, the broker and the engine.

use crate::engine::HandlerSource;
use crate::kafka::topics::{Size, Topics, Wanted};
use crate::manifest::{self, Loaded};
use crate::store::{AppPlan, HandlerRole};
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What a folder of handlers asks for.
pub(super) struct Plan {
    pub(super) handlers: Vec<Loaded>,
    installation: String,
}

impl Plan {
    /// Reads every manifest below `folder`.
    pub(super) fn load(folder: &Path, installation: &str) -> anyhow::Result<Self> {
        Ok(Self { handlers: manifest::load_dir(folder)?, installation: installation.to_owned() })
    }

    /// What the apps need in the database.
    pub(super) fn apps(&self) -> anyhow::Result<Vec<AppPlan>> {
        let migrations = manifest::migrations_by_app(&self.handlers);
        let mut apps: BTreeMap<&str, Vec<HandlerRole>> = BTreeMap::new();
        for Loaded { manifest, .. } in &self.handlers {
            let role = manifest::role(&self.installation, &manifest.name).map_err(anyhow::Error::msg)?;
            apps.entry(&manifest.app).or_default().push(HandlerRole { handler: manifest.name.clone(), role });
        }
        apps.into_iter()
            .map(|(app, handlers)| {
                Ok(AppPlan {
                    app: app.to_owned(),
                    owner: manifest::owner_role(&self.installation, app).map_err(anyhow::Error::msg)?,
                    handlers,
                    migrations: migrations.get(app).map(|list| list.to_vec()).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// The topics that the manifests declare, their dead-letter topics, and those that the handlers use of others.
    pub(super) fn topics(&self) -> anyhow::Result<Topics> {
        let manifests = || self.handlers.iter().map(|handler| &handler.manifest);
        let declared = manifests().flat_map(|manifest| &manifest.declares).map(|(name, topic)| wanted(name, topic));
        let read: BTreeSet<String> = manifests().flat_map(|manifest| &manifest.topics).map(|topic| topic.name.clone()).collect();
        let published = manifests().flat_map(|manifest| &manifest.publish).cloned().collect();
        Ok(Topics::new(declared.collect::<anyhow::Result<_>>()?, &read, &published))
    }

    /// What the engine makes handlers from.
    pub(super) fn sources(&self) -> anyhow::Result<Vec<HandlerSource>> {
        self.handlers
            .iter()
            .map(|Loaded { manifest, component, .. }| {
                Ok(HandlerSource {
                    role: manifest::role(&self.installation, &manifest.name).map_err(anyhow::Error::msg)?,
                    manifest: manifest.clone(),
                    component: std::fs::read(component).with_context(|| format!("cannot read {}", component.display()))?,
                })
            })
            .collect()
    }
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
