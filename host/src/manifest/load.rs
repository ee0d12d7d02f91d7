//! All manifests below a folder, checked against each other.

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
    /// What it says.
    pub manifest: Manifest,
    /// The component's file, which exists.
    pub component: PathBuf,
    /// The app's migrations, if this handler gives them.
    pub migrations: Option<Vec<Migration>>,
}

/// Reads every `handler.toml` below the folder, sorted by name. All problems come back at once, one line each with its file.
pub fn load_dir(dir: &Path) -> Result<Vec<Loaded>, Problems> {
    let mut problems = Problems::default();
    let mut files = Vec::new();
    find(dir, &mut files).map_err(|error| format!("{}: can't read the folder of the handlers: {error}", dir.display()))?;
    if files.is_empty() {
        return Err(format!("{}: there is no {MANIFEST_FILE} below this folder", dir.display()).into());
    }
    files.sort();
    let mut loaded: Vec<Loaded> = files.into_iter().filter_map(|file| problems.keep(load(file))).collect();
    loaded.sort_by(|a, b| a.manifest.name.cmp(&b.manifest.name));
    check(&loaded, &mut problems);
    problems.into_result(Some(loaded))
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
        problems.add(format!("{shown}: component {path} does not exist: build it with `scripts/build-handlers`"));
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
    problems.into_result(Some(Loaded { component, migrations, manifest, file }))
}

/// What only several manifests together can get wrong.
fn check(loaded: &[Loaded], problems: &mut Problems) {
    let mut names = Once::new("handler");
    let mut routes = Once::new("route");
    let mut topics = HashMap::new();
    let mut groups = HashMap::new();
    let mut apps = HashMap::new();
    for handler in loaded {
        let Loaded { file, manifest, .. } = handler;
        let mut report = |what: &dyn Display| problems.add(format!("{}: {what}", file.display()));
        names.enter(manifest.name.clone(), &manifest.name, file, &mut report);
        for route in &manifest.http {
            let shown = format!("{} {}", route.method, route.path);
            routes.enter(format!("{} {}", route.method, names::shape(&route.path)), &shown, file, &mut report);
        }
        for (index, topic) in manifest.topics.iter().enumerate() {
            let owner = *groups.entry(&topic.group).or_insert(file);
            if owner != file {
                report(&format!(
                    "group `{}` is used by {} too: every handler has groups of its own",
                    topic.group,
                    owner.display()
                ));
            }
            if manifest.topics[..index].iter().any(|other| (&other.name, &other.group) == (&topic.name, &topic.group)) {
                report(&format!("topic `{}` is read twice by group `{}`", topic.name, topic.group));
            }
        }
        for (name, topic) in &manifest.declares {
            let (owner, first) = *topics.entry(name).or_insert((file, topic));
            if first != topic {
                report(&format!("topic `{name}` is declared differently in {}: declare it once, at its owner", owner.display()));
            }
        }
        for other in manifest.jobs.iter().flat_map(|jobs| &jobs.cancel) {
            match loaded.iter().find(|known| known.manifest.name == *other).map(|known| &known.manifest.app) {
                Some(app) if *app == manifest.app => {}
                Some(app) => report(&format!(
                    "[jobs]: `cancel` names handler `{other}` of app `{app}`: only jobs of its own app `{}` are within reach",
                    manifest.app
                )),
                None => report(&format!("[jobs]: `cancel` names handler `{other}`, which is not here")),
            }
        }
        if let Some(list) = &handler.migrations {
            let (owner, first) = *apps.entry(&manifest.app).or_insert((file, list));
            if first != list {
                report(&format!("app `{}` has other migrations in {}: let both name one folder", manifest.app, owner.display()));
            }
        }
    }
}

/// Things that may be there once.
struct Once<'a> {
    kind: &'static str,
    seen: HashMap<String, &'a Path>,
}

impl<'a> Once<'a> {
    fn new(kind: &'static str) -> Self {
        Self { kind, seen: HashMap::new() }
    }

    fn enter(&mut self, key: String, shown: &str, file: &'a Path, report: &mut dyn FnMut(&dyn Display)) {
        if let Some(first) = self.seen.get(&key) {
            report(&format!("{} `{shown}` is already in {}", self.kind, first.display()));
        } else {
            self.seen.insert(key, file);
        }
    }
}
