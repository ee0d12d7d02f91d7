//! `tidemill new`: a handler to begin with, which builds, is tested and runs at once, also outside the checkout.

mod kit;
mod place;

use crate::manifest::{check_name, check_topic};
use anyhow::{Context, ensure};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command};
use place::Place;
use std::path::Path;

pub(super) fn command() -> Command {
    Command::new("new")
        .about("Make a handler in Rust: manifest, code, tables, tests")
        .after_help("What it is built with is written beside it (.tidemill-sdk), unless it is made in a checkout of Tidemill.")
        .arg(
            Arg::new("path")
                .value_name("NAME")
                .required_unless_present("kit")
                .help("Its name, or a path that ends with it: a small letter, then up to 40 small letters, digits and `-`"),
        )
        .arg(Arg::new("http").long("http").action(ArgAction::SetTrue).help("It answers HTTP requests (if nothing is said)"))
        .arg(Arg::new("topic").long("topic").value_name("TOPIC").help("It handles the events of this topic"))
        .arg(
            Arg::new("job")
                .long("job")
                .action(ArgAction::SetTrue)
                .help("It handles a topic that a repeating job feeds; a request schedules the job"),
        )
        .group(ArgGroup::new("kind").args(["http", "topic", "job"]))
        .arg(
            Arg::new("kit")
                .long("kit")
                .value_name("DIR")
                .num_args(0..=1)
                .default_missing_value(".")
                .conflicts_with_all(["path", "kind"])
                .help("Make no handler, only what the handler in this folder, or those below it, are built with [default: .]"),
        )
}

/// The files that one kind of handler has of its own.
struct Kind {
    what: &'static str,
    manifest: &'static str,
    code: &'static str,
    migration: &'static str,
    test: &'static str,
}

macro_rules! kind {
    ($folder:literal, $what:literal) => {
        Kind {
            what: $what,
            manifest: include_str!(concat!("../../../templates/", $folder, "/handler.toml")),
            code: include_str!(concat!("../../../templates/", $folder, "/lib.rs")),
            migration: include_str!(concat!("../../../templates/", $folder, "/migration.sql")),
            test: include_str!(concat!("../../../templates/", $folder, "/test.rs")),
        }
    };
}

