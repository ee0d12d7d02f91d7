//! Waiting for the next save.

use super::super::build::Source;
use super::files::{Files, Look, names_what_is_made_of_what};
use crate::config::Config;
use crate::manifest::MANIFEST_FILE;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often the files are looked at. A look at a hundred files takes a tenth of a millisecond.
const ROUND: Duration = Duration::from_millis(30);
/// Editors and tools save in several steps: nothing is built before two looks so far apart were the same.
const QUIET: Duration = Duration::from_millis(15);
/// But not for ever: something may write without end.
const LONGEST: Duration = Duration::from_secs(2);
/// How long a manifest has to be away to be gone: `git checkout` and some editors remove it for a moment.
const GONE: Duration = Duration::from_secs(1);

/// What is watched.
pub(in crate::cli) struct Watched {
    folder: PathBuf,
    data: PathBuf,
    /// Or why they cannot be built.
    sources: anyhow::Result<Vec<Source>>,
    /// The folders that manifests were in when all of them could be read.
    known: Vec<PathBuf>,
    files: Files,
    seen: Look,
}

impl Watched {
    /// The handlers' folder of this configuration, as it is now.
    pub(in crate::cli) fn begin(config: &Config) -> anyhow::Result<Self> {
        let (folder, data) = (config.handlers()?.to_owned(), config.data_dir().to_owned());
        // A folder that is not there is a mistake in the command, nothing that a save mends.
        std::fs::read_dir(&folder).with_context(|| format!("cannot read the folder of the handlers, {}", folder.display()))?;
        Ok(Self::of(folder, data))
    }

    fn of(folder: PathBuf, data: PathBuf) -> Self {
        let files = Files::of(&folder, &data, &[]);
        let mut watched = Self { folder, data, sources: Ok(Vec::new()), known: Vec::new(), files, seen: Look::new() };
        watched.read();
        watched.seen = watched.files.look();
        watched
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The handlers, or why they cannot be built.
    pub(super) fn sources(&self) -> anyhow::Result<Vec<Source>> {
        self.sources.as_ref().cloned().map_err(|error| anyhow::anyhow!("{error:#}"))
    }

    /// Reads again what is made of what. While that is not to be known, the files are those that were known last.
    pub(super) fn read(&mut self) {
        self.sources = Source::below(&self.folder);
        if let Ok(sources) = &self.sources {
            self.files = Files::of(&self.folder, &self.data, sources);
            self.known = sources.iter().map(|source| source.folder.clone()).collect();
        }
    }

    /// Waits until something has been saved, and says when.
    pub(super) async fn saved(&mut self) -> Instant {
        let mut now = loop {
            tokio::time::sleep(ROUND).await;
            let now = self.files.look();
            if now != self.seen {
                break now;
            }
        };
        let saved = Instant::now();
        now = self.quiet(now).await;
        if self.lacks_a_manifest() {
            tokio::time::sleep(GONE).await;
            now = self.quiet(self.files.look()).await;
        }
        // What is wrong may have been mended where nobody looks.
        if self.sources.is_err() || names_what_is_made_of_what(&self.seen, &now) {
            self.read();
            // A file that has changed since is another save.
            let mut seen = self.files.look();
            seen.iter_mut().for_each(|(path, state)| *state = now.get(path).copied().unwrap_or(*state));
            now = seen;
        }
        self.seen = now;
        saved
    }

    async fn quiet(&self, mut now: Look) -> Look {
        let until = Instant::now() + LONGEST;
        loop {
            tokio::time::sleep(QUIET).await;
            let again = self.files.look();
            if again == now || Instant::now() >= until {
                return again;
            }
            now = again;
        }
    }

    fn lacks_a_manifest(&self) -> bool {
        self.known.iter().any(|folder| !folder.join(MANIFEST_FILE).is_file())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            ["notes", "more"].iter().for_each(|name| folder.write(name, name));
            folder
        }

        fn manifest(&self, folder: &str) -> PathBuf {
            self.0.path().join(folder).join(MANIFEST_FILE)
        }

        /// Makes or changes the handler of a folder.
        fn write(&self, folder: &str, name: &str) {
            let manifest = self.manifest(folder);
            std::fs::create_dir_all(manifest.parent().unwrap()).unwrap();
            std::fs::write(manifest, format!("name = \"{name}\"\ncomponent = \"a.wasm\"\n")).unwrap();
        }

        fn watched(&self) -> Watched {
            Watched::of(self.0.path().to_owned(), self.0.path().join("data"))
        }
    }

    fn names(watched: &Watched) -> Vec<String> {
        watched.sources().unwrap().into_iter().map(|source| source.name).collect()
    }

    #[tokio::test]
    async fn a_manifest_that_is_away_for_a_moment_is_not_gone_and_a_new_name_is_seen_at_once() {
        let folder = Folder::new();
        let mut watched = folder.watched();
        std::fs::remove_file(folder.manifest("notes")).unwrap();
        let back = async {
            tokio::time::sleep(GONE / 2).await;
            folder.write("notes", "notes");
        };
        tokio::join!(watched.saved(), back);
        assert_eq!(names(&watched), ["more", "notes"]);
        folder.write("notes", "memo");
        let begun = Instant::now();
        watched.saved().await;
        assert_eq!(names(&watched), ["more", "memo"]);
        assert!(begun.elapsed() < GONE, "{:?}", begun.elapsed());
        std::fs::remove_file(folder.manifest("notes")).unwrap();
        watched.saved().await;
        assert_eq!(names(&watched), ["more"]);
    }

    #[tokio::test]
    async fn what_was_mended_where_nobody_looks_is_found_at_the_next_save() {
        let folder = Folder::new();
        let elsewhere = tempfile::tempdir().unwrap();
        let cargo = folder.0.path().join("more/Cargo.toml");
        let workspace = elsewhere.path().join("Cargo.toml");
        let text = format!("[package]\nname = \"more\"\nworkspace = {:?}\n", elsewhere.path());
        std::fs::write(&cargo, text).unwrap();
        std::fs::create_dir(folder.0.path().join("more/src")).unwrap();
        let library = folder.0.path().join("more/src/lib.rs");
        std::fs::write(&library, "").unwrap();
        let mut watched = folder.watched();
        assert!(watched.sources().is_err(), "there is no such workspace");
        let member = folder.0.path().join("more");
        std::fs::write(workspace, format!("[workspace]\nmembers = [{member:?}]\n")).unwrap();
        std::fs::write(&library, "// saved").unwrap();
        watched.saved().await;
        assert_eq!(names(&watched), ["more", "notes"]);
    }

    #[tokio::test]
    async fn what_writes_without_end_does_not_keep_a_save_from_being_seen() {
        let folder = Folder::new();
        let mut watched = folder.watched();
        let endless = async {
            for turn in 0.. {
                std::fs::write(folder.0.path().join("more/log"), "x".repeat(turn)).unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            _ = watched.saved() => {}
            () = endless => {}
            () = tokio::time::sleep(10 * LONGEST) => panic!("nothing was seen"),
        }
    }
}
