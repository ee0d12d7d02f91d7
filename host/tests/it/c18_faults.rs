//! Promise 18 when parts fail: a replica that is dead or frozen, a database that goes away, a damaged cache.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::fleet::{document, signal, until_ready};
use crate::support::host::{Run, fails_naming, succeeded};
use crate::support::http::token;
use crate::support::postgres::{Cluster, Database};
use crate::support::{Broker, Kind, World, eventually};

/// A replica that says nothing is dead to the others after six seconds; the rest is the command's own time on a busy machine.
const HEARTBEAT: Duration = Duration::from_secs(6);
const REST: Duration = Duration::from_secs(9);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_dead_replica_blocks_a_deploy_no_longer_than_its_heartbeat() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let mut second = world.member().serve().await;
    second.kill_9();
    world.mark_probe(true);
    let begun = Instant::now();
    let report = world.deploy().await;
    assert!(begun.elapsed() < HEARTBEAT + REST, "{:?}", begun.elapsed());
    assert_eq!(report["replicas"].as_array().unwrap().len(), 1, "{report}");
    // Dies while the deploy waits for it.
    let mut third = world.member().serve().await;
    signal(&third, "-STOP");
    world.mark_probe(false);
    let begun = Instant::now();
    let run = world.deploy_run();
    let dying = async {
        let preparing = "SELECT count(*) FROM tidemill.candidates WHERE state = 'preparing'";
        eventually("the deploy waits", async || (world.count(preparing).await == 1).then_some(())).await;
        third.kill_9();
    };
    let (ended, ()) = tokio::join!(run.finish(), dying);
    assert_eq!(document(ended)["changed"], true);
    assert!(begun.elapsed() < HEARTBEAT + REST, "{:?}", begun.elapsed());
    let http = world.host().http.clone();
    assert!(!world.is_marked(&http).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_frozen_replica_keeps_nothing_and_begins_nothing_before_it_has_loaded() {
    let world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let mut frozen = world.member().serve().await;
    // Under way when it freezes: it has written, and would commit as soon as it thaws.
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begin = |steps: &str, body: serde_json::Value| {
        client.post(format!("{}/probe/{steps}", frozen.http)).bearer_auth(token("alice", false)).json(&body).send()
    };
    let request = tokio::spawn(begin("insert-then-sleep", json!({ "id": "under-way", "ms": 2000 })));
    world.until_pending().await;
    signal(&frozen, "-STOP");
    world.mark_probe(true);
    let begun = Instant::now();
    let report = world.deploy().await;
    assert!(begun.elapsed() < HEARTBEAT + REST, "{:?}", begun.elapsed());
    assert_eq!(report["replicas"].as_array().unwrap().len(), 1, "{report}");
    // They wait in its socket, to be the first that the replica hears.
    let late: Vec<_> = (0..10).map(|n| tokio::spawn(begin("print-then-query", json!({ "text": format!("late-{n}") })))).collect();
    tokio::time::sleep(Duration::from_millis(200)).await;
    signal(&frozen, "-CONT");
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status().as_u16(), 503, "{}", answer.text().await.unwrap());
    assert!(!world.has_row("under-way").await, "a replica that others went on without kept what it had begun");
    for (n, late) in late.into_iter().enumerate() {
        let late = late.await.unwrap().unwrap();
        let (status, text) = (late.status().as_u16(), late.text().await.unwrap());
        let ran = frozen.log().contains(&format!("printed late-{n}"));
        assert!(
            if ran { text.contains("424242") } else { status == 503 },
            "it began work with what it had loaded before: {status} {text}"
        );
    }
    until_ready(&frozen, true).await;
    assert!(world.is_marked(&frozen.http).await);
    assert!(frozen.sigterm().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_replica_that_cannot_reach_the_database_says_so_and_comes_back_with_what_is_active() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let proxy = crate::support::Proxy::start(world.database.port).await;
    let cut = world.member().env("TIDEMILL_DATABASE_URL", world.database.url(proxy.port)).serve().await;
    proxy.stall(true);
    until_ready(&cut, false).await;
    let answer = world.ask(&cut.http, "print").await;
    assert_eq!((answer.status, answer.problem()), (503, "database-unavailable"), "{answer:?}");
    assert!(!cut.log().contains("printed"), "the handler ran all the same");
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    world.mark_probe(true);
    world.deploy().await;
    proxy.stall(false);
    until_ready(&cut, true).await;
    assert!(world.is_marked(&cut.http).await, "it begins with what is active");
    assert!(world.host().sigterm().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_database_restart_in_the_middle_switches_nothing_and_the_deploy_can_be_repeated() {
    let cluster = Cluster::dedicated();
    let database = Database::create_on(&cluster).await;
    let mut world = World::with_database(database, Broker::shared(Kind::Embedded).await).bare().await;
    world.deploy().await;
    let before = world.active("probe").await;
    let slow = world.member().serve().await;
    signal(&slow, "-STOP");
    world.mark_probe(true);
    let run = world.deploy_run();
    let restarting = async {
        let preparing = "SELECT count(*) FROM tidemill.candidates WHERE state = 'preparing'";
        eventually("the deploy waits", async || (world.count(preparing).await == 1).then_some(())).await;
        cluster.stop();
        cluster.start();
    };
    let (ended, ()) = tokio::join!(run.finish(), restarting);
    signal(&slow, "-CONT");
    fails_naming(&ended, &[]);
    eventually("the database is back", async || world.tool(&["ps"]).finish().await.status.success().then_some(())).await;
    assert_eq!(world.active("probe").await, before, "{}", ended.stderr);
    until_ready(world.host(), true).await;
    until_ready(&slow, true).await;
    world.deploy().await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await && world.is_marked(&slow.http).await);
    let abandoned = "SELECT count(*) FROM tidemill.candidates WHERE state = 'preparing'";
    assert_eq!(world.count(abandoned).await, 0);
}

#[tokio::test]
async fn c18_a_damaged_cache_file_is_compiled_again_and_a_full_disk_costs_time_only() {
    let data = crate::support::process::folder("data");
    let mut world = World::probe(Kind::Embedded).await.env("TIDEMILL_DATA_DIR", data.to_str().unwrap()).bare().await;
    world.deploy().await;
    let files = || -> Vec<_> {
        std::fs::read_dir(data.join("cache"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .filter(|file| file.extension().is_some_and(|end| end == "cwasm"))
            .collect()
    };
    let file = files().pop().unwrap();
    let good = std::fs::read(&file).unwrap();
    for damage in
        [b"short".to_vec(), good.iter().enumerate().map(|(at, byte)| if at == good.len() / 2 { !byte } else { *byte }).collect()]
    {
        assert!(world.host().sigterm().await.success());
        std::fs::write(&file, damage).unwrap();
        world.start_bare().await;
        world.until_logged("damaged").await;
        assert_eq!(world.steps("ok", json!({})).await.status, 200);
        assert!(std::fs::read(&file).unwrap() == good, "the good code is written again");
    }
    // The folder of compiled code is a file system of 64 KiB: writing fails in the midst of it.
    assert!(world.host().sigterm().await.success());
    let cache = data.join("cache");
    std::fs::remove_dir_all(&cache).unwrap();
    std::fs::create_dir(&cache).unwrap();
    let prepared = world.tool(&["serve"]);
    let Some(wrapper) = on_a_small_disk(&cache) else {
        return println!("this machine lets nobody mount: a full disk is not tried");
    };
    let host = Run { wrapper, ..prepared }.serve().await;
    world.put_host(host);
    world.until_logged("cannot be kept").await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    succeeded(world.tool(&["ps"]).finish().await);
}

/// Programs to put in front of a run so that this folder is a file system of 64 KiB for it alone. Nothing where this machine does not allow that.
fn on_a_small_disk(folder: &std::path::Path) -> Option<Vec<String>> {
    let mount = format!("/bin/mount -t tmpfs -o size=64k,mode=700 tmpfs '{}' && exec \"$@\"", folder.display());
    let wrapper = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", &mount, "sh"].map(str::to_owned).to_vec();
    let tried = std::process::Command::new(&wrapper[0]).args(&wrapper[1..]).arg("/bin/true").output();
    tried.is_ok_and(|tried| tried.status.success()).then_some(wrapper)
}
