//! Compiled components on disk, so that a start does not compile what it compiled before.
//!
//! A file is named by the component's content and by everything that the engine's settings and version change in the code. It holds
//! machine code that will run unchecked, so it is used only if its digest is right and it lies in a folder that is the host's own; a damaged
//! one is compiled again.

use super::readable;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use wasmtime::Engine;
use wasmtime::component::Component;

const DIGEST: usize = 32;

/// The folder of compiled components.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// A cache in `folder`, which is made with access for this user alone.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot make the folder of compiled components {}", folder.display()))?;
        Ok(Self { folder: Some(folder.to_owned()) })
    }

    /// No cache: everything is compiled.
    pub fn none() -> Self {
        Self { folder: None }
    }

    /// The compiled form of `bytes`, from the folder or the compiler.
    pub(super) fn load(&self, engine: &Engine, bytes: &[u8]) -> anyhow::Result<Component> {
        let Some(folder) = &self.folder else {
            return Component::from_binary(engine, bytes).map_err(readable);
        };
        let file = folder.join(format!("{}.cwasm", key(engine, bytes)));
        if let Some(component) = read(engine, &file) {
            return Ok(component);
        }
        let code = engine.precompile_component(bytes).map_err(readable)?;
        if let Err(error) = write(&file, &code) {
            // A full disk costs time, not the deploy.
            tracing::warn!(file = %file.display(), %error, "the compiled component cannot be kept; it will be compiled again at the next start");
        }
        deserialize(engine, &code)
    }
}

fn key(engine: &Engine, bytes: &[u8]) -> String {
    let mut settings = DefaultHasher::new();
    engine.precompile_compatibility_hash().hash(&mut settings);
    let content = Sha256::digest(bytes);
    let hex: String = content.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex}-{:016x}", settings.finish())
}

fn read(engine: &Engine, file: &Path) -> Option<Component> {
    let stored = std::fs::read(file).ok()?;
    let (digest, code) = stored.split_at_checked(DIGEST)?;
    let sound = Sha256::digest(code).as_slice() == digest;
    let component = if sound { deserialize(engine, code).ok() } else { None };
    if component.is_none() {
        tracing::warn!(file = %file.display(), "a compiled component on disk is damaged; compiling it again");
    }
    component
}

fn write(file: &Path, code: &[u8]) -> std::io::Result<()> {
    // Another process may do the same at this moment: each writes its own file, the last rename wins.
    let temporary = file.with_extension(format!("{}.tmp", std::process::id()));
    let mut content = Sha256::digest(code).to_vec();
    content.extend_from_slice(code);
    let written = std::fs::write(&temporary, content).and_then(|()| std::fs::rename(&temporary, file));
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[expect(
    unsafe_code,
    reason = "wasmtime's serialized code cannot be checked; it comes from the compiler or a digest-checked file of our own folder"
)]
fn deserialize(engine: &Engine, code: &[u8]) -> anyhow::Result<Component> {
    // SAFETY: `code` was made by `precompile_component` of an engine with the same compatibility hash, see `load`.
    unsafe { Component::deserialize(engine, code) }.map_err(readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_compiled_again_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&super::super::settings()).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let empty_component = b"\0asm\x0d\0\x01\0";
        cache.load(&engine, empty_component).unwrap();
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let good = std::fs::read(&file).unwrap();
        for damage in [good[..10].to_vec(), good.iter().enumerate().map(|(i, b)| if i == 100 { !b } else { *b }).collect()] {
            std::fs::write(&file, &damage).unwrap();
            assert!(read(&engine, &file).is_none());
            cache.load(&engine, empty_component).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), good, "the good code is written again");
        }
    }
}
