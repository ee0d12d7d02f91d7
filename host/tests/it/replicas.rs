//! Several replicas share the relay: evenly, without doubling, and with a replacement within seconds for one that is gone (promises 11, 22).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::support::host::Run;
use crate::support::outbox::{self, Sent, add, all_arrived, load};
use crate::support::postgres::cluster;
use crate::support::{Broker, Host, Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c11_replicas_share_the_relay_and_hand_over_without_a_copy,
    c11_others_take_over_from_a_killed_relay,
    c11_what_waits_for_a_missing_topic_leaves_in_order_when_slices_were_handed_over_meanwhile,
    c22_others_take_over_from_a_frozen_relay_and_it_does_no_harm_when_it_thaws,
);

/// The server gives a silent holder's slices up after this long.
const SILENCE: Duration = Duration::from_secs(10);

/// A further replica, past any proxy.
fn replica(world: &World) -> Run {
    let run = world.command(&["serve"]).env("TIDEMILL_DATABASE_URL", world.database.url(cluster().port));
    run.env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0")
}

/// One number of a replica's `/metrics`.
async fn metric(host: &Host, name: &str) -> i64 {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let page = client.get(format!("{}/metrics", host.admin)).send().await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name} in\n{page}")).parse().unwrap()
}

/// How many slices a replica holds.
async fn held(host: &Host) -> i64 {
    metric(host, "tidemill_relay_slices").await
}

/// Waits until these replicas hold so many slices, in any order.
async fn until_held(hosts: &[&Host], expected: &[i64]) {
    eventually(&format!("the slices are shared as {expected:?}"), async || {
        let mut shares = futures_util::future::join_all(hosts.iter().map(|host| held(host))).await;
        shares.sort_unstable();
        (shares == expected).then_some(())
    })
    .await;
}

fn signal(host: &Host, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &host.pid().to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Adds events while `meanwhile` runs.
async fn under_load<T>(world: &World, topic: &str, meanwhile: impl Future<Output = T>) -> (Sent, T) {
    let over = AtomicBool::new(false);
    let meanwhile = async {
        let result = meanwhile.await;
        over.store(true, Ordering::SeqCst);
        result
    };
    tokio::join!(load(world, topic, &over), meanwhile)
}

/// Many events at once.
async fn backlog(world: &World, topic: &str, name: &str) -> Sent {
    let (mut sql, mut sent) = (world.sql().await, Sent::new());
    let keys: Vec<String> = outbox::keys(name).into_iter().flat_map(|key| vec![key; 3_000]).collect();
    add(&mut sql, topic, &keys, &mut sent).await;
    sent
}

async fn c11_replicas_share_the_relay_and_hand_over_without_a_copy(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let topic = world.topic("out");
    until_held(&[world.host()], &[8]).await;
    // What was read ahead when another joins.
    let mut sent = backlog(&world, &topic, "backlog").await;
    let run = replica(&world);
    let mut second = run.serve().await;
    let first = world.take_host();
    let joining = async {
        until_held(&[&first, &second], &[4, 4]).await;
        let third = run.serve().await;
        until_held(&[&first, &second, &third], &[2, 3, 3]).await;
        assert!(second.sigterm().await.success());
        until_held(&[&first, &third], &[4, 4]).await;
        let ready = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/readyz", first.admin));
        let body: serde_json::Value = ready.send().await.unwrap().json().await.unwrap();
        // The probe publishes to a topic that is missing on purpose.
        assert!(body["notes"].as_object().is_none_or(|notes| notes.keys().all(|name| name == "topics")), "{body}");
        third
    };
    let (loaded, third) = under_load(&world, &topic, joining).await;
    sent.extend(loaded);
    assert_eq!(all_arrived(&world, &topic, &sent).await, 0, "what is handed over is sent once");
    drop((first, third));
}

async fn c11_what_waits_for_a_missing_topic_leaves_in_order_when_slices_were_handed_over_meanwhile(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let (topic, mut sent) = (format!("{}-later", world.topic("out")), Sent::new());
    let mut sql = world.sql().await;
    // The first one, which is tried alone, in a slice that will be given up; the others in slices that stay.
    let slice = "SELECT k, (tidemill.key_bucket($1, convert_to(k, 'UTF8')) >> 9) >= 4 FROM unnest($2::text[]) k";
    let names: Vec<String> = (0..40).map(|number| format!("k{number}")).collect();
    let found = sql.query(slice, &[&topic, &names]).await.unwrap();
    let of = |upper: bool| found.iter().filter(move |row| row.get::<_, bool>(1) == upper).map(|row| row.get::<_, String>(0));
    let keys: Vec<String> = of(true).take(1).chain(of(false).take(9)).collect();
    add(&mut sql, &topic, &keys, &mut sent).await;
    eventually("the topic is known to be missing", async || {
        world.readyz().await.body["stuck"].as_array().filter(|stuck| !stuck.is_empty()).map(drop)
    })
    .await;
    // Until nothing of it is on its way.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let first = world.take_host();
    until_waiting(&first, 10).await;
    let second = replica(&world).serve().await;
    until_held(&[&first, &second], &[4, 4]).await;
    records::create_topic(&world.broker.address(), &topic, 3).await;
    for _ in 0..3 {
        add(&mut sql, &topic, &keys, &mut sent).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    all_arrived(&world, &topic, &sent).await;
}

async fn c11_others_take_over_from_a_killed_relay(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let topic = world.topic("out");
    let run = replica(&world);
    let (mut second, third) = (run.serve().await, run.serve().await);
    until_held(&[world.host(), &second, &third], &[2, 3, 3]).await;
    let first = world.take_host();
    let killing = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            second.kill_9();
            let killed = Instant::now();
            until_held(&[&first, &third], &[4, 4]).await;
            println!("taken over {:?} after kill -9", killed.elapsed());
            assert!(killed.elapsed() < SILENCE, "a closed connection needs no timeout");
            second = run.serve().await;
            until_held(&[&first, &second, &third], &[2, 3, 3]).await;
        }
    };
    let (sent, ()) = under_load(&world, &topic, killing).await;
    all_arrived(&world, &topic, &sent).await;
}

