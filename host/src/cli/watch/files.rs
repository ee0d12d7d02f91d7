//! The files that handlers are made of. They are asked for their times, over and over: that sees every save on every file system, a few dozen
//! milliseconds later, and needs nothing of the system. (Notifications would have to leave out the compiler's thousands of files one by one.)

use super::super::build::Source;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Folders that compilers and package managers write, whatever the language; so are hidden ones.
const WRITTEN: [&str; 7] = ["target", "node_modules", "dist", "build", "obj", "out", "__pycache__"];

/// Which files are looked at.
#[derive(Debug)]
pub(super) struct Files {
    roots: Vec<PathBuf>,
    /// Folders that something is made of: looked at whatever they are called.
    wanted: BTreeSet<PathBuf>,
    /// What building and running write.
    outputs: BTreeSet<PathBuf>,
}

/// What there was: the time and size of each file.
pub(super) type Look = BTreeMap<PathBuf, (Option<SystemTime>, u64)>;

impl Files {
    /// Those below the handlers' folder, and those that the handlers are made of elsewhere; what `dev` keeps in its data folder is neither.
    pub(super) fn of(folder: &Path, data: &Path, sources: &[Source]) -> Self {
        let wanted: BTreeSet<PathBuf> =
            sources.iter().flat_map(Source::made_of).chain([folder.to_owned()]).map(|root| real(&root)).collect();
        let within = |root: &PathBuf| wanted.iter().any(|other| root != other && root.starts_with(other));
        let roots = wanted.iter().filter(|root| !within(root)).cloned().collect();
        let targets = sources.iter().filter_map(Source::target);
        let outputs = sources.iter().map(|source| source.component.as_path()).chain(targets).chain([data]);
        Self { roots, outputs: outputs.map(real).collect(), wanted }
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
            let hidden = name.as_encoded_bytes().starts_with(b".");
            let aside = [".part", "~", ".tmp"].iter().any(|end| name.as_encoded_bytes().ends_with(end.as_bytes()));
            if aside || self.outputs.contains(&path) {
                continue;
            }
            let written = hidden || WRITTEN.iter().any(|one| name == *one);
            let entered = !written || self.wanted.iter().any(|wanted| wanted.starts_with(&path));
            let linked = entry.file_type().is_ok_and(|kind| kind.is_symlink());
            match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() && entered && !linked => self.walk(&path, look),
                Ok(found) if found.is_file() && !hidden => {
                    look.insert(path, (found.modified().ok(), found.len()));
                }
                _ => {}
            }
        }
    }
}

/// A path as a walk meets it, whether or not it is there already.
fn real(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let beside = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(beside).unwrap_or(path)
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
        let files = Files::of(folder.path(), &folder.path().join("data"), &sources);
        let first = files.look();
        assert_eq!(first.len(), 2, "{first:?}");
        let outputs = [
            "notes/notes.wasm",
            "notes/notes.wasm.7.part",
            "notes/target/debug/x",
            "notes/.git/index",
            "notes/dist/notes.js",
            "notes/src/__pycache__/notes.pyc",
            "data/postgres/base/1",
        ];
        for output in outputs {
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

    #[test]
    fn a_handler_is_looked_at_whatever_its_folders_are_called() {
        let folder = tempfile::tempdir().unwrap();
        let handler = folder.path().join("out/notes");
        std::fs::create_dir_all(handler.join("build")).unwrap();
        let manifest = "name = \"notes\"\ncomponent = \"../notes.wasm\"\nmigrations = \"build\"\n";
        std::fs::write(handler.join("handler.toml"), manifest).unwrap();
        std::fs::write(handler.join("build/0001_notes.sql"), "").unwrap();
        std::fs::write(folder.path().join("out/notes.wasm"), "").unwrap();
        let sources = Source::below(folder.path()).unwrap();
        let files = Files::of(folder.path(), &folder.path().join("data"), &sources);
        let seen: Vec<_> = files.look().into_keys().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(seen, ["0001_notes.sql", "handler.toml"]);
    }
}
