//! The inner loop: a new handler is built and tested outside the checkout, and swapped on every save.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::handlers::target;
use crate::support::host::{Run, fails_naming, succeeded};
use crate::support::{Answer, Host, eventually, process};

/// A folder outside the checkout with new handlers, whose names and flags are given.
async fn made(handlers: &[(&str, &[&str])]) -> PathBuf {
    let folder = process::folder("new");
    for (name, flags) in handlers {
        let path = folder.join(name).display().to_string();
        succeeded(Run::new(&[&["new", path.as_str()], *flags].concat()).finish().await);
    }
    folder
}

/// What compiling needs beside `PATH` and `HOME`. The target folder is the checkout's, so that what both need is compiled once, and nothing is
/// downloaded: the versions are those of the checkout.
fn toolchain() -> Vec<(&'static str, String)> {
    let given = ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN"].into_iter();
    let given = given.filter_map(|name| Some((name, std::env::var(name).ok()?)));
    let ours = [
        ("CARGO_TARGET_DIR", target().display().to_string()),
        ("CARGO_NET_OFFLINE", "true".to_owned()),
        ("CARGO_INCREMENTAL", "1".to_owned()),
    ];
    given.chain(ours).collect()
}

/// Runs a program in a folder as a person would, and returns what it said; fails the test if it fails.
async fn typed(folder: &Path, program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).envs(toolchain()).env("TIDEMILL_BIN", env!("CARGO_BIN_EXE_tidemill"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

#[tokio::test]
async fn new_handlers_outside_the_checkout_pass_their_own_tests() {
    let folder = made(&[("notes", &[]), ("keeper", &["--topic", "shop.orders"]), ("ticker", &["--job"])]).await;
    for (handler, tests) in [("notes", 3), ("keeper", 2), ("ticker", 2)] {
        let said = typed(&folder.join(handler), "cargo", &["test", "--test", "handler"]).await;
        assert!(said.contains(&format!("{tests} passed; 0 failed")), "{said}");
        assert!(folder.join(handler).join(format!("{handler}.wasm")).is_file(), "the test has built the component");
    }
    // Broken, its own tests say so: they run the component, and the one that was just built.
    let code = folder.join("notes/src/lib.rs");
    let text = std::fs::read_to_string(&code).unwrap();
    std::fs::write(&code, text.replace("    publish(&entry)?;\n", "")).unwrap();
    let mut command = Command::new("cargo");
    command.args(["test", "--test", "handler"]).current_dir(folder.join("notes")).envs(toolchain());
    command.env("TIDEMILL_BIN", env!("CARGO_BIN_EXE_tidemill"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("what_a_user_writes_is_one_row_and_one_event ... FAILED"), "{said}");
}

#[tokio::test]
async fn a_test_without_the_program_says_where_to_get_it() {
    let folder = made(&[("notes", &[])]).await;
    let mut command = Command::new("cargo");
    command
        .args(["test", "--test", "handler"])
        .current_dir(folder.join("notes"))
        .envs(toolchain())
        .env("TIDEMILL_BIN", "/no/such/tidemill");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("TIDEMILL_BIN is /no/such/tidemill, and there is no such file"), "{said}");
}

/// A running `dev --watch` over a folder of handlers.
async fn watching(folder: &Path) -> (Run, Host) {
    // With the patience that compiling needs, and a start has not.
    typed(folder, env!("CARGO_BIN_EXE_tidemill"), &["build", "."]).await;
    let mut run = Run::new(&["dev", "--watch", "--handlers", folder.to_str().unwrap()])
        .env("TIDEMILL_DATA_DIR", process::folder("dev").display().to_string())
        .env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_KAFKA_ADDR", "127.0.0.1:0");
    for (name, value) in toolchain() {
        run = run.env(name, value);
    }
    let host = run.serve().await;
    (run, host)
}

async fn list(run: &Run, host: &Host) -> Answer {
    let made = Run { args: ["token", "--user", "alice"].map(str::to_owned).to_vec(), ..run.clone() }.finish().await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client.get(format!("{}/api/notes", host.http)).bearer_auth(made.stdout.trim());
    Answer::read(request.send().await.unwrap()).await
}

/// Waits until the screen has so many lines with this word.
async fn shows(host: &Host, word: &str, times: usize) -> String {
    eventually(&format!("the screen shows `{word}`"), async || {
        let shown = host.shown();
        (shown.matches(word).count() >= times).then_some(shown)
    })
    .await
}

#[tokio::test]
async fn what_is_saved_is_swapped_and_what_does_not_build_changes_nothing() {
    let folder = made(&[("notes", &[])]).await;
    let (run, host) = watching(&folder).await;
    let code = folder.join("notes/src/lib.rs");
    let first = std::fs::read_to_string(&code).unwrap();
    assert_eq!(list(&run, &host).await.text, "[]");
    shows(&host, "watching ", 1).await;

    let answering = |text: &str| {
        first.replace("Ok(Response::json(200, &entries))", &format!("drop(entries);\n    Ok(Response::json(200, \"{text}\"))"))
    };
    std::fs::write(&code, answering("one")).unwrap();
    let shown = shows(&host, " → ", 1).await;
    assert_eq!(list(&run, &host).await.text, "\"one\"", "{shown}");

    std::fs::write(&code, answering("two").replace("Ok(Response", "Okay(Response")).unwrap();
    let shown = shows(&host, "what ran goes on", 1).await;
    assert!(
        shown.contains("cannot find function") && shown.contains("Okay") && shown.contains("notes does not build"),
        "{shown}"
    );
    assert_eq!(list(&run, &host).await.text, "\"one\"", "the running revision stays");

    // Its imports are not granted any more: it builds, and still does not take the place of what runs.
    let manifest = folder.join("notes/handler.toml");
    let granted = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&code, answering("two")).unwrap();
    std::fs::write(&manifest, granted.replace("[sql]\n", "")).unwrap();
    let shown = shows(&host, "what ran goes on", 2).await;
    assert!(shown.contains("add `[sql]` to handler.toml"), "{shown}");
    assert_eq!(list(&run, &host).await.text, "\"one\"");

    std::fs::write(&manifest, granted).unwrap();
    shows(&host, " → ", 2).await;
    assert_eq!(list(&run, &host).await.text, "\"two\"");
}

#[tokio::test]
async fn a_migration_and_a_handler_come_and_a_handler_goes_while_dev_watches() {
    let folder = made(&[("notes", &[])]).await;
    let (run, host) = watching(&folder).await;
    shows(&host, "watching ", 1).await;
    std::fs::write(
        folder.join("notes/migrations/0002_stars.sql"),
        "ALTER TABLE entries ADD COLUMN stars integer NOT NULL DEFAULT 5;",
    )
    .unwrap();
    let code = folder.join("notes/src/lib.rs");
    let text = std::fs::read_to_string(&code).unwrap();
    let starred = text
        .replace("    text: String,\n}\n", "    text: String,\n    #[serde(skip_serializing, default)]\n    stars: i32,\n}\n")
        .replace("text: text.unwrap_or_default() }", "text: text.unwrap_or_default(), stars: 0 }")
        .replace("SELECT id, author, text FROM entries", "SELECT id, author, text, stars FROM entries");
    assert_ne!(text, starred);
    std::fs::write(&code, starred).unwrap();
    shows(&host, "notes ", 1).await;
    shows(&host, " → ", 1).await;
    let answer = list(&run, &host).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "[]"), "the column is there");

    let path = folder.join("more").display().to_string();
    succeeded(Run::new(&["new", &path]).finish().await);
    let shown = shows(&host, "more is new: ", 1).await;
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = Answer::read(client.get(format!("{}/api/more", host.http)).send().await.unwrap()).await;
    assert_eq!(answer.status, 401, "the route is there and wants a token: {shown}");

    std::fs::remove_dir_all(folder.join("more")).unwrap();
    shows(&host, "more is gone", 1).await;
    let answer = Answer::read(client.get(format!("{}/api/more", host.http)).send().await.unwrap()).await;
    assert_eq!(answer.status, 404);
    assert_eq!(list(&run, &host).await.text, "[]", "the other one answers");
}

