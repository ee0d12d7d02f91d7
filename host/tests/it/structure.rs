//! The rooms: imports go down only, and the host knows nothing of the product that ships with it.

use std::path::{Path, PathBuf};

/// Every room with its floor. A room may import rooms of lower floors, and itself.
const FLOORS: &[(&str, u32)] = &[
    ("config", 0),
    ("telemetry", 0),
    ("problem", 0),
    ("calendar", 0),
    ("manifest", 1),
    ("kafka", 1),
    ("bindings", 2),
    ("store", 2),
    ("capabilities", 3),
    ("engine", 4),
    ("fleet", 5),
    ("triggers", 6),
    ("relay", 6),
    ("admin", 6),
    ("embedded", 6),
    ("cli", 7),
];

/// Words of the todo product. `\u{0}` joins nothing: the list itself is in no file under `host/src/`.
const PRODUCT: &[&str] =
    &["todo", "task-api", "task_api", "task.created", "task.completed", "audit", "reminder", "recurrence", "suppression"];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push((path.clone(), std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &mut found);
    assert!(found.len() > 30, "the sources of the host are not where this test looks");
    found.into_iter().map(|(path, text)| (path.strip_prefix(&root).unwrap().to_owned(), text)).collect()
}

fn room(path: &Path) -> String {
    let first = path.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The code of a file: no comments, no unit tests at its end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let lines = text.lines().enumerate().map(|(n, line)| (n + 1, line));
    lines.take_while(|(_, line)| !line.starts_with("#[cfg(test)]")).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The rooms that a line names as `crate::room`, also in a grouped import.
fn imports(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.match_indices("crate::")
        .flat_map(|(at, _)| {
            let rest = &line[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => group.split(',').map(|part| word(part.trim())).collect(),
                None => vec![word(rest)],
            }
        })
        .collect()
}

#[test]
fn rooms_import_only_downwards() {
    let floor = |room: &str| FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor);
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let own = room(&path);
        if matches!(own.as_str(), "main" | "lib") {
            continue;
        }
        let own_floor = floor(&own).unwrap_or_else(|| panic!("room `{own}` has no floor in this test"));
        for (line, code) in code(&text) {
            for other in imports(code) {
                let Some(other_floor) = floor(&other) else { continue };
                if other != own && other_floor >= own_floor {
                    wrong.push(format!("{}:{line} imports crate::{other}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up or sideways:\n{}", wrong.join("\n"));
}

#[test]
fn the_host_names_nothing_of_the_product() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (n, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if let Some(word) = PRODUCT.iter().find(|word| lower.contains(**word)) {
                wrong.push(format!("{}:{} says `{word}`", path.display(), n + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "the host speaks of the product:\n{}", wrong.join("\n"));
}

#[test]
fn each_room_keeps_to_its_trade() {
    let sql = ["SELECT ", "INSERT INTO", "DELETE FROM", "UPDATE tidemill"];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let forbidden: &[&str] = match room(&path).as_str() {
            "store" => &["wasmtime"],
            "capabilities" => &["crate::engine"],
            "triggers" | "admin" | "engine" | "fleet" => &sql,
            "relay" => &["crate::engine", ".invoke(", "SELECT ", "INSERT INTO", "DELETE FROM"],
            _ => &[],
        };
        for (line, code) in code(&text) {
            if let Some(word) = forbidden.iter().find(|word| code.contains(**word)) {
                wrong.push(format!("{}:{line} has `{word}`", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "a room does another's work:\n{}", wrong.join("\n"));
}

#[test]
fn the_readme_shows_the_consumer_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let readme = read("README.md");
    let (_, section) = readme.split_once("\n## Write a consumer\n").expect("the section");
    let section = section.split("\n## ").next().unwrap();
    let code = ["handler.toml", "src/lib.rs", "src/entry.rs"].map(|file| read(&format!("handlers/audit/{file}"))).concat();
    let blocks: Vec<&str> =
        section.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).map(|(_, code)| code).collect();
    let shown: Vec<&&str> = blocks.iter().filter(|block| !block.starts_with("[retry]")).collect();
    assert_eq!(shown.len(), 3, "the manifest, the function, the reading");
    for block in shown {
        assert!(code.contains(*block), "not what handlers/audit has:\n{block}");
    }
}
