//! Promises 8 and 18 when a replica freezes in the midst of something: what it was about is neither kept nor held against anybody.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::fleet::{signal, until_ready};
use crate::support::http::token;
use crate::support::{Kind, World, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c08_an_event_under_way_in_a_host_that_freezes_uses_no_attempt() {
    let world = World::probe(Kind::Embedded).await;
    // Frozen for longer than that, and for longer than a heartbeat may be late.
    world.handlers.limit("probe", "wall", "5s");
    world.handlers.retry("probe", "retries", 0);
    let mut world = world.bare().await;
    world.deploy().await;
    world.send_event(0, "k", "e1", "probe.hang").await;
    // It has looked whether it may pass, and may not.
    let asked = "SELECT count(*) FROM pg_locks WHERE relation = 'probe.switches'::regclass";
    eventually("the event is under way", async || (world.count(asked).await > 0).then_some(())).await;
    signal(world.host(), "-STOP");
    world.let_pass().await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    signal(world.host(), "-CONT");
    world.until_seen("e1").await;
    assert_eq!((world.dead().await, world.failed_attempts().await), (Vec::new(), 0), "{}", world.log());
    assert_eq!(world.counted("tidemill_invocations_total", &["outcome=\"timeout\""]).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_request_that_a_frozen_replica_was_reading_is_not_run_on_what_it_had_loaded() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "60s");
    let world = world.bare().await;
    world.deploy().await;
    let frozen = world.member().serve().await;
    let body = json!({ "id": "late" }).to_string();
    let head = format!(
        "POST /probe/insert-then-query HTTP/1.1\r\nhost: probe\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
        token("alice", false),
        body.len()
    );
    let mut socket = TcpStream::connect(frozen.http.trim_start_matches("http://")).await.unwrap();
    socket.write_all(head.as_bytes()).await.unwrap();
    // Said when the body is wanted: the handler has been looked up by then.
    let mut asked = [0; 25];
    socket.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    signal(&frozen, "-STOP");
    world.mark_probe(true);
    let report = world.deploy().await;
    assert_eq!(report["replicas"].as_array().unwrap().len(), 1, "{report}");
    signal(&frozen, "-CONT");
    until_ready(&frozen, true).await;
    assert!(world.is_marked(&frozen.http).await);
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("database-unavailable"), "{answer}");
    assert!(!world.has_row("late").await, "the revision of before has kept something");
}
