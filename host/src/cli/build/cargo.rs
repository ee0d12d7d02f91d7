//! Handlers that cargo builds: all of one workspace in one call, so that they share what they have in common.

use super::{Options, Source, finish};
use anyhow::Context;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The target of components.
const TARGET: &str = "wasm32-wasip2";

/// A crate that is a handler, by cargo's word.
#[derive(Debug, Clone)]
pub(super) struct Crate {
    /// What cargo calls it, and no other: a dependency may have the same name.
    id: String,
    workspace: PathBuf,
    /// Where cargo puts what it makes.
    pub(super) target: PathBuf,
    /// Its folder, and those of the path dependencies that it is made from.
    pub(super) folders: BTreeSet<PathBuf>,
}

/// What cargo has said of the workspaces of handlers so far: it is asked once for each.
#[derive(Debug, Default)]
pub(super) struct Workspaces(Vec<Metadata>);

#[derive(Debug, Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Package {
    id: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Deserialize)]
struct Dependency {
    path: Option<PathBuf>,
    kind: Option<String>,
}

impl Workspaces {
    /// The crate in a folder.
    pub(super) fn find(&mut self, folder: &Path) -> anyhow::Result<Crate> {
        let manifest = folder.join("Cargo.toml");
        let known = self.0.iter().position(|metadata| metadata.package(folder).is_some());
        let metadata = match known.and_then(|known| self.0.get(known)) {
            Some(metadata) => metadata,
            None => {
                self.0.push(Metadata::read(folder)?);
                self.0.last().context("just pushed")?
            }
        };
        let package = metadata.package(folder).with_context(|| format!("{} has no [package]", manifest.display()))?;
        Ok(Crate {
            id: package.id.clone(),
            workspace: metadata.workspace_root.clone(),
            target: metadata.target_directory.clone(),
            folders: metadata.made_of(folder),
        })
    }
}

impl Metadata {
    /// Asks cargo; nothing is downloaded.
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let mut process = Command::new(program());
        process
            .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let said = finish(process, &Options::default()).context(NO_CARGO)?;
        anyhow::ensure!(said.success, "cargo does not understand {}{}", folder.join("Cargo.toml").display(), said.tail());
        serde_json::from_slice(&said.output).context("`cargo metadata` speaks another language")
    }

    fn package(&self, folder: &Path) -> Option<&Package> {
        self.packages.iter().find(|package| package.manifest_path.parent() == Some(folder))
    }

    /// The folder of a crate and those of its path dependencies; of other workspaces only the first.
    fn made_of(&self, folder: &Path) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let package = self.package(&folder);
            if folders.insert(folder) {
                // What only tests need is not in the component.
                let needed = package.into_iter().flat_map(|package| &package.dependencies);
                open.extend(needed.filter(|it| it.kind.as_deref() != Some("dev")).filter_map(|it| it.path.clone()));
            }
        }
        folders
    }
}

const NO_CARGO: &str = "cannot run `cargo`; get Rust from https://rustup.rs";

fn program() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Builds these crates and puts their components where the manifests say; returns those that are other than before, and what failed.
pub(super) fn build(sources: &[Source], options: &Options) -> anyhow::Result<(Vec<PathBuf>, Vec<String>)> {
    let mut workspaces: BTreeMap<&Path, Vec<(&str, &Source)>> = BTreeMap::new();
    for source in sources {
        if let Some(krate) = &source.krate {
            workspaces.entry(&krate.workspace).or_default().push((&krate.id, source));
        }
    }
    let (mut changed, mut failures) = (Vec::new(), Vec::new());
    for (workspace, crates) in workspaces {
        let mut process = Command::new(program());
        process.args(["build", "--target", TARGET, "--keep-going", "--message-format=json-render-diagnostics"]);
        process.args(options.release.then_some("--release")).current_dir(workspace).stdin(Stdio::null()).stdout(Stdio::piped());
        process.args(crates.iter().flat_map(|(id, _)| ["-p", *id]));
        if options.show && std::io::stderr().is_terminal() {
            process.args(["--color", "always"]);
        }
        let said = finish(process, options).context(NO_CARGO)?;
        let made = made(&said.output);
        let lacking: Vec<&str> = crates
            .iter()
            .filter(|(_, source)| !made.contains_key(&source.folder))
            .map(|(_, source)| source.name.as_str())
            .collect();
        if !said.success {
            failures.push(format!("{} does not build{}{}", lacking.join(", "), said.tail(), help(&said.errors)));
        } else if !lacking.is_empty() {
            let names = lacking.join(", ");
            failures.push(format!("{names}: cargo made no component; Cargo.toml needs `[lib] crate-type = [\"cdylib\"]`"));
        }
        for (_, source) in crates {
            if let Some(file) = made.get(&source.folder)
                && install(file, &source.component)?
            {
                changed.push(source.component.clone());
            }
        }
    }
    Ok((changed, failures))
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    manifest_path: Option<PathBuf>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

/// The components that cargo says it has made, or found fresh, by the folder of their crate.
fn made(output: &[u8]) -> BTreeMap<PathBuf, PathBuf> {
    let messages = output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Message>(line).ok());
    let artifacts = messages.filter(|message| message.reason == "compiler-artifact");
    let components = artifacts.filter_map(|message| {
        let file = message.filenames.into_iter().find(|file| file.extension().is_some_and(|end| end == "wasm"))?;
        Some((message.manifest_path?.parent()?.to_owned(), file))
    });
    components.collect()
}

/// The way out of what a new machine lacks.
fn help(errors: &[u8]) -> &'static str {
    let errors = String::from_utf8_lossy(errors);
    match errors.contains("can't find crate for `core`") || errors.contains("target may not be installed") {
        true => "\nthis Rust lacks the target: rustup target add wasm32-wasip2",
        false => "",
    }
}

/// Written beside and renamed, so that a running host never reads half a file; not touched when equal. True if it was not.
fn install(built: &Path, component: &Path) -> anyhow::Result<bool> {
    let bytes = std::fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if std::fs::read(component).is_ok_and(|old| old == bytes) {
        return Ok(false);
    }
    let aside = component.with_extension(format!("wasm.{}.part", std::process::id()));
    let folder = component.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&aside, bytes))
        .and_then(|()| std::fs::rename(&aside, component))
        .with_context(|| format!("cannot write {}", component.display()))?;
    Ok(true)
}
