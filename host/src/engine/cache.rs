//! Compiled components on disk, so that a start does not compile what it compiled before.
//!
//! A file is named by the component's content and by everything that the engine's settings and version change in the code. It holds
//! machine code that will run unchecked, so it is used only if its digest is right and it lies in a folder that is the host's own; a damaged
//! one is compiled again. What nobody has used for a month is removed at a start.

use super::readable;
use anyhow::Context;
use sha2::{Digest, Sha256};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use wasmtime::Engine;
use wasmtime::component::Component;

const DIGEST: usize = 32;
/// Code that was not used for so long is removed.
const UNUSED: Duration = Duration::from_secs(30 * 86_400);
/// How exactly the last use is noted.
const NOTED: Duration = Duration::from_secs(86_400);

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
        tidy(folder);
        Ok(Self { folder: Some(folder.to_owned()) })
    }

    /// No cache: everything is compiled.
    pub fn none() -> Self {
        Self { folder: None }
    }

    /// Whether there is code for the component with this digest.
    pub(super) fn has(&self, engine: &Engine, digest: &[u8; 32]) -> bool {
        self.file(engine, digest).is_some_and(|file| file.exists())
    }

    /// The code that is kept for the component with this digest, if it is sound.
    pub(super) fn read(&self, engine: &Engine, digest: &[u8; 32]) -> Option<Component> {
        read(engine, &self.file(engine, digest)?)
    }

    /// Keeps code and makes it ready to run.
    pub(super) fn keep(&self, engine: &Engine, digest: &[u8; 32], code: &[u8]) -> anyhow::Result<Component> {
        if let Some(file) = self.file(engine, digest)
            && let Err(error) = write(&file, code)
        {
            // A full disk costs time, not the deploy.
            tracing::warn!(file = %file.display(), %error, "the compiled component cannot be kept; it will be compiled again at the next start");
        }
        deserialize(engine, code)
    }

    fn file(&self, engine: &Engine, digest: &[u8; 32]) -> Option<PathBuf> {
        let mut settings = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut settings);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        Some(self.folder.as_ref()?.join(format!("{hex}-{:016x}.cwasm", settings.finish())))
    }
}

/// Removes what was not used for long. A revision whose code is gone is only compiled again.
fn tidy(folder: &Path) {
    for file in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let ours = file.extension().is_some_and(|extension| extension == "cwasm" || extension == "tmp");
        if ours && unused_for(&file).is_some_and(|age| age > UNUSED) {
            let _ = std::fs::remove_file(&file);
        }
    }
}

/// How long ago a file was used, about.
fn unused_for(file: &Path) -> Option<Duration> {
    std::fs::metadata(file).and_then(|of| of.modified()).ok()?.elapsed().ok()
}

fn read(engine: &Engine, file: &Path) -> Option<Component> {
    let stored = std::fs::read(file).ok()?;
    if unused_for(file).is_some_and(|age| age > NOTED) {
        let _ = std::fs::File::options().write(true).open(file).and_then(|file| file.set_modified(SystemTime::now()));
    }
    let sound = stored.split_at_checked(DIGEST).filter(|(digest, code)| Sha256::digest(code).as_slice() == *digest);
    let component = sound.and_then(|(_, code)| deserialize(engine, code).ok());
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
    fn code_that_nobody_used_for_a_month_is_removed_at_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&super::super::settings()).unwrap();
        let code = engine.precompile_component(b"\0asm\x0d\0\x01\0").unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let [used, unused] = [[1; 32], [2; 32]].map(|digest| {
            cache.keep(&engine, &digest, &code).unwrap();
            let file = cache.file(&engine, &digest).unwrap();
            let then = SystemTime::now() - UNUSED - NOTED;
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(then).unwrap();
            file
        });
        std::fs::write(folder.path().join("something-else"), "").unwrap();
        assert!(cache.read(&engine, &[1; 32]).is_some(), "being read is being used");
        Cache::open(folder.path()).unwrap();
        assert_eq!((used.exists(), unused.exists(), folder.path().join("something-else").exists()), (true, false, true));
    }

    #[test]
    fn a_damaged_file_is_compiled_again_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let engine = Engine::new(&super::super::settings()).unwrap();
        let cache = Cache::open(folder.path()).unwrap();
        let empty_component = b"\0asm\x0d\0\x01\0";
        let digest = Sha256::digest(empty_component).into();
        let code = engine.precompile_component(empty_component).unwrap();
        cache.keep(&engine, &digest, &code).unwrap();
        assert!(cache.has(&engine, &digest) && cache.read(&engine, &digest).is_some());
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
        let good = std::fs::read(&file).unwrap();
        for damage in [good[..10].to_vec(), good.iter().enumerate().map(|(i, b)| if i == 100 { !b } else { *b }).collect()] {
            std::fs::write(&file, &damage).unwrap();
            assert!(read(&engine, &file).is_none());
            assert!(cache.read(&engine, &digest).is_none());
            cache.keep(&engine, &digest, &code).unwrap();
            assert_eq!(std::fs::read(&file).unwrap(), good, "the good code is written again");
        }
    }
}
