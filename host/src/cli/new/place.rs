//! Where a new handler is made, and what it is built with there.

use super::kit;
use anyhow::Context;
use std::path::{Path, PathBuf};

/// The folder that a handler is made in.
pub(super) struct Place {
    parent: PathBuf,
    /// As the handler's Cargo.toml names the folder of the SDK and the rest.
    kit: String,
    within: Within,
}

enum Within {
    /// A checkout of Tidemill, whose workspace has everything in `handlers/`.
    Member,
    /// Another folder of a checkout.
    Checkout,
    /// Some workspace of cargo's.
    Foreign(PathBuf),
    Nothing,
}

impl Place {
    pub(super) fn of(parent: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make the folder {}", parent.display()))?;
        let parent = parent.canonicalize().with_context(|| format!("cannot find the folder {}", parent.display()))?;
        let beside = format!("../{}/{}", kit::FOLDER, env!("CARGO_PKG_VERSION"));
        let checkout = parent.ancestors().enumerate().find(|(_, above)| is_checkout(above));
        let (kit, within) = match checkout {
            Some((_, root)) if parent == root.join("handlers") => (beside, Within::Member),
            Some((up, _)) => (vec![".."; up + 1].join("/"), Within::Checkout),
            None => {
                let foreign = parent.ancestors().map(|above| above.join("Cargo.toml")).find(|file| is_workspace(file));
                (beside, foreign.map_or(Within::Nothing, Within::Foreign))
            }
        };
        Ok(Self { parent, kit, within })
    }

    /// The path of the kit's folder, from the handler's.
    pub(super) fn kit(&self) -> &str {
        &self.kit
    }

    /// Whether the handler belongs to the checkout's workspace.
    pub(super) fn is_member(&self) -> bool {
        matches!(self.within, Within::Member)
    }

    /// Whether the handler is a workspace of its own.
    pub(super) fn is_root(&self) -> bool {
        matches!(self.within, Within::Checkout | Within::Nothing)
    }

    /// Writes what the handler is built with, unless the checkout has it.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        match self.within {
            Within::Member | Within::Checkout => Ok(()),
            _ => kit::write_beside(&self.parent).map(drop),
        }
    }

    /// What the handler's README says of the kit.
    pub(super) fn of_the_kit(&self) -> &'static str {
        match self.within {
            Within::Member | Within::Checkout => "",
            _ => include_str!("../../../templates/kit.md"),
        }
    }

    /// What the person should know of the place.
    pub(super) fn note(&self) -> String {
        match &self.within {
            Within::Member | Within::Checkout => String::new(),
            Within::Nothing => ", and what it is built with in .tidemill-sdk beside it".to_owned(),
            Within::Foreign(file) => format!(
                ", and what it is built with in .tidemill-sdk beside it\n{} is a workspace: if its `members` do not cover the new folder, add it; \
                 what the handler is built with must be none of them:\n\n  [workspace]\n  exclude = [\"{}\"]",
                file.display(),
                self.kits_from(file)
            ),
        }
    }

    /// The folder of kits, as the workspace of this file names it.
    fn kits_from(&self, file: &Path) -> String {
        let kits = self.parent.join(kit::FOLDER);
        let root = file.parent().unwrap_or(Path::new("."));
        kits.strip_prefix(root).unwrap_or(&kits).display().to_string()
    }
}

fn is_checkout(folder: &Path) -> bool {
    ["Cargo.toml", "handlers/sdk/Cargo.toml", "host/testing/Cargo.toml", "host/build.rs"]
        .iter()
        .all(|file| folder.join(file).is_file())
}

fn is_workspace(file: &Path) -> bool {
    let table = std::fs::read_to_string(file).ok().and_then(|text| text.parse::<toml::Table>().ok());
    table.is_some_and(|table| table.contains_key("workspace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_is_told_to_leave_the_kit_out() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("Cargo.toml"), "[workspace]\nmembers = []\n").unwrap();
        let note = Place::of(&folder.path().join("services/edge")).unwrap().note();
        assert!(note.contains("exclude = [\"services/edge/.tidemill-sdk\"]"), "{note}");
    }
}
