//! Copies of handler folders that a test may change: names of topics and groups, limits, anything else of the manifest.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::process;

/// A folder for `--handlers`.
pub struct Handlers {
    /// Where it is.
    pub folder: PathBuf,
}

/// The target folder that cargo built the host in.
pub fn target() -> PathBuf {
    // target/<profile>/tidemill
    Path::new(env!("CARGO_BIN_EXE_tidemill")).ancestors().nth(2).unwrap().to_owned()
}

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

impl Handlers {
    /// No handler yet.
    pub fn none() -> Self {
        Self { folder: process::folder("handlers") }
    }

    /// Adds the probe, its topics and group under names of their own: `probe.in` becomes `probe-TAG.in`.
    pub fn add_probe(&self, tag: &str) {
        self.add("host/tests/guests/probe");
        self.rewrite("probe", |text| {
            text.replace("probe.in", &format!("probe-{tag}.in"))
                .replace("probe.out", &format!("probe-{tag}.out"))
                .replace("probe.missing", &format!("probe-{tag}.missing"))
                .replace("probe-group", &format!("probe-{tag}-group"))
        });
    }

    /// Adds a copy of the probe that was added, as another handler of its app, at `POST /NAME/{steps}`; it consumes nothing, and may cancel the
    /// jobs of these handlers.
    pub fn add_twin(&self, name: &str, cancel: &[&str]) {
        let (source, copy) = (self.folder.join("probe"), self.folder.join(name));
        std::fs::create_dir(&copy).unwrap();
        copy_into(&source, &copy);
        copy_files(&source.join("migrations"), &copy.join("migrations"));
        self.change(name, |manifest| {
            manifest.insert("name".into(), name.into());
            for section in ["topic", "topics", "http"] {
                manifest.remove(section);
            }
            let route = format!("[[http]]\nmethod = 'POST'\npath = '/{name}/{{action}}'");
            manifest.extend(route.parse::<Table>().unwrap());
            let cancel: Vec<Value> = cancel.iter().map(|name| (*name).into()).collect();
            manifest.insert("jobs".into(), Table::from_iter([("cancel".to_owned(), cancel.into())]).into());
        });
    }

    /// Adds the todo product's handlers, unchanged.
    pub fn add_todo(&self) {
        self.add("handlers/task-api");
        self.add("handlers/audit");
        self.add("handlers/recurrence");
        self.add("handlers/reminder");
        self.add("handlers/suppression");
    }

    /// Adds a copy of a handler's folder of the checkout, complete in itself: component and migrations come along.
    pub fn add(&self, path: &str) {
        let source = checkout().join(path);
        let copy = self.folder.join(source.file_name().unwrap());
        std::fs::create_dir(&copy).unwrap();
        let text =
            std::fs::read_to_string(source.join("handler.toml")).unwrap_or_else(|error| panic!("{path}/handler.toml: {error}"));
        let mut manifest: Table = text.parse().unwrap();
        let component = source.join(manifest["component"].as_str().unwrap());
        std::fs::copy(newest(&component), copy.join("component.wasm")).unwrap();
        manifest.insert("component".into(), "component.wasm".into());
        let migrations = source.join(manifest.get("migrations").and_then(Value::as_str).unwrap_or("migrations"));
        if migrations.exists() {
            copy_files(&migrations, &copy.join("migrations"));
            manifest.insert("migrations".into(), "migrations".into());
        }
        std::fs::write(copy.join("handler.toml"), toml::to_string(&manifest).unwrap()).unwrap();
    }

    /// Puts another component in the place of a handler's, by the folder of the checkout that it is built from.
    pub fn replace_component(&self, handler: &str, path: &str) {
        let source = checkout().join(path);
        let manifest: Table = std::fs::read_to_string(source.join("handler.toml")).unwrap().parse().unwrap();
        let component = newest(&source.join(manifest["component"].as_str().unwrap()));
        std::fs::copy(component, self.folder.join(handler).join("component.wasm")).unwrap();
    }

    /// Changes the manifest of one handler as a table.
    pub fn change(&self, handler: &str, change: impl FnOnce(&mut Table)) {
        self.rewrite(handler, |text| {
            let mut manifest = text.parse().unwrap();
            change(&mut manifest);
            toml::to_string(&manifest).unwrap()
        });
    }

    /// Sets one of the handler's limits.
    pub fn limit(&self, handler: &str, name: &str, value: impl Into<Value>) {
        self.set(handler, "limits", name, value.into());
    }

    /// Sets what the handler's manifest says about retries.
    pub fn retry(&self, handler: &str, name: &str, value: impl Into<Value>) {
        self.set(handler, "retry", name, value.into());
    }

    fn set(&self, handler: &str, section: &str, name: &str, value: Value) {
        self.change(handler, |manifest| {
            let section = manifest.entry(section).or_insert_with(|| Table::new().into());
            section.as_table_mut().unwrap().insert(name.into(), value);
        });
    }

    /// Changes the manifest of one handler as text.
    pub fn rewrite(&self, handler: &str, change: impl FnOnce(String) -> String) {
        let path = self.folder.join(handler).join("handler.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(path, change(text)).unwrap();
    }
}

/// A component as it was built last: beside its manifest, where `scripts/build-handlers` puts it, or where cargo left it.
fn newest(beside: &Path) -> PathBuf {
    let name = beside.file_name().unwrap().to_str().unwrap().replace('-', "_");
    let built = target().join("wasm32-wasip2/debug").join(name);
    let age = |path: &PathBuf| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    let found = [beside.to_owned(), built].into_iter().filter(|path| path.exists()).max_by_key(age);
    found.unwrap_or_else(|| panic!("{} is not built: run `scripts/build-handlers`, or `scripts/test`", beside.display()))
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    copy_into(from, to);
}

fn copy_into(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap().flatten().filter(|file| file.path().is_file()) {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
