//! `tidemill dev`: the whole product from one command, on parts of its own.

use serde_json::{Value as Json, json};

use crate::support::handlers::Handlers;
use crate::support::host::Run;
use crate::support::{Answer, Host, eventually, process, records};

/// `dev` on free ports with the todo product and a data folder of its own.
fn dev() -> Run {
    let handlers = Handlers::none();
    handlers.add_todo();
    Run::new(&["dev", "--handlers", handlers.folder.to_str().unwrap()])
        .env("TIDEMILL_DATA_DIR", process::folder("dev").display().to_string())
        .env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
        .env("TIDEMILL_KAFKA_ADDR", "127.0.0.1:0")
}

/// A request with a token that `tidemill token` made.
async fn call(run: &Run, host: &Host, method: &str, path: &str, body: Option<Json>) -> Answer {
    let made = Run { args: ["token", "--user", "alice"].map(str::to_owned).to_vec(), ..run.clone() }.finish().await;
    assert!(made.status.success(), "{}", made.stderr);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut request = client.request(method.parse().unwrap(), format!("{}{path}", host.http)).bearer_auth(made.stdout.trim());
    if let Some(body) = body {
        request = request.json(&body);
    }
    Answer::read(request.send().await.unwrap()).await
}

/// Processes, other than the tests themselves, whose command line names the data folder.
fn running(run: &Run) -> Vec<String> {
    let folder = &run.env["TIDEMILL_DATA_DIR"];
    let lines =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(folder.as_str())).collect()
}

/// Waits until nothing of a `dev` is left running.
async fn nothing_left(run: &Run) {
    eventually("no process of its own is left", async || running(run).is_empty().then_some(())).await;
}

#[tokio::test]
async fn dev_runs_the_whole_path_and_keeps_its_data() {
    let run = dev();
    let mut host = run.serve().await;
    let kafka = host.kafka.clone().expect("the ready line names the embedded broker");
    assert_eq!(records::partition_count(&kafka, "todo.task-events.dlq").await, 1, "dead-letter topics are made, too");
    let created = call(&run, &host, "POST", "/api/tasks", Some(json!({ "title": "first" }))).await;
    assert_eq!(created.status, 201, "{created:?}");
    let events = eventually("the event is in the embedded broker", async || {
        Some(records::all(&kafka, "todo.task-events").await).filter(|events| !events.is_empty())
    })
    .await;
    assert_eq!((events.len(), events[0].key.as_deref()), (1, Some("alice")));
    let history = format!("/api/tasks/{}/history", created.body["id"].as_str().unwrap());
    let audited = async |host: &Host| call(&run, host, "GET", &history, None).await.body["items"].as_array().map(Vec::len);
    eventually("the event is audited", async || (audited(&host).await == Some(1)).then_some(())).await;
    assert!(host.sigterm().await.success(), "SIGTERM ends with exit code 0");
    nothing_left(&run).await;

    let mut host = run.serve().await;
    assert_eq!(audited(&host).await, Some(1));
    let second = call(&run, &host, "POST", "/api/tasks", Some(json!({ "title": "second" }))).await;
    assert_eq!(second.status, 201, "{second:?}");
    host.kill_9();
    nothing_left(&run).await;

    let host = run.serve().await;
    let tasks = call(&run, &host, "GET", "/api/tasks", None).await;
    assert_eq!(tasks.body["items"].as_array().map(Vec::len), Some(2), "{tasks:?}");
    let history = format!("/api/tasks/{}/history", second.body["id"].as_str().unwrap());
    eventually("the second is audited, too", async || {
        let items = call(&run, &host, "GET", &history, None).await.body["items"].as_array().map(Vec::len);
        (items == Some(1)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn dev_shows_where_things_are_and_what_to_try() {
    let run = dev();
    let host = run.serve().await;
    let shown = eventually("the screen is complete", async || Some(host.shown()).filter(|shown| shown.contains("kcat"))).await;
    for word in [&host.http, &host.admin, host.kafka.as_ref().unwrap(), "curl", "/api/tasks"] {
        assert!(shown.contains(word), "`{word}` is missing in: {shown}");
    }
    assert!(!shown.contains("{{"), "a placeholder was left: {shown}");

    // What it shows to operators works, and the admin token is named, never printed.
    let folder = std::path::Path::new(&run.env["TIDEMILL_DATA_DIR"]);
    let token = std::fs::read_to_string(folder.join("admin.token")).unwrap();
    assert!(shown.contains("admin.token") && !host.shown().contains(&token), "{shown}");
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let letters = client.get(format!("{}/v1/dead-letters", host.admin)).bearer_auth(&token).send().await.unwrap();
    assert_eq!(Answer::read(letters).await.body, json!({ "rows": [], "next": null }));
    let url = shown.split("TIDEMILL_DATABASE_URL='").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    let listed = Run::new(&["dlq", "list"]).env("TIDEMILL_DATABASE_URL", url).finish().await;
    assert!(listed.status.success() && listed.stdout == "no dead letters\n", "{}{}", listed.stdout, listed.stderr);
}

#[tokio::test]
async fn two_devs_on_one_data_folder_do_not_share_it() {
    let run = dev();
    let _first = run.serve().await;
    let second = run.finish().await;
    assert!(!second.status.success() && second.status.code().is_some(), "{}{}", second.stdout, second.stderr);
    assert!(
        second.stderr.contains(run.env["TIDEMILL_DATA_DIR"].as_str()) && !second.stderr.contains("panicked"),
        "{}",
        second.stderr
    );
}