const HTTP: Kind = kind!("http", "Keeps what users write, and tells of it.");
const TOPIC: Kind = kind!("topic", "Keeps every event of the topic `@TOPIC@`, once.");
const JOB: Kind = kind!("job", "Does its work again and again, as often as it is told.");

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<()> {
    if let Some(folder) = matches.get_one::<String>("kit") {
        return kit_for(Path::new(folder));
    }
    let path = Path::new(matches.get_one::<String>("path").map(String::as_str).unwrap_or_default());
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let app = check_name(name).map_err(anyhow::Error::msg)?;
    check_crate(name)?;
    let topic = matches.get_one::<String>("topic").map(String::as_str);
    topic.map_or(Ok(()), check_topic).map_err(anyhow::Error::msg)?;
    let kind = match (topic, matches.get_flag("job")) {
        (Some(_), _) => TOPIC,
        (None, true) => JOB,
        (None, false) => HTTP,
    };
    ensure!(!path.exists(), "{} is there already: choose another name, or remove it", path.display());
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = Place::of(parent)?;
    place.prepare()?;
    for (file, text) in files(&kind, &app, &place) {
        let text = text.replace("@NAME@", name).replace("@TOPIC@", topic.unwrap_or_default()).replace("@KIT@", place.kit());
        let file = path.join(file);
        std::fs::create_dir_all(file.parent().unwrap_or(path))
            .and_then(|()| std::fs::write(&file, text))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    println!("made {}{}", path.display(), place.note());
    println!("\n  cd {}", path.display());
    println!("  cargo test                          # builds the component, and runs tests/handler.rs in the real engine");
    println!("  tidemill dev --watch --handlers .   # runs it; whatever you save is built and takes the place of what runs");
    println!("\nInto an installation (README.md says what it needs):\n");
    println!("  tidemill build --release .          # the component, optimised");
    println!("  tidemill topics apply --handlers .  # its topics");
    println!("  tidemill deploy .                   # its tables and itself");
    Ok(())
}

/// What a handler is built with, where it is a clone that came without.
fn kit_for(folder: &Path) -> anyhow::Result<()> {
    let folder = folder.canonicalize().with_context(|| format!("cannot find the folder {}", folder.display()))?;
    let is_handler = folder.join(crate::manifest::MANIFEST_FILE).is_file();
    let handlers = if is_handler { folder.parent().unwrap_or(&folder) } else { &folder };
    let kit = kit::write_beside(handlers)?;
    println!("made {}", kit.display());
    let cargo = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
    let (any, this) = (format!("{}/", kit::FOLDER), format!("{}/{}/", kit::FOLDER, env!("CARGO_PKG_VERSION")));
    if is_handler && cargo.contains(&any) && !cargo.contains(&this) {
        println!("its Cargo.toml names another version: write `{this}` there, or use the program of that version");
    }
    Ok(())
}

/// The files of a new handler, with their marks.
fn files(kind: &Kind, app: &str, place: &Place) -> Vec<(String, String)> {
    let root = if place.is_root() { include_str!("../../../templates/root.toml") } else { "" };
    let cargo = match place.is_member() {
        true => include_str!("../../../templates/member.toml").to_owned(),
        false => include_str!("../../../templates/standalone.toml").replace("@ROOT@\n", root),
    };
    let mut files = vec![
        ("handler.toml".to_owned(), kind.manifest.to_owned()),
        ("Cargo.toml".to_owned(), cargo),
        ("src/lib.rs".to_owned(), kind.code.to_owned()),
        (format!("migrations/0001_{app}.sql"), kind.migration.to_owned()),
        ("tests/handler.rs".to_owned(), kind.test.to_owned()),
        (
            "README.md".to_owned(),
            include_str!("../../../templates/README.md").replace("@WHAT@", kind.what).replace("@KITS@\n", place.of_the_kit()),
        ),
    ];
    if !place.is_member() {
        files.push((".gitignore".to_owned(), include_str!("../../../templates/gitignore").to_owned()));
    }
    if place.is_root() {
        files.push(("Cargo.lock".to_owned(), kit::LOCK.to_owned()));
    }
    files
}

/// Names that are good for a handler and bad for a crate.
fn check_crate(name: &str) -> anyhow::Result<()> {
    const KEYWORDS: &[&str] = &[
        "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do", "dyn", "else", "enum",
        "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro", "match", "mod", "move",
        "mut", "override", "priv", "pub", "ref", "return", "self", "static", "struct", "super", "trait", "true", "try", "type",
        "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
    ];
    const CRATES: &[&str] = &[
        "alloc",
        "core",
        "proc-macro",
        "serde",
        "serde-json",
        "std",
        "test",
        "tidemill-sdk",
        "tidemill-test",
        "deps",
        "build",
        "examples",
        "incremental",
    ];
    ensure!(!KEYWORDS.contains(&name), "`{name}` is a word of the language Rust, so no crate can have that name: choose another");
    ensure!(!CRATES.contains(&name), "`{name}` is the name of a crate or folder that building needs: choose another");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(arguments: &[&str]) -> anyhow::Result<()> {
        run(&command().try_get_matches_from([&["new"], arguments].concat())?)
    }

    #[test]
    fn names_and_flags_are_checked_and_nothing_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for (name, says) in [
            ("My-Notes", "a small letter"),
            ("public", "choose another name"),
            ("async", "a word of the language Rust"),
            ("test", "building needs"),
            ("tidemill", "the host's own schema"),
        ] {
            let error = made(&[&at(name)]).unwrap_err().to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
        let error = made(&[&at("notes"), "--topic", "a b"]).unwrap_err().to_string();
        assert!(error.contains("no name for Kafka"), "{error}");
        assert!(made(&[&at("notes"), "--topic", "a", "--job"]).unwrap_err().to_string().contains("cannot be used with"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_is_there_is_refused_and_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        std::fs::create_dir(&notes).unwrap();
        let error = made(&[&notes.display().to_string()]).unwrap_err().to_string();
        assert!(error.contains("is there already"), "{error}");
        assert_eq!(std::fs::read_dir(&notes).unwrap().count(), 0);
    }

    #[test]
    fn a_clone_gets_what_it_is_built_with() {
        let folder = tempfile::tempdir().unwrap();
        let notes = folder.path().join("notes");
        made(&[notes.to_str().unwrap()]).unwrap();
        let kit = folder.path().join(".tidemill-sdk");
        for given in [notes.as_path(), folder.path()] {
            std::fs::remove_dir_all(&kit).unwrap();
            made(&["--kit", given.to_str().unwrap()]).unwrap();
            assert!(kit.join(env!("CARGO_PKG_VERSION")).join("handlers/sdk/Cargo.toml").is_file());
        }
        assert!(made(&["notes", "--kit", "."]).is_err() && made(&["--kit", "--job"]).is_err() && made(&[]).is_err());
    }

    #[test]
    fn every_kind_has_a_manifest_that_is_right() {
        let folder = tempfile::tempdir().unwrap();
        for (name, flags) in [("notes", &[][..]), ("keeper-2", &["--topic", "shop.orders"]), ("tick", &["--job"])] {
            let path = folder.path().join(name);
            made(&[&[path.to_str().unwrap()], flags].concat()).unwrap();
            let text = std::fs::read_to_string(path.join("handler.toml")).unwrap();
            let manifest = crate::manifest::Manifest::parse("handler.toml", &text).unwrap();
            assert_eq!(manifest.name, name);
            for file in std::fs::read_dir(&path).unwrap().flatten().filter(|file| file.path().is_file()) {
                let text = std::fs::read_to_string(file.path()).unwrap();
                assert!(
                    !["@NAME@", "@TOPIC@", "@KIT@", "@ROOT@", "@WHAT@", "@KITS@"].iter().any(|mark| text.contains(mark)),
                    "{:?}",
                    file.path()
                );
            }
        }
        assert!(folder.path().join(".tidemill-sdk").join(env!("CARGO_PKG_VERSION")).join("wit").is_dir());
    }
}
