//! `kill -9` of the whole process at any moment: what was acknowledged is there, and its event has its effect exactly once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(kill_9_loses_nothing_acknowledged_and_doubles_no_effect);

/// How long the host lives before each kill: early in its start, while it catches up, in the middle of the work.
const LIVES: [u64; 5] = [30, 150, 400, 800, 1500];

async fn kill_9_loses_nothing_acknowledged_and_doubles_no_effect(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let acknowledged = Mutex::new(Vec::new());
    for (round, &life) in LIVES.iter().enumerate() {
        let over = AtomicBool::new(false);
        let workers = (0..4).map(|worker| work(&world, &acknowledged, &over, format!("{round}-{worker}")));
        let pid = world.pid();
        let kill = async {
            tokio::time::sleep(Duration::from_millis(life)).await;
            kill_process(pid);
            over.store(true, Ordering::SeqCst);
        };
        tokio::join!(futures_util::future::join_all(workers), kill);
        world.host().kill_9();
        world.start().await;
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(acknowledged.len() > 20, "only {} requests got through", acknowledged.len());
    let sql = world.sql().await;
    let query = "SELECT count(*) FROM unnest($1::text[]) id WHERE NOT EXISTS (SELECT FROM probe.rows WHERE rows.id = id)";
    let lost: i64 = sql.query_one(query, &[&acknowledged]).await.unwrap().get(0);
    assert_eq!(lost, 0, "acknowledged and not there");
    // Every row, acknowledged or not, has its event, and that its effect.
    let missing = "SELECT count(*) FROM probe.rows WHERE NOT EXISTS (SELECT FROM probe.seen WHERE event_id = rows.id)";
    eventually("every committed row's event is handled", async || (world.count(missing).await == 0).then_some(())).await;
    world.until_outbox_is_empty().await;
    for partition in 0..3 {
        let mark = format!("mark-{partition}");
        world.send_event(partition, "mark", &mark, "probe.ok").await;
        world.until_seen(&mark).await;
    }
    let doubled = "SELECT count(*) FROM (SELECT FROM probe.seen GROUP BY event_id HAVING count(*) > 1) doubled";
    assert_eq!(world.count(doubled).await, 0, "an effect happened twice");
    let invented =
        "SELECT count(*) FROM probe.seen WHERE type <> 'probe.ok' AND NOT EXISTS (SELECT FROM probe.rows WHERE id = event_id)";
    assert_eq!(world.count(invented).await, 0, "an event without its row");
    // Per user in the order of the commits.
    let inversions = "SELECT count(*) FROM (
        SELECT pg_xact_commit_timestamp(r.xmin) AS at, lag(pg_xact_commit_timestamp(r.xmin)) OVER (PARTITION BY s.subject_key ORDER BY s.seq) AS before
        FROM probe.seen s JOIN probe.rows r ON r.id = s.event_id) ordered WHERE before > at";
    assert_eq!(world.count(inversions).await, 0, "events of one key were handled out of order");
}

/// Inserts rows and publishes their events, which the probe itself consumes, until the host is gone.
async fn work(world: &World, acknowledged: &Mutex<Vec<String>>, over: &AtomicBool, name: String) {
    for number in 0u32.. {
        let id = format!("{name}-{number}");
        let body = json!({ "id": id, "event_id": id, "topic": world.topic("in"), "key": format!("user-{}", number % 5) });
        match world.try_probe("insert-then-publish", &body).await {
            Some(answer) if answer.status == 200 => acknowledged.lock().unwrap().push(id),
            Some(answer) => assert!(answer.status >= 500, "{answer:?}"),
            None if over.load(Ordering::SeqCst) => return,
            None => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

fn kill_process(pid: u32) {
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}
