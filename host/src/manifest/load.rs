//! All manifests below a folder, checked against each other; and the same check for a set of which a part is deployed already.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Display,
    path::{Path, PathBuf},
};

use super::{MIGRATIONS_DIR, Manifest, Migration, names};
use crate::config::Problems;

/// The file that makes a folder a handler.
pub const MANIFEST_FILE: &str = "handler.toml";

/// A manifest with what it names, found and read.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Where it was found.
    pub file: PathBuf,
    /// As it was written.
    pub text: String,
    /// What it says.
    pub manifest: Manifest,
    /// The component's file, which exists.
    pub component: PathBuf,
    /// The app's migrations, if this handler gives them.
    pub migrations: Option<Vec<Migration>>,
}

/// Reads every `handler.toml` below the folder, sorted by name. All problems come back at once, one line each with its file.
pub fn load_dir(dir: &Path) -> Result<Vec<Loaded>, Problems> {
    load_all(manifest_files(dir)?, Problems::default())
}

/// The manifests below a folder; there is at least one.
pub fn manifest_files(dir: &Path) -> Result<Vec<PathBuf>, Problems> {
    let mut files = Vec::new();
    find(dir, &mut files).map_err(|error| format!("{}: can't read the folder of the handlers: {error}", dir.display()))?;
    if files.is_empty() {
        return Err(format!("{}: there is no {MANIFEST_FILE} below this folder", dir.display()).into());
    }
    files.sort();
    Ok(files)
}

/// Reads manifests: of each path the file itself, or every `handler.toml` below the folder. They belong together like those of one folder.
pub fn load_paths(paths: &[PathBuf]) -> Result<Vec<Loaded>, Problems> {
    let (mut problems, mut files) = (Problems::default(), Vec::new());
    for path in paths {
        let shown = path.display();
        if path.is_dir() {
            let before = files.len();
            find(path, &mut files).map_err(|error| format!("{shown}: can't read the folder of the handlers: {error}"))?;
            if files.len() == before {
                problems.add(format!("{shown}: there is no {MANIFEST_FILE} below this folder"));
            }
        } else if path.extension().is_some_and(|end| end == "wasm") {
            problems.add(format!(
                "{shown}: a component alone does not say what may start it: name the {MANIFEST_FILE} that names it"
            ));
        } else if path.is_file() {
            files.push(path.clone());
        } else {
            problems.add(format!("{shown}: there is no such file or folder"));
        }
    }
    load_all(files, problems)
}

fn load_all(mut files: Vec<PathBuf>, mut problems: Problems) -> Result<Vec<Loaded>, Problems> {
    files.sort();
    files.dedup();
    let mut loaded: Vec<Loaded> = files.into_iter().filter_map(|file| problems.keep(load(file))).collect();
    loaded.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    let parts: Vec<Part<'_>> = loaded.iter().map(Part::of).collect();
    check(&parts, &mut problems);
    drop(parts);
    problems.into_result(Some(loaded))
}

/// One handler of a set that is to run together.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Where it comes from: its file, or what is deployed. It names the handler in problems, so each has its own.
    pub origin: String,
    /// Its manifest.
    pub manifest: &'a Manifest,
    /// The app's migrations, if this handler gives them.
    pub migrations: Option<&'a [Migration]>,
    /// It is deployed already, with an earlier (or, after a rollback, later) list of migrations perhaps.
    pub deployed: bool,
}

impl<'a> Part<'a> {
    /// One that was read from a folder.
    pub fn of(loaded: &'a Loaded) -> Self {
        let Loaded { file, manifest, migrations, .. } = loaded;
        Self { origin: file.display().to_string(), manifest, migrations: migrations.as_deref(), deployed: false }
    }
}

/// Checks handlers against each other that are to run together.
pub fn check_together(parts: &[Part<'_>]) -> Result<(), Problems> {
    let mut problems = Problems::default();
    check(parts, &mut problems);
    problems.into_result(Some(()))
}

/// The list of migrations of every app that has one.
pub fn migrations_by_app<'a>(loaded: &'a [Loaded]) -> BTreeMap<&'a str, &'a [Migration]> {
    let of = |handler: &'a Loaded| Some((handler.manifest.app.as_str(), handler.migrations.as_deref()?));
    loaded.iter().filter_map(of).collect()
}

