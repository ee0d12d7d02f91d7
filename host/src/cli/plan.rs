//! The handlers' folder, as plans for the database and the broker.

use crate::fleet::{self, Bundle};
use crate::kafka::topics::Topics;
use crate::manifest::{self, Loaded};
use crate::store::AppPlan;
use std::path::{Path, PathBuf};

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

    /// Reads every manifest below these folders.
    pub(super) fn load_all(folders: &[impl AsRef<Path>], installation: &str) -> anyhow::Result<Self> {
        let folders: Vec<PathBuf> = folders.iter().map(|folder| folder.as_ref().to_owned()).collect();
        Ok(Self { handlers: manifest::load_paths(&folders)?, installation: installation.to_owned() })
    }

    /// What the apps need in the database.
    pub(super) fn apps(&self) -> anyhow::Result<Vec<AppPlan>> {
        fleet::apps(&self.installation, self.handlers.iter().map(|handler| (&handler.manifest, handler.migrations.as_deref())))
    }

    /// The topics that the manifests declare, their dead-letter topics, and those that the handlers use of others.
    pub(super) fn topics(&self) -> anyhow::Result<Topics> {
        fleet::topics(self.handlers.iter().map(|handler| &handler.manifest))
    }

    /// The handlers, packed; each of at most `most` bytes.
    pub(super) fn bundles(&self, most: u64) -> anyhow::Result<Vec<Bundle>> {
        self.handlers.iter().map(|handler| Bundle::read(handler, most)).collect()
    }
}
