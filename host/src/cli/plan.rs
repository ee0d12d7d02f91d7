//! The handlers' folder, as plans for the database, the broker and the engine.

use crate::engine::HandlerSource;
use crate::kafka::TopicPlan;
use crate::manifest::{self, Loaded};
use crate::store::{AppPlan, HandlerRole};
use anyhow::Context;
use std::collections::BTreeMap;
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

    /// The topics that the manifests declare.
    pub(super) fn topics(&self) -> anyhow::Result<Vec<TopicPlan>> {
        let mut topics = BTreeMap::new();
        for (name, topic) in self.handlers.iter().flat_map(|handler| &handler.manifest.declares) {
            let partitions =
                i32::try_from(topic.partitions).with_context(|| format!("topic `{name}` has too many partitions"))?;
            topics.insert(name, TopicPlan { name: name.clone(), partitions, retention: topic.retention });
        }
        Ok(topics.into_values().collect())
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