/// Manifests below a folder; not in build output, packages and hidden folders.
fn find(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let skipped = name == "target" || name == "node_modules" || name.as_encoded_bytes().starts_with(b".");
        if entry.file_type()?.is_dir() && !skipped {
            find(&entry.path(), files)?;
        } else if name == MANIFEST_FILE {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn load(file: PathBuf) -> Result<Loaded, Problems> {
    let shown = file.display();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{shown}: {error}"))?;
    let manifest = Manifest::parse(&shown.to_string(), &text)?;
    let mut problems = Problems::default();
    let folder = file.parent().unwrap_or(Path::new("."));
    let component = folder.join(&manifest.component);
    if !component.is_file() {
        let path = component.display();
        problems.add(format!("{shown}: component {path} does not exist: build it with `tidemill build {}`", folder.display()));
    }
    let migrations = match &manifest.migrations {
        Some(path) => Some(folder.join(path)),
        None => Some(folder.join(MIGRATIONS_DIR)).filter(|path| path.is_dir()),
    };
    let migrations = match migrations {
        Some(path) if !path.is_dir() => {
            problems.add(format!("{shown}: folder {} of `migrations` does not exist", path.display()));
            None
        }
        Some(path) => problems.keep(Migration::load(&path)),
        None => None,
    };
    problems.into_result(Some(Loaded { component, migrations, manifest, text, file }))
}

/// What only several manifests together can get wrong.
fn check(parts: &[Part<'_>], problems: &mut Problems) {
    let mut names = Once::new("handler");
    let mut routes = Once::new("route");
    let mut topics = HashMap::new();
    let mut groups = HashMap::new();
    let mut apps: HashMap<&str, Vec<&Part<'_>>> = HashMap::new();
    for part in parts {
        let Part { origin, manifest, .. } = part;
        let mut report = |what: &dyn Display| problems.add(format!("{origin}: {what}"));
        names.enter(manifest.name.clone(), &manifest.name, origin, &mut report);
        for route in &manifest.http {
            let shown = format!("{} {}", route.method, route.path);
            routes.enter(format!("{} {}", route.method, names::shape(&route.path)), &shown, origin, &mut report);
        }
        for (index, topic) in manifest.topics.iter().enumerate() {
            let owner = *groups.entry(&topic.group).or_insert(origin);
            if owner != origin {
                report(&format!("group `{}` is used by {owner} too: every handler has groups of its own", topic.group));
            }
            if manifest.topics[..index].iter().any(|other| (&other.name, &other.group) == (&topic.name, &topic.group)) {
                report(&format!("topic `{}` is read twice by group `{}`", topic.name, topic.group));
            }
        }
        for (name, topic) in &manifest.declares {
            let (owner, first) = *topics.entry(name).or_insert((origin, topic));
            if first != topic {
                report(&format!("topic `{name}` is declared differently in {owner}: declare it once, at its owner"));
            }
        }
        for other in manifest.jobs.iter().flat_map(|jobs| &jobs.cancel) {
            match parts.iter().find(|known| known.manifest.name == *other).map(|known| &known.manifest.app) {
                Some(app) if *app == manifest.app => {}
                Some(app) => report(&format!(
                    "[jobs]: `cancel` names handler `{other}` of app `{app}`: only jobs of its own app `{}` are within reach",
                    manifest.app
                )),
                None => report(&format!("[jobs]: `cancel` names handler `{other}`, which is not here")),
            }
        }
        if part.migrations.is_some() {
            let others = apps.entry(&manifest.app).or_default();
            if let Some(problem) = others.iter().find_map(|other| other_migrations(other, part)) {
                report(&problem);
            }
            others.push(part);
        }
    }
}

/// Of one folder, the handlers of an app have one list. What is deployed may have a shorter or longer one, but nothing else under a number.
fn other_migrations(first: &Part<'_>, part: &Part<'_>) -> Option<String> {
    let (app, origin, one, other) = (&part.manifest.app, &first.origin, first.migrations?, part.migrations?);
    if !first.deployed && !part.deployed {
        return (one != other).then(|| format!("app `{app}` has other migrations in {origin}: let both name one folder"));
    }
    let changed =
        one.iter().find(|one| other.iter().any(|other| other.number == one.number && other.checksum != one.checksum))?;
    let (number, name) = (changed.number, &changed.name);
    Some(format!(
        "migration {number:04}_{name}.sql of app `{app}` has another text than in {origin}: put its old text back and add a new one with a \
         higher number"
    ))
}

/// Things that may be there once.
struct Once<'a> {
    kind: &'static str,
    seen: HashMap<String, &'a str>,
}

impl<'a> Once<'a> {
    fn new(kind: &'static str) -> Self {
        Self { kind, seen: HashMap::new() }
    }

    fn enter(&mut self, key: String, shown: &str, origin: &'a str, report: &mut dyn FnMut(&dyn Display)) {
        if let Some(first) = self.seen.get(&key) {
            report(&format!("{} `{shown}` is already in {first}", self.kind));
        } else {
            self.seen.insert(key, origin);
        }
    }
}