#[tokio::test]
async fn a_build_that_cannot_be_is_refused_with_the_way_out() {
    let folder = process::folder("build");
    let manifest = |build: &str| format!("name = \"shell\"\ncomponent = \"shell.wasm\"\n{build}");
    let write = |text: String| std::fs::write(folder.join("handler.toml"), text).unwrap();
    let build = async || Run::new(&["build", folder.to_str().unwrap()]).finish().await;
    write(manifest(""));
    fails_naming(&build().await, &["`shell`", "shell.wasm", "[dev] build"]);
    write(manifest("[dev]\nbuild = \"exit 3\"\n"));
    fails_naming(&build().await, &["`shell`", "`exit 3` failed"]);
    write(manifest("[dev]\nbuild = \"true\"\n"));
    fails_naming(&build().await, &["`true` made no", "shell.wasm"]);
    write(manifest("[dev]\nbuild = \"echo made > shell.wasm\"\n"));
    let ended = succeeded(build().await);
    assert!(ended.stdout.contains("shell.wasm built"), "{}", ended.stdout);
    assert!(succeeded(build().await).stdout.contains("shell.wasm unchanged"));
    std::fs::remove_file(folder.join("handler.toml")).unwrap();
    fails_naming(&build().await, &["there is no handler.toml below this folder"]);
}
