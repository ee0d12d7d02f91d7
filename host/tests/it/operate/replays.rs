//! Promise 10 from end to end: a running host takes replays up, each has one effect, and its unit ends the dead letter.

use serde_json::json;

use super::{Site, outcomes};
use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c10_a_replayed_event_has_one_effect_however_often_it_is_asked_for,
    c10_a_replay_runs_after_what_waits_of_its_key,
    c10_bytes_that_are_still_no_event_stay_a_dead_letter,
);

/// A running host whose probe has given up one event of this type, and the number of its dead letter.
async fn with_a_letter(kind: Kind, type_: &str) -> (Site, i64) {
    let world = World::probe(kind).await.env("TIDEMILL_ACTOR", "ann").started().await;
    let site = Site::of(world).await;
    site.world.send_event(0, "k", "bad", type_).await;
    let dead = "SELECT id FROM tidemill.dead_letters WHERE event_id = 'bad' AND state = 'dead'";
    let id =
        eventually("the event is given up", async || site.sql.query_opt(dead, &[]).await.unwrap().map(|row| row.get(0))).await;
    (site, id)
}

async fn c10_a_replayed_event_has_one_effect_however_often_it_is_asked_for(kind: Kind) {
    let (site, id) = with_a_letter(kind, "probe.reject").await;
    let (report, code) = site.json(&format!("dlq replay {id} --yes")).await;
    assert_eq!((code, outcomes(&report)), (1, vec![(id, "failed-again".to_owned())]), "{report}");
    let (letter, _) = site.json(&format!("dlq show {id}")).await;
    assert_eq!((&letter["state"], &letter["replays"], site.world.seen("bad").await), (&json!("dead"), &json!(1), 0), "{letter}");

    site.sql.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    let again = site.run("dlq replay --key k --yes --json");
    let ended = futures_util::future::join_all((0..4).map(|_| again.finish())).await;
    for ended in ended {
        let report = serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{}{}", ended.stdout, ended.stderr));
        assert_eq!(ended.status.code(), Some(0), "{report}");
        // Whoever comes late finds none that is dead.
        assert!(matches!(&outcomes(&report)[..], [] | [(_, _)]), "{report}");
    }
    assert_eq!(site.json(&format!("dlq replay {id} --yes")).await.0["rows"][0]["outcome"], "already-replayed");
    let (letter, _) = site.json(&format!("dlq show {id}")).await;
    assert_eq!((&letter["state"], &letter["ended_by"]), (&json!("replayed"), &json!("ann")), "{letter}");
    assert_eq!((site.world.seen("bad").await, site.count("SELECT count(*) FROM tidemill.waiting").await), (1, 0));
}

#[tokio::test]
async fn c08_what_operators_do_with_waiting_events_reaches_a_running_host() {
    let world = World::probe(Kind::Embedded).await.env("TIDEMILL_ACTOR", "ann");
    world.handlers.retry("probe", "delay", "10m");
    let site = Site::of(world.started().await).await;
    let world = &site.world;
    world.send(0, &[("given-up", "bad", "probe.fail"), ("given-up", "after-bad", "probe.ok")]).await;
    world.until_waiting(2).await;
    let (list, _) = site.json("waiting list").await;
    site.cli(&format!("waiting dead-letter {} --reason import --yes", list["rows"][0]["id"])).await;
    world.until_seen("after-bad").await;
    assert_eq!(world.dead().await, [("bad".to_owned(), 1, "operator".to_owned())]);
    world.send(0, &[("later", "later", "probe.fail"), ("later", "after-later", "probe.ok")]).await;
    world.until_waiting(2).await;
    world.let_pass().await;
    site.cli("waiting retry --key later --yes").await;
    world.until_handled(3).await;
    assert_eq!(world.order("later").await, "later after-later");
}

#[tokio::test]
async fn c11_what_operators_do_with_stuck_rows_reaches_a_running_relay() {
    let site = Site::of(World::probe(Kind::Embedded).await.env("TIDEMILL_ACTOR", "ann").started().await).await;
    let world = &site.world;
    let (missing, address) = (world.topic("missing"), world.broker.address());
    let publish = async |id: &str| {
        let body = json!({ "id": id, "event_id": id, "topic": missing, "key": "k" });
        assert_eq!(world.steps("insert-then-publish", body).await.status, 200);
    };
    let stuck = "SELECT count(*) FROM tidemill.outbox WHERE stuck_since IS NOT NULL";
    publish("unwanted").await;
    world.until_count("it is stuck", stuck, 1).await;
    site.cli(&format!("outbox discard --topic {missing} --yes")).await;
    world.until_outbox_is_empty().await;
    publish("wanted").await;
    world.until_count("the next one is stuck", stuck, 1).await;
    records::create_topic(&address, &missing, 1).await;
    site.cli(&format!("outbox retry --topic {missing} --yes")).await;
    world.until_outbox_is_empty().await;
    let sent = records::all(&address, &missing).await;
    assert_eq!(sent.iter().map(|record| record.json()["id"].clone()).collect::<Vec<_>>(), ["wanted"]);
}

async fn c10_a_replay_runs_after_what_waits_of_its_key(kind: Kind) {
    let (site, id) = with_a_letter(kind, "probe.reject").await;
    // Its key has one attempt each until one succeeds.
    site.world.send_event(0, "k", "trusted", "probe.ok").await;
    site.world.until_seen("trusted").await;
    site.world.send_event(0, "k", "waits", "probe.fail").await;
    let parked = "SELECT count(*) FROM tidemill.waiting WHERE event_id = 'waits'";
    eventually("the later event waits", async || (site.count(parked).await == 1).then_some(())).await;
    site.cli(&format!("dlq replay {id} --yes --wait 0s")).await;
    site.sql.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    site.world.until_seen("bad").await;
    let order = "SELECT string_agg(event_id, ' ' ORDER BY seq) FROM probe.seen";
    let order: String = site.sql.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, "trusted waits bad");
}

async fn c10_bytes_that_are_still_no_event_stay_a_dead_letter(kind: Kind) {
    let (site, _) = with_a_letter(kind, "probe.reject").await;
    let (address, topic) = (site.world.broker.address(), site.world.topic("in"));
    records::produce(&address, &topic, Some(0), None, b"\xff no event", &[]).await;
    let dead = "SELECT id FROM tidemill.dead_letters WHERE type = ''";
    let id: i64 = eventually("it is given up", async || site.sql.query_opt(dead, &[]).await.unwrap().map(|row| row.get(0))).await;
    site.fails(&format!("dlq replay {id} --yes"), &["failed-again", "not-an-event"]).await;
    site.cli(&format!("dlq discard {id} --yes")).await;
    assert_eq!(site.json(&format!("dlq show {id}")).await.0["state"], "discarded");
}
