//! Promise 13 while parts fail: replicas that end, freeze or have a wrong clock, a database that is away.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use crate::support::host::Run;
use crate::support::jobs::{SECOND, text};
use crate::support::postgres::{Cluster, Database};
use crate::support::{Broker, Kind, World, eventually};

fn replica(world: &World) -> Run {
    world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_jobs_that_came_due_without_a_host_fire_late_and_once() {
    let mut world = World::with_probe().await;
    let at = world.database_now().await + 6 * SECOND;
    world.schedule("late", json!({ "at": at })).await;
    world.schedule("again", json!({ "period": SECOND, "first": at })).await;
    world.host().kill_9();
    eventually("it is overdue", async || (world.database_now().await > at + 3 * SECOND).then_some(())).await;
    assert_eq!(world.jobs().await, 2);
    world.start().await;
    let late = world.until_fired("late", 1).await;
    assert!(late[0].timestamp.unwrap() > at / 1_000 + 3_000);
    let again = world.until_fired("again", 2).await;
    let first: jiff::Timestamp = again[0].json()["time"].as_str().unwrap().parse().unwrap();
    assert!(first.as_microsecond() >= at + 2 * SECOND, "one event for all that was missed, then it goes on: {first}");
    assert_eq!((late.len(), late[0].json()["time"].clone()), (1, json!(text(at))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_replica_fires_what_one_that_is_gone_has_scheduled() {
    let mut world = World::with_probe().await;
    let other = world.replica().await;
    let at = world.database_now().await + 2 * SECOND;
    world.schedule("orphan", json!({ "at": at })).await;
    world.host().kill_9();
    let fired = world.until_fired("orphan", 1).await;
    let late = fired[0].timestamp.unwrap() - at / 1_000;
    assert!((0..15_000).contains(&late), "{late} ms late");
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_jobs_that_came_due_while_the_database_was_away_fire_when_it_is_back() {
    let cluster = Cluster::dedicated();
    let database = Database::create_on(&cluster).await;
    let world = World::with_database(database, Broker::shared(Kind::Embedded).await).started().await;
    let at = world.database_now().await + 5 * SECOND;
    let names: Vec<String> = (0..100).map(|number| format!("job-{number}")).collect();
    world.schedule("", json!({ "names": names, "at": at })).await;
    let left = at - world.database_now().await;
    cluster.stop();
    assert!(left > 0, "nothing was due before");
    tokio::time::sleep(Duration::from_secs(7)).await;
    cluster.start();
    world.until_jobs_are_over().await;
    let fired = world.fired().await;
    let ids: BTreeSet<String> = fired.iter().map(|record| record.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 100);
    assert!(fired.iter().all(|record| record.timestamp.unwrap() >= at / 1_000));
    let told = world.log().matches("no job can fire until the database is back").count();
    assert_eq!(told, 1, "said once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_replica_whose_clock_is_an_hour_wrong_changes_nothing() {
    let mut world = World::with_probe().await;
    world.note_fired().await;
    for offset in [3_600, -3_600] {
        // It is alone, and answers the requests: the first times are the database's as well.
        world.host().kill_9();
        let mut wrong = replica(&world).with_wrong_clock(offset).serve().await;
        let stamp = wrong.log().split_whitespace().next().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!((stamp.as_second() - crate::support::http::now() - offset).abs() < 600, "its clock is not wrong: {stamp}");
        let at = world.database_now().await + 2 * SECOND;
        let call = async |steps: &str, body: serde_json::Value| {
            let claims = json!({ "sub": "alice", "exp": crate::support::http::now() + 7_200 });
            let token = crate::support::http::signed(&claims, crate::support::http::KEY);
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            let request = client.post(format!("{}/probe/{steps}", wrong.http)).bearer_auth(token).json(&body);
            let answer = crate::support::Answer::read(request.send().await.unwrap()).await;
            assert_eq!(answer.status, 200, "{offset}: {answer:?}");
            answer.body
        };
        let topic = world.topic("out");
        let name = format!("single {offset}");
        call("schedule", json!({ "name": name, "topic": topic, "at": at })).await;
        let due =
            call("schedule-then-job", json!({ "name": "every", "topic": topic, "period": 60 * SECOND })).await["due"].clone();
        let ahead = due.as_i64().unwrap() - world.database_now().await;
        assert!((50 * SECOND..=60 * SECOND).contains(&ahead), "{offset}: one period from now: {ahead}");
        let due = call("schedule-then-job", json!({ "name": "cron", "topic": topic, "cron": "* * * * *" })).await["due"].clone();
        let ahead = due.as_i64().unwrap() - world.database_now().await;
        assert!((-SECOND..=60 * SECOND).contains(&ahead), "{offset}: the next minute: {ahead}");
        let late = eventually("it fires", async || {
            let sql = "SELECT (extract(epoch FROM at) * 1000000)::int8 FROM public.fired WHERE job = $1";
            world.sql().await.query_opt(sql, &[&name]).await.unwrap().map(|row| row.get::<_, i64>(0) - at)
        })
        .await;
        assert!((0..15 * SECOND).contains(&late), "{offset}: {late} µs late");
        wrong.kill_9();
        world.start().await;
    }
    // Nothing of the wrong replicas' doing keeps the events from leaving, each as one. A process that is killed may have sent it and not
    // forgotten it yet: then the next one sends it again.
    for offset in [3_600, -3_600] {
        let fired = world.until_fired(&format!("single {offset}"), 1).await;
        let ids: std::collections::HashSet<String> = fired.iter().map(|record| record.json()["id"].to_string()).collect();
        assert_eq!(ids.len(), 1);
    }
}

/// Numbers that look random, the same ones in every run.
fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

const JOBS: u64 = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_c14_three_replicas_with_kills_and_cancels_fire_or_cancel_each_of_10_000_jobs() {
    let world = World::with_probe().await;
    world.note_fired().await;
    let run = replica(&world);
    let mut others = [run.serve().await, run.serve().await];
    let begin = world.database_now().await + 3_600 * SECOND;
    for first in (0..JOBS).step_by(100) {
        // A hundred at a time are due within the same milliseconds, for about ten seconds.
        let names: Vec<String> = (first..first + 100).map(|number| format!("job-{number}")).collect();
        let at = begin + i64::try_from(first).unwrap() * 1_000;
        let key = format!("k{}", first / 100 % 7);
        let body = json!({ "names": names, "topic": world.topic("out"), "at": at, "key": key });
        assert_eq!(world.steps("schedule", body).await.status, 200);
    }
    // From here on the first are due in two seconds, however long it took to schedule them all.
    let shift = format!(
        "UPDATE tidemill.jobs SET due = due - ({begin} * interval '1 microsecond' - (clock_timestamp() + interval '2 s' - 'epoch'))"
    );
    world.sql().await.batch_execute(&shift).await.unwrap();
    let over = AtomicBool::new(false);
    let chaos = async {
        let mut random = random(7);
        while world.jobs().await > 0 {
            let victim = random(2) as usize;
            others[victim].kill_9();
            tokio::time::sleep(Duration::from_millis(100 + random(400))).await;
            others[victim] = run.serve().await;
            tokio::time::sleep(Duration::from_millis(random(700))).await;
        }
        over.store(true, Ordering::SeqCst);
    };
    let cancels = futures_util::future::join_all((0..4).map(|worker| cancel_some(&world, worker, &over)));
    let (cancelled, ()) = tokio::join!(cancels, chaos);
    let cancelled: Vec<String> = cancelled.into_iter().flatten().collect();
    world.until_outbox_is_empty().await;

    let rows = world.sql().await.query("SELECT job, event_id FROM public.fired", &[]).await.unwrap();
    let fired: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let ids: BTreeSet<String> = rows.iter().map(|row| row.get(1)).collect();
    println!("{} fired, {} cancelled", rows.len(), cancelled.len());
    assert_eq!((fired.len(), ids.len()), (rows.len(), rows.len()), "no job and no id twice");
    let gone: BTreeSet<String> = cancelled.iter().cloned().collect();
    assert_eq!(gone.len(), cancelled.len(), "no job was cancelled twice");
    assert_eq!(fired.intersection(&gone).count(), 0, "what was cancelled has not fired");
    assert_eq!(fired.len() + gone.len(), JOBS as usize, "fired + cancelled = scheduled");
    assert!(gone.len() > 500 && fired.len() > 500, "both happened");
    let sent: BTreeSet<String> =
        world.fired().await.iter().map(|record| record.json()["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(sent, ids, "all of them left, and nothing else");
}

/// Cancels jobs at random until it is over: those that were waiting.
async fn cancel_some(world: &World, worker: u64, over: &AtomicBool) -> Vec<String> {
    let (mut random, mut cancelled) = (random(worker + 100), Vec::new());
    while !over.load(Ordering::SeqCst) {
        let names: Vec<String> = (0..5).map(|_| format!("job-{}", random(JOBS))).collect();
        match world.try_probe("cancel", &json!({ "names": names })).await {
            Some(answer) if answer.status == 200 => {
                let waiting = names.into_iter().zip(answer.body["cancelled"].as_array().unwrap().clone());
                cancelled.extend(waiting.filter(|(_, was_waiting)| *was_waiting == true).map(|(name, _)| name));
            }
            // Nothing of it happened.
            Some(answer) => assert!(answer.body["kind"] == "Unavailable", "{answer:?}"),
            None => panic!("this replica is never killed"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cancelled
}