async fn c22_others_take_over_from_a_frozen_relay_and_it_does_no_harm_when_it_thaws(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let topic = world.topic("out");
    let run = replica(&world);
    let (second, third) = (run.serve().await, run.serve().await);
    until_held(&[world.host(), &second, &third], &[2, 3, 3]).await;
    let first = world.take_host();
    // So that it is frozen in the middle of its work.
    let mut sent = backlog(&world, &topic, "backlog").await;
    let freezing = async {
        signal(&second, "-STOP");
        let frozen = Instant::now();
        until_held(&[&first, &third], &[4, 4]).await;
        println!("taken over {:?} after the freeze", frozen.elapsed());
        assert!(frozen.elapsed() < SILENCE + Duration::from_secs(15), "within seconds");
        // The others work on for a while before it thaws.
        tokio::time::sleep(Duration::from_secs(17).saturating_sub(frozen.elapsed())).await;
        signal(&second, "-CONT");
        until_held(&[&first, &second, &third], &[2, 3, 3]).await;
    };
    let (loaded, ()) = under_load(&world, &topic, freezing).await;
    sent.extend(loaded);
    all_arrived(&world, &topic, &sent).await;
}

/// Waits until the relay of this replica has seen so many rows, and so has taken as many as it may.
async fn until_waiting(host: &Host, count: i64) {
    eventually("the relay has the rows", async || (metric(host, "tidemill_outbox_waiting").await >= count).then_some(())).await;
}

#[tokio::test]
async fn c22_what_a_frozen_relay_had_queued_does_no_harm() {
    let broker = Broker::dedicated(Kind::Embedded).await;
    let mut world = World::probe_on(Arc::clone(&broker)).await.started().await;
    let (topic, keys, mut sent) = (world.topic("out"), outbox::keys("k"), Sent::new());
    let mut sql = world.sql().await;
    add(&mut sql, &topic, &keys, &mut sent).await;
    world.until_outbox_is_empty().await;
    let first = world.take_host();
    broker.stop().await;
    for _ in 0..5 {
        add(&mut sql, &topic, &keys, &mut sent).await;
    }
    // All of it is queued in librdkafka when the process is frozen.
    until_waiting(&first, 50).await;
    signal(&first, "-STOP");
    let second = replica(&world).serve().await;
    broker.start().await;
    until_held(&[&second], &[8]).await;
    add(&mut sql, &topic, &keys, &mut sent).await;
    world.until_outbox_is_empty().await;
    signal(&first, "-CONT");
    until_held(&[&first, &second], &[4, 4]).await;
    add(&mut sql, &topic, &keys, &mut sent).await;
    all_arrived(&world, &topic, &sent).await;
}

#[tokio::test]
async fn c22_a_relay_that_is_cut_off_stops_before_another_takes_over() {
    let broker = Broker::dedicated(Kind::Embedded).await;
    let mut world = World::probe_on(Arc::clone(&broker)).await.proxied().await.started().await;
    let (topic, keys, mut sent) = (world.topic("out"), outbox::keys("k"), Sent::new());
    let second = replica(&world).serve().await;
    until_held(&[world.host(), &second], &[4, 4]).await;
    let first = world.take_host();
    let mut sql = world.sql().await;
    broker.stop().await;
    for _ in 0..20 {
        add(&mut sql, &topic, &keys, &mut sent).await;
    }
    until_waiting(&first, 20).await;
    world.proxy().stall(true);
    until_held(&[&second], &[8]).await;
    assert_eq!(held(&first).await, 0, "it has stopped by its own clock");
    broker.start().await;
    assert_eq!(all_arrived(&world, &topic, &sent).await, 0, "it had nothing left in its producer");
    world.proxy().stall(false);
    until_held(&[&first, &second], &[4, 4]).await;
    add(&mut sql, &topic, &keys, &mut sent).await;
    assert_eq!(all_arrived(&world, &topic, &sent).await, 0);
}

#[tokio::test]
async fn c11_a_commit_wakes_the_relays_of_other_replicas() {
    let mut world = World::with_probe().await;
    until_held(&[world.host()], &[8]).await;
    let options = format!("host=127.0.0.1 port={} user=postgres dbname={}", cluster().port, world.database.name);
    let (client, mut connection) = tokio_postgres::connect(&options, NoTls).await.unwrap();
    let (heard, mut rings) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(ring) = message {
                let _ = heard.send(ring.channel().to_owned());
            }
        }
    });
    client.batch_execute("LISTEN tidemill_outbox").await.unwrap();
    let publish = async |id: &str| {
        let event = json!({ "id": id, "event_id": id, "topic": world.topic("out"), "key": id });
        assert_eq!(world.steps("insert-then-publish", event).await.status, 200);
        world.until_outbox_is_empty().await;
        client.batch_execute("SELECT 1").await.unwrap();
    };
    publish("alone").await;
    assert!(rings.try_recv().is_err(), "nobody else is to be told");
    let second = replica(&world).serve().await;
    eventually("the slices are shared", async || (held(&second).await == 4).then_some(())).await;
    publish("shared").await;
    let ring = eventually("it is told", async || rings.try_recv().ok()).await;
    assert_eq!(ring, "tidemill_outbox");
    assert!(world.host().sigterm().await.success());
}
