//! The inner loop: a new handler is built and tested outside the checkout, and swapped on every save.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::handlers::{Handlers, target};
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

/// Held by a test that builds: handlers of one name have one place in the target folder, and cargo would let only one build at a time anyway.
static BUILDING: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a program in a folder as a person would: nobody told it to take components as they are.
async fn ran(folder: &Path, program: &str, args: &[&str], tidemill: &str) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).envs(toolchain()).env("TIDEMILL_BIN", tidemill).env_remove("TIDEMILL_TEST_BUILD");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same with the program of these tests; returns what it said, and fails the test if it fails.
async fn typed(folder: &Path, program: &str, args: &[&str]) -> String {
    let output = ran(folder, program, args, env!("CARGO_BIN_EXE_tidemill")).await;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

/// The handler's own tests, which have to fail: what they said.
async fn failed(folder: &Path, tidemill: &str) -> String {
    let output = ran(folder, "cargo", &["test", "--test", "handler"], tidemill).await;
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn new_handlers_outside_the_checkout_pass_their_own_tests() {
    let _building = BUILDING.lock().await;
    // The SDK is made of a crate `digest`, too.
    let folder = made(&[("notes", &[]), ("digest", &["--topic", "shop.orders"]), ("ticker", &["--job"])]).await;
    for (handler, tests) in [("notes", 3), ("digest", 2), ("ticker", 2)] {
        let said = typed(&folder.join(handler), "cargo", &["test", "--test", "handler"]).await;
        assert!(said.contains(&format!("{tests} passed; 0 failed")), "{said}");
        assert!(folder.join(handler).join(format!("{handler}.wasm")).is_file(), "the test has built the component");
    }
    // Broken, its own tests say so: they run the component, and the one that was just built.
    let code = folder.join("notes/src/lib.rs");
    let text = std::fs::read_to_string(&code).unwrap();
    let silent = text.replace("    publish(&entry)?;\n", "");
    std::fs::write(&code, silent.replace("fn list() -> Result<Response, Problem> {", "fn list() -> Result<Response, Problem> {\n    tidemill_sdk::log::info(\"no tea\", &[]);\n    Err(Problem::new(418))\n}\n\n#[allow(dead_code)]\nfn lost() -> Result<Response, Problem> {")).unwrap();
    let said = failed(&folder.join("notes"), env!("CARGO_BIN_EXE_tidemill")).await;
    assert!(said.contains("what_a_user_writes_is_one_row_and_one_event ... FAILED"), "{said}");
    let (_, seen) = said.split_once("---- a_user_sees_only_their_own").expect("this test has failed, too");
    let seen = seen.split("\n---- ").next().unwrap();
    assert!(seen.contains("the answer was 418 instead of 200") && seen.contains("the host's last log lines:"), "{said}");
    assert!(seen.contains("no tea"), "{said}");
}

#[tokio::test]
async fn a_test_without_the_program_says_where_to_get_it() {
    let _building = BUILDING.lock().await;
    let folder = made(&[("notes", &[])]).await;
    let said = failed(&folder.join("notes"), "/no/such/tidemill").await;
    assert!(said.contains("TIDEMILL_BIN is /no/such/tidemill, and there is no such file"), "{said}");
}

/// A running `dev --watch` over a folder of handlers.
async fn watching(folder: &Path) -> (Run, Host) {
    // With the patience that compiling needs, and a start has not.
    typed(folder, env!("CARGO_BIN_EXE_tidemill"), &["build", "."]).await;
    let run = dev(folder, &["--watch"]);
    let host = run.serve().await;
    shows(&host, "watching ", 1).await;
    (run, host)
}

/// `dev` over a folder of handlers, with a data folder of its own.
fn dev(folder: &Path, flags: &[&str]) -> Run {
    let mut run = Run::new(&[&["dev", "--handlers", folder.to_str().unwrap()], flags].concat())
        .env("TIDEMILL_DATA_DIR", process::folder("dev").display().to_string())
        .env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_KAFKA_ADDR", "127.0.0.1:0");
    for (name, value) in toolchain() {
        run = run.env(name, value);
    }
    run
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// A request of alice.
async fn call(run: &Run, request: reqwest::RequestBuilder) -> Answer {
    let made = Run { args: ["token", "--user", "alice"].map(str::to_owned).to_vec(), ..run.clone() }.finish().await;
    Answer::read(request.bearer_auth(made.stdout.trim()).send().await.unwrap()).await
}

async fn list(run: &Run, host: &Host) -> Answer {
    call(run, client().get(format!("{}/api/notes", host.http))).await
}

async fn write(run: &Run, host: &Host) -> Answer {
    let request = client().post(format!("{}/api/notes", host.http)).json(&serde_json::json!({ "text": "hello" }));
    let answer = call(run, request).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer
}

/// The status of an answer to nobody.
async fn status(host: &Host, path: &str) -> u16 {
    client().get(format!("{}{path}", host.http)).send().await.unwrap().status().as_u16()
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
    let _building = BUILDING.lock().await;
    let folder = made(&[("notes", &[])]).await;
    let (run, host) = watching(&folder).await;
    let code = folder.join("notes/src/lib.rs");
    let first = std::fs::read_to_string(&code).unwrap();
    assert_eq!(list(&run, &host).await.text, "[]");

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
    std::fs::write(&manifest, granted.replace("[sql]\n", "")).unwrap();
    std::fs::write(&code, answering("two")).unwrap();
    shows(&host, "add `[sql]` to handler.toml", 1).await;
    assert_eq!(list(&run, &host).await.text, "\"one\"");

    std::fs::write(&manifest, granted).unwrap();
    shows(&host, " → ", 2).await;
    assert_eq!(list(&run, &host).await.text, "\"two\"");
}

#[tokio::test]
async fn a_migration_and_a_handler_come_and_a_handler_goes_while_dev_watches() {
    let _building = BUILDING.lock().await;
    let folder = made(&[("notes", &[])]).await;
    let (run, host) = watching(&folder).await;
    write(&run, &host).await;

    // An editor makes the file before there is anything in it.
    let migration = folder.join("notes/migrations/0002_stars.sql");
    std::fs::write(&migration, "").unwrap();
    let shown = shows(&host, "what ran goes on", 1).await;
    assert!(shown.contains("0002_stars.sql") && shown.contains("no statement yet"), "{shown}");
    std::fs::write(&migration, "ALTER TABLE entries ADD COLUMN stars integer NOT NULL DEFAULT 5;").unwrap();
    let code = folder.join("notes/src/lib.rs");
    let text = std::fs::read_to_string(&code).unwrap();
    let starred = text
        .replace("    text: String,\n}\n", "    text: String,\n    stars: i32,\n}\n")
        .replace("text: text.unwrap_or_default() }", "text: text.unwrap_or_default(), stars: 0 }")
        .replace("SELECT id, author, text FROM entries", "SELECT id, author, text, stars FROM entries");
    assert_ne!(text, starred);
    std::fs::write(&code, starred).unwrap();
    eventually("the new code reads the new column", async || {
        let answer = list(&run, &host).await;
        assert_eq!(answer.status, 200, "the old code runs until the column is there: {}", host.shown());
        (answer.body[0]["stars"] == 5).then_some(())
    })
    .await;

    std::fs::write(&migration, "ALTER TABLE entries ADD COLUMN stars integer NOT NULL DEFAULT 6;").unwrap();
    let shown = shows(&host, "0002_stars.sql of app `notes` was changed after it was applied", 1).await;
    assert!(shown.contains("a higher number") && shown.contains(&run.env["TIDEMILL_DATA_DIR"]), "{shown}");
    std::fs::write(&migration, "ALTER TABLE entries ADD COLUMN stars integer NOT NULL DEFAULT 5;").unwrap();

    let path = folder.join("more").display().to_string();
    succeeded(Run::new(&["new", &path]).finish().await);
    let shown = shows(&host, "more is new: ", 1).await;
    assert_eq!(status(&host, "/api/more").await, 401, "the route is there and wants a token: {shown}");

    std::fs::remove_dir_all(folder.join("more")).unwrap();
    shows(&host, "more is gone", 1).await;
    assert_eq!(status(&host, "/api/more").await, 404);
    assert_eq!(list(&run, &host).await.body[0]["stars"], 5, "the other one answers");
}

#[tokio::test]
async fn a_handler_is_renamed_in_one_step_and_one_that_is_away_for_a_moment_stays() {
    let _building = BUILDING.lock().await;
    let folder = made(&[("notes", &[]), ("more", &[])]).await;
    let (run, host) = watching(&folder).await;
    write(&run, &host).await;

    // As `git checkout` does it.
    let manifest = folder.join("notes/handler.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    std::fs::write(&manifest, &text).unwrap();

    // Under another name it has the same routes and the same tables.
    let rights = "CREATE POLICY own_memo ON entries TO {{role:memo}} USING (author = current_setting('tidemill.subject', true));\n\
                  GRANT SELECT, INSERT ON entries TO {{role:memo}};\n";
    std::fs::write(folder.join("notes/migrations/0002_memo.sql"), rights).unwrap();
    std::fs::write(&manifest, text.replacen("name = \"notes\"", "name = \"memo\"\napp = \"notes\"", 1)).unwrap();
    shows(&host, "notes is gone", 1).await;
    let shown = shows(&host, "memo is new: ", 1).await;
    assert_eq!((shown.matches("notes is gone").count(), shown.matches("notes is new").count()), (1, 0), "{shown}");
    assert_eq!(list(&run, &host).await.body[0]["text"], "hello", "{}", host.shown());
}

#[tokio::test]
async fn dev_runs_what_the_folder_has_whatever_it_had_when_it_ran_before() {
    let handlers = Handlers::none();
    handlers.add_probe("left");
    handlers.add_twin("twin", &[]);
    let run = dev(&handlers.folder, &[]);
    let mut host = run.serve().await;
    assert_ne!(status(&host, "/twin/x").await, 404);
    assert!(host.sigterm().await.success());

    // Renamed while nobody watched, with the route that it had: beside the earlier one it could not run.
    handlers.change("twin", |manifest| {
        manifest.insert("name".into(), "heir".into());
    });
    let mut host = run.serve().await;
    assert_ne!(status(&host, "/twin/x").await, 404);
    let shown = host.shown();
    let url = shown.split("TIDEMILL_DATABASE_URL='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    let active = succeeded(Run::new(&["ps"]).env("TIDEMILL_DATABASE_URL", url).finish().await).stdout;
    assert!(active.contains("heir") && active.contains("probe") && !active.contains("twin"), "{active}");
    assert!(host.sigterm().await.success());

    std::fs::remove_dir_all(handlers.folder.join("twin")).unwrap();
    let host = run.serve().await;
    assert_eq!(status(&host, "/twin/x").await, 404);
}

#[tokio::test]
async fn a_start_waits_for_what_is_wrong_to_be_mended() {
    let _building = BUILDING.lock().await;
    let folder = made(&[("notes", &[])]).await;
    typed(&folder, env!("CARGO_BIN_EXE_tidemill"), &["build", "."]).await;
    let (code, migration) = (folder.join("notes/src/lib.rs"), folder.join("notes/migrations/0001_notes.sql"));
    let (text, tables) = (std::fs::read_to_string(&code).unwrap(), std::fs::read_to_string(&migration).unwrap());
    std::fs::write(&code, text.replace("Ok(Response", "Okay(Response")).unwrap();
    std::fs::write(&migration, "").unwrap();
    let run = dev(&folder, &["--watch"]);
    let host = run.begin();
    let shown = shows(&host, "waiting for a save that mends it", 1).await;
    assert!(shown.contains("notes does not build"), "{shown}");
    std::fs::write(&code, text).unwrap();
    let shown = shows(&host, "waiting for a save that mends it", 2).await;
    assert!(shown.contains("no statement yet"), "{shown}");
    std::fs::write(&migration, tables).unwrap();
    let host = host.ready().await;
    assert_eq!(list(&run, &host).await.text, "[]");
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
