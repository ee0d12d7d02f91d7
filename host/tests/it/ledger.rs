//! Three replicas under load, killed and frozen in turn, with a ledger of what went in and what came of it (promises 4, 6, 8, 11, 22): nothing
//! lost, nothing doubled, no key inverted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::host::Run;
use crate::support::http::token;
use crate::support::{Host, Kind, World, eventually, on_both_brokers, process, records};

on_both_brokers!(c04_c06_c11_three_replicas_killed_and_frozen_in_turn_match_the_ledger,);

/// What became of it must match event by event.
#[derive(Default)]
struct Ledger {
    /// Put into the topic by somebody else: ids of each key, in order.
    consumed: BTreeMap<String, Vec<String>>,
    /// Acknowledged requests, each with a row and an event.
    acknowledged: Vec<String>,
}

/// A replica on ports of its own, which it keeps.
fn replica(world: &World) -> Run {
    let place = || format!("127.0.0.1:{}", process::free_port());
    world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", place()).env("TIDEMILL_ADMIN_ADDR", place())
}

async fn c04_c06_c11_three_replicas_killed_and_frozen_in_turn_match_the_ledger(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.change("probe", |manifest| {
        manifest.insert("retry".into(), toml::toml! { delay = "1s" retries = 100 factor = 1 }.into());
    });
    world.prepared().await;
    let runs: Vec<Run> = (0..3).map(|_| replica(&world)).collect();
    let mut hosts = Vec::new();
    for run in &runs {
        hosts.push(run.serve().await);
    }
    let places: Vec<String> = hosts.iter().map(|host| host.http.clone()).collect();
    let over = AtomicBool::new(false);
    let chaos = async {
        for round in 0..3 {
            tokio::time::sleep(Duration::from_secs(2)).await;
            hosts[round].kill_9();
            tokio::time::sleep(Duration::from_secs(1)).await;
            hosts[round] = runs[round].serve().await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let frozen = &hosts[(round + 1) % 3];
            signal(frozen, "-STOP");
            // Longer than the group's session and the relay's lease.
            tokio::time::sleep(Duration::from_secs(14)).await;
            signal(frozen, "-CONT");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        over.store(true, Ordering::SeqCst);
    };
    let (consumed, acknowledged, ()) = tokio::join!(feed(&world, &over), ask(&world, &places, &over), chaos);
    let ledger = Ledger { consumed, acknowledged };
    assert!(ledger.acknowledged.len() > 100, "only {} requests got through", ledger.acknowledged.len());
    // What fails passes from now on; until then it has held its key up.
    world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    settle(&world, &ledger).await;
    check_effects(&world, &ledger).await;
    check_topic(&world, &ledger).await;
}

/// Events for the probe, ten keys, most of them fine, some failing for now, some published on.
async fn feed(world: &World, over: &AtomicBool) -> BTreeMap<String, Vec<String>> {
    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0_u32.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let key = format!("key-{}", number % 10);
        let kind = match number % 97 {
            13 => "probe.fail",
            n if n % 3 == 0 => "probe.republish",
            _ => "probe.ok",
        };
        let id = format!("e{number}");
        world.send_event(i32::try_from(number % 10 % 3).unwrap(), &key, &id, kind).await;
        sent.entry(key).or_default().push(id);
    }
    sent
}

/// Requests to one replica after the other. What a killed one answers nobody knows; it is in no account.
async fn ask(world: &World, places: &[String], over: &AtomicBool) -> Vec<String> {
    let mut acknowledged = Vec::new();
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1)).pool_max_idle_per_host(0).build().unwrap();
    for (number, place) in (0_u32..).zip(places.iter().cycle()) {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let id = format!("r{number:06}");
        let body = json!({ "id": id, "event_id": id, "topic": world.topic("out"), "key": format!("user-{}", number % 5) });
        let request = client.post(format!("{place}/probe/insert-then-publish")).bearer_auth(token("alice", false)).json(&body);
        match request.send().await {
            Ok(answer) if answer.status() == 200 => acknowledged.push(id),
            Ok(answer) => assert!(answer.status().is_server_error(), "{answer:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    acknowledged
}

fn signal(host: &Host, name: &str) {
    assert!(std::process::Command::new("kill").args([name, &host.pid().to_string()]).status().unwrap().success());
}

async fn settle(world: &World, ledger: &Ledger) {
    let all: Vec<&String> = ledger.consumed.values().flatten().collect();
    let missing = "SELECT count(*) FROM unnest($1::text[]) id WHERE NOT EXISTS (SELECT FROM probe.seen WHERE event_id = id)";
    let sql = world.sql().await;
    eventually("every event is handled", async || {
        let missing: i64 = sql.query_one(missing, &[&all]).await.unwrap().get(0);
        (missing == 0).then_some(())
    })
    .await;
    world.until_outbox_is_empty().await;
}

async fn check_effects(world: &World, ledger: &Ledger) {
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters").await, 0);
    let rows = world.sql().await.query("SELECT event_id, subject_key FROM probe.seen ORDER BY seq", &[]).await.unwrap();
    let mut handled: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        handled.entry(row.get(1)).or_default().push(row.get(0));
    }
    assert_eq!(handled, ledger.consumed, "each event once, those of a key in their order");
    let known: i64 = world
        .sql()
        .await
        .query_one("SELECT count(*) FROM unnest($1::text[]) id JOIN probe.rows USING (id)", &[&ledger.acknowledged])
        .await
        .unwrap()
        .get(0);
    assert_eq!(usize::try_from(known).unwrap(), ledger.acknowledged.len(), "what was acknowledged is there");
}

/// First appearances in the topic: every committed row's event and every copy of a consumed event, those of a key in their order.
async fn check_topic(world: &World, ledger: &Ledger) {
    let mut first: BTreeSet<String> = BTreeSet::new();
    let mut arrived: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records::all(&world.broker.address(), &world.topic("out")).await {
        let id = record.json()["id"].as_str().unwrap().to_owned();
        if first.insert(id.clone()) {
            arrived.entry(record.key.unwrap_or_default()).or_default().push(id);
        }
    }
    let republished = "SELECT subject_key, 'copy-of-' || event_id FROM probe.seen WHERE type = 'probe.republish' ORDER BY seq";
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in world.sql().await.query(republished, &[]).await.unwrap() {
        expected.entry(row.get(0)).or_default().push(row.get(1));
    }
    // In the order of the commits: one whose answer did not come may have committed later than the next.
    let requested = "SELECT id FROM probe.rows WHERE id LIKE 'r%' ORDER BY pg_xact_commit_timestamp(xmin)";
    let requested = world.sql().await.query(requested, &[]).await.unwrap();
    for row in requested {
        let id: String = row.get(0);
        let user = id[1..].parse::<u32>().unwrap() % 5;
        expected.entry(format!("user-{user}")).or_default().push(id);
    }
    assert_eq!(arrived, expected, "each published event, first appearances in the order of their keys");
    println!(
        "{} events in, {} requests, {} events out",
        ledger.consumed.values().map(Vec::len).sum::<usize>(),
        ledger.acknowledged.len(),
        first.len()
    );
}
