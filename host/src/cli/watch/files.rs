//! The files that handlers are made of. They are asked for their times, over and over: that sees every save on every file system, a few dozen
//! milliseconds later, and needs nothing of the system. (Notifications would have to leave out the compiler's thousands of files one by one.)

use super::super::build::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Which files are looked at.
#[derive(Debug)]
pub(super) struct Files {
    roots: Vec<PathBuf>,
    /// What building itself writes.
    outputs: BTreeSet<PathBuf>,
}

/// What there was: the time and size of each file.
pub(super) type Look = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

impl Files {
    /// Those below the handlers' folder, and those that the handlers are made of elsewhere.
    pub(super) fn of(folder: &Path, sources: &[Source]) -> Self {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        let all: BTreeSet<PathBuf> = sources.iter().flat_map(Source::made_of).chain([folder]).collect();
        let all: BTreeSet<PathBuf> = all.into_iter().map(|root| root.canonicalize().unwrap_or(root)).collect();
        let within = |root: &PathBuf| all.iter().any(|other| root != other && root.starts_with(other));
        let roots = all.iter().filter(|root| !within(root)).cloned().collect();
        let targets = sources.iter().filter_map(Source::target).map(Path::to_owned);
        let outputs = sources.iter().map(|source| source.component.clone()).chain(targets).collect();
        Self { roots, outputs }
    }

    /// Looks at all of them.
    pub(super) fn look(&self) -> Look {
        let mut look = Look::new();
        self.roots.iter().for_each(|root| self.walk(root, &mut look));
        look
    }

    fn walk(&self, folder: &Path, look: &mut Look) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let skipped = name == "target" || name == "node_modules" || name.as_encoded_bytes().starts_with(b".");
            let aside = [".part", "~", ".tmp"].iter().any(|end| name.as_encoded_bytes().ends_with(end.as_bytes()));
            if skipped || aside || self.outputs.contains(&path) {
                continue;
            }
            match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() && !entry.file_type().is_ok_and(|kind| kind.is_symlink()) => self.walk(&path, look),
                Ok(found) if found.is_file() => {
                    look.insert(path, (found.modified().ok(), found.len()));
                }
                _ => {}
            }
        }
    }
}

/// Whether a file has changed, come or gone that says what a handler is made of.
pub(super) fn names_what_is_made_of_what(before: &Look, after: &Look) -> bool {
    let says =
        |path: &PathBuf| path.file_name().is_some_and(|name| name == "Cargo.toml" || name == crate::manifest::MANIFEST_FILE);
    let changed = |one: &Look, other: &Look| one.iter().any(|(path, state)| says(path) && other.get(path) != Some(state));
    changed(before, after) || changed(after, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_seen_and_what_building_writes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("notes/handler.toml", "name = \"notes\"\ncomponent = \"notes.wasm\"\n");
        write("notes/src/lib.rs", "");
        write("notes/notes.wasm", "");
        let sources = Source::below(folder.path()).unwrap();
        let files = Files::of(folder.path(), &sources);
        let first = files.look();
        assert_eq!(first.len(), 2, "{first:?}");
        for output in ["notes/notes.wasm", "notes/notes.wasm.7.part", "notes/target/debug/x", "notes/.git/index"] {
            write(output, "other");
        }
        assert_eq!(files.look(), first);
        write("notes/src/lib.rs", "fn main() {}");
        let second = files.look();
        assert_ne!(second, first);
        assert!(!names_what_is_made_of_what(&first, &second));
        write("more/handler.toml", "");
        assert!(names_what_is_made_of_what(&second, &files.look()));
        assert!(names_what_is_made_of_what(&files.look(), &second));
    }
}
