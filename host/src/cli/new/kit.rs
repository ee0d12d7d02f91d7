//! What a handler outside the checkout is built with: the SDK, its WIT packages and the test crate, which travel inside this program until
//! they are published. Written as a small workspace, so that they inherit what they inherit in the checkout.

use anyhow::Context;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Path and text of each file, made by `build.rs`.
const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// The versions that the kit was tested with; cargo leaves out what a handler does not need.
pub(super) const LOCK: &str = include_str!("../../../../Cargo.lock");

const README: &str = "Written by `tidemill new`, and written anew by the next one: the SDK and the test crate that handlers beside it are built \
     with. Keep it with them.\n";

/// The folder of the kits, beside the handlers.
pub(super) const FOLDER: &str = ".tidemill-sdk";

/// Writes this version's kit into the folder of kits of a folder of handlers, and returns where it is.
pub(super) fn write_beside(handlers: &Path) -> anyhow::Result<PathBuf> {
    let folder = handlers.join(FOLDER).join(env!("CARGO_PKG_VERSION"));
    write(&folder)?;
    Ok(folder)
}

/// Writes the kit into a folder, which is made. Afterwards nothing else is in it; what is as it should be stays untouched, so that cargo need not
/// compile it anew.
fn write(folder: &Path) -> anyhow::Result<()> {
    let root = FILES.iter().find(|(name, _)| *name == "Cargo.toml").context("the kit has no Cargo.toml")?;
    let workspace = workspace(root.1)?;
    let files = FILES.iter().filter(|(name, _)| *name != "Cargo.toml").copied();
    let files: Vec<_> = files.chain([("Cargo.toml", workspace.as_str()), ("README.md", README)]).collect();
    let names: BTreeSet<PathBuf> = files.iter().map(|(name, _)| folder.join(name)).collect();
    remove_others(folder, &names).with_context(|| format!("cannot clear {}", folder.display()))?;
    for (name, text) in files {
        let path = folder.join(name);
        if std::fs::read(&path).is_ok_and(|known| known == text.as_bytes()) {
            continue;
        }
        std::fs::create_dir_all(path.parent().unwrap_or(folder))
            .and_then(|()| std::fs::write(&path, text))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Removes what an earlier kit has left, or anybody else.
fn remove_others(folder: &Path, files: &BTreeSet<PathBuf>) -> std::io::Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        match entry.file_type()?.is_dir() {
            true if files.iter().any(|file| *file != path && file.starts_with(&path)) => remove_others(&path, files)?,
            true => std::fs::remove_dir_all(path)?,
            false if files.contains(&path) => {}
            false => std::fs::remove_file(path)?,
        }
    }
    Ok(())
}

/// The checkout's manifest, reduced to what the two crates inherit.
fn workspace(root: &str) -> anyhow::Result<String> {
    let root: Table = root.parse()?;
    let mut workspace = root.get("workspace").and_then(Value::as_table).cloned().context("the checkout is no workspace")?;
    workspace.remove("default-members");
    workspace.insert("members".to_owned(), vec!["handlers/sdk", "host/testing"].into());
    if let Some(dependencies) = workspace.get_mut("dependencies").and_then(Value::as_table_mut) {
        dependencies.retain(|_, dependency| dependency.get("path").is_none());
    }
    Ok(toml::to_string(&Table::from_iter([("workspace".to_owned(), Value::Table(workspace))]))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kit_is_complete_and_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        for file in ["handlers/sdk/src/lib.rs", "host/testing/src/lib.rs", "wit/handler/handler.wit", "LICENSE", "README.md"] {
            assert!(folder.path().join(file).is_file(), "{file}");
        }
        let text = std::fs::read_to_string(folder.path().join("Cargo.toml")).unwrap();
        let manifest: Table = text.parse().unwrap();
        let workspace = manifest["workspace"].as_table().unwrap();
        assert!(workspace["package"]["version"].is_str() && workspace["dependencies"]["wit-bindgen"].is_table(), "{text}");
        assert!(!text.contains("path ="), "nothing of the checkout is needed: {text}");
        // What was changed by hand is put right, what is right is left alone.
        let library = folder.path().join("handlers/sdk/src/lib.rs");
        std::fs::write(&library, "").unwrap();
        let strangers = ["handlers/sdk/src/of_an_earlier_version.rs", "wit/earlier/earlier.wit", "LICENSE/earlier"];
        std::fs::remove_file(folder.path().join("LICENSE")).unwrap();
        for stranger in strangers.map(|stranger| folder.path().join(stranger)) {
            std::fs::create_dir_all(stranger.parent().unwrap()).unwrap();
            std::fs::write(stranger, "x").unwrap();
        }
        write(folder.path()).unwrap();
        assert!(std::fs::read_to_string(library).unwrap().contains("http_handler"));
        assert!(
            strangers.iter().all(|stranger| !folder.path().join(stranger).exists()) && folder.path().join("LICENSE").is_file()
        );
    }
}
