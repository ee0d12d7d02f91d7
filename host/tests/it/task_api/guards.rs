//! Entity tags: what guards an update, and what spares a reader the body.

use serde_json::{Value as Json, json};

use super::patch;
use crate::support::{Answer, Kind, World};
use crate::todo::{UPDATES, call, create, events_in, path};

/// A request of `alice` about a task with one header.
async fn with(world: &World, method: &str, task: &Json, rest: &str, header: (&str, &str)) -> Answer {
    let request = world.request("alice", method, &path(task, rest)).header(header.0, header.1).json(&json!({ "title": "new" }));
    Answer::read(request.send().await.unwrap()).await
}

const CHANGES: [(&str, &str); 4] = [("PATCH", ""), ("POST", "/complete"), ("POST", "/reopen"), ("DELETE", "")];

#[tokio::test]
async fn every_answer_of_one_task_has_its_etag() {
    let world = World::with_todo(Kind::Embedded).await;
    let created = call(&world, "alice", "POST", "/api/tasks", Some(json!({ "title": "tagged" }))).await;
    assert_eq!(created.header("etag"), Some("\"1\""), "{created:?}");
    let task = created.body;
    assert_eq!(patch(&world, &task, &json!({ "title": "new" })).await.header("etag"), Some("\"2\""));
    for (rest, tag) in [("/complete", "\"3\""), ("/complete", "\"3\""), ("/reopen", "\"4\""), ("/reopen", "\"4\"")] {
        assert_eq!(call(&world, "alice", "POST", &path(&task, rest), None).await.header("etag"), Some(tag), "{rest}");
    }
    let shown = call(&world, "alice", "GET", &path(&task, ""), None).await;
    assert_eq!((shown.header("etag"), &shown.body["version"]), (Some("\"4\""), &json!(4)));
}

#[tokio::test]
async fn a_reader_that_has_it_already_gets_no_body() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "read" })).await;
    for (known, status) in [("\"1\"", 304), ("W/\"1\"", 304), ("\"7\", \"1\"", 304), ("*", 304), ("\"2\"", 200), ("1", 400)] {
        let answer = with(&world, "GET", &task, "", ("if-none-match", known)).await;
        assert_eq!((answer.status, answer.text.is_empty()), (status, status == 304), "{known}: {answer:?}");
        assert_eq!(answer.header("etag").is_some(), status < 400, "{known}");
    }
}

#[tokio::test]
async fn a_stale_if_match_changes_nothing() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "guarded" })).await;
    let task = patch(&world, &task, &json!({ "title": "newer" })).await.body;
    for (method, rest) in CHANGES {
        for stale in ["\"1\"", "W/\"2\"", "\"1\", \"3\""] {
            let answer = with(&world, method, &task, rest, ("if-match", stale)).await;
            assert_eq!((answer.status, answer.problem()), (412, "precondition-failed"), "{method} {rest} {stale}: {answer:?}");
            assert!(answer.text.contains("Read it again"), "{answer:?}");
        }
        for malformed in ["2", "\"2", "\"2\" \"3\"", "*, \"2\""] {
            let answer = with(&world, method, &task, rest, ("if-match", malformed)).await;
            assert_eq!((answer.status, answer.text.contains("If-Match")), (400, true), "{method} {rest} {malformed}: {answer:?}");
        }
        assert_eq!(call(&world, "alice", "GET", &path(&task, ""), None).await.body, task, "{method} {rest}");
    }
    let other = json!({ "id": "01989e5c-5b30-7cc1-a6d4-0a1b2c3d4e5f" });
    assert_eq!(with(&world, "PATCH", &other, "", ("if-match", "\"1\"")).await.status, 404, "what is not there is not stale");
    // The same requests with a tag that fits.
    for ((method, rest), fits) in CHANGES.into_iter().zip(["\"2\"", "*", "\"1\", \"4\"", "\"5\""]) {
        let answer = with(&world, method, &task, rest, ("if-match", fits)).await;
        assert!((200..300).contains(&answer.status), "{method} {rest} {fits}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_updates_of_one_version_one_wins() {
    let world = World::with_todo(Kind::Embedded).await;
    let task = create(&world, "alice", json!({ "title": "raced" })).await;
    for round in 1..=5 {
        let tag = format!("\"{round}\"");
        let race = (0..8).map(|number| {
            let request = world.request("alice", "PATCH", &path(&task, "")).header("if-match", &tag);
            request.json(&json!({ "title": format!("round {round} by {number}") })).send()
        });
        let mut statuses: Vec<u16> =
            futures_util::future::join_all(race).await.into_iter().map(|answer| answer.unwrap().status().as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [[200].as_slice(), &[412; 7]].concat(), "round {round}");
    }
    let last = call(&world, "alice", "GET", &path(&task, ""), None).await;
    assert_eq!(last.body["version"], 6);
    let told = events_in(&world, UPDATES, &task, 5).await;
    assert_eq!((told.len(), &told[4].json()["data"]["changes"]["title"]), (5, &last.body["title"]));
}
