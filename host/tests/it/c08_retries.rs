//! Promises 6, 8 and 9: an event that fails waits in the database, with the later ones of its key behind it, and is a dead letter in the end.

use crate::support::events::outgoing;
use crate::support::{Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c08_a_restart_neither_forgets_nor_resets_retries,
    c08_the_waits_between_attempts_grow_as_the_manifest_says,
    c08_reject_skips_retries,
    c08_after_a_dead_letter_the_keys_events_get_one_attempt_until_one_succeeds,
    c08_waiting_events_of_a_key_have_a_cap,
    c08_events_that_never_ran_do_not_let_a_stopped_group_go_on,
    c08_an_event_that_keeps_failing_is_retried_three_times_and_then_a_dead_letter,
    c06_the_later_events_of_a_key_wait_behind_one_that_fails_and_no_others_do,
    c08_many_failing_keys_stop_the_group_instead_of_emptying_its_topic,
    c09_bytes_that_are_no_event_are_a_dead_letter_at_first_sight,
);

async fn c08_an_event_that_keeps_failing_is_retried_three_times_and_then_a_dead_letter(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (partition, offset) = world.send_event(0, "k", "bad", "probe.fail").await;
    let dead = "SELECT count(*) FROM tidemill.dead_letters WHERE event_id = 'bad' AND attempts = 4";
    eventually("the event is a dead letter", async || (world.count(dead).await == 1).then_some(())).await;
    assert_eq!(world.seen("bad").await, 0);
    world.until_outbox_is_empty().await;
    let copies = records::all(&world.broker.address(), &format!("{}.dlq", world.topic("in"))).await;
    assert_eq!(copies.len(), 1);
    let header = |name: &str| copies[0].header(name).unwrap_or_default().to_owned();
    assert_eq!(header("tidemill-original-topic"), world.topic("in"));
    assert_eq!(header("tidemill-original-partition"), partition.to_string());
    assert_eq!(header("tidemill-original-offset"), offset.to_string());
    assert_eq!((header("tidemill-attempts").as_str(), header("tidemill-error-class").as_str()), ("4", "failed"));
    assert!(header("tidemill-error-message").contains("bad"));
    assert_eq!((header("tidemill-consumer-group"), header("tidemill-handler")), (world.group(), "probe".to_owned()));
    let revision: String = world.sql().await.query_one("SELECT revision FROM tidemill.active", &[]).await.unwrap().get(0);
    assert_eq!(header("tidemill-revision"), revision[..12]);
    let original = records::all(&world.broker.address(), &world.topic("in")).await;
    assert_eq!(header("tidemill-original-timestamp"), original[0].timestamp.unwrap().to_string());
}

async fn c06_the_later_events_of_a_key_wait_behind_one_that_fails_and_no_others_do(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "retries", 100);
    world.handlers.retry("probe", "factor", 1);
    let world = world.started().await;
    world.send_event(0, "bad-key", "a1", "probe.ok").await;
    world.send_event(0, "bad-key", "a2", "probe.fail").await;
    for id in ["a3", "a4"] {
        world.send_event(0, "bad-key", id, "probe.ok").await;
    }
    world.send_event(0, "good-key", "b1", "probe.ok").await;
    world.until_seen("b1").await;
    assert_eq!((world.seen("a1").await, world.seen("a3").await), (1, 0), "what comes behind a failing event of its key waits");
    world.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    world.until_seen("a4").await;
    let order = "SELECT string_agg(event_id, ' ' ORDER BY seq) FROM probe.seen WHERE subject_key = 'bad-key'";
    let order: String = world.sql().await.query_one(order, &[]).await.unwrap().get(0);
    assert_eq!(order, "a1 a2 a3 a4");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0);
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters").await, 0);
}

async fn c09_bytes_that_are_no_event_are_a_dead_letter_at_first_sight(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let (_, offset) = records::produce(&address, &topic, Some(0), Some("k"), b"\xff no event at all", &[("a", "b")]).await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    world.until_outbox_is_empty().await;
    let copies = records::all(&address, &format!("{topic}.dlq")).await;
    assert_eq!(copies.len(), 1);
    assert_eq!(copies[0].value, b"\xff no event at all");
    assert_eq!(copies[0].header("a"), Some("b"));
    assert_eq!(copies[0].header("tidemill-error-class"), Some("not-an-event"));
    assert_eq!(copies[0].header("tidemill-original-offset"), Some(offset.to_string().as_str()));
}

async fn c08_a_restart_neither_forgets_nor_resets_retries(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    world.send_event(0, "k", "bad", "probe.fail").await;
    world.until_waiting(1).await;
    let due = "SELECT (extract(epoch FROM due) * 1000)::int8 FROM tidemill.waiting";
    let before = world.count(due).await;
    world.host().kill_9();
    world.start().await;
    // The record is read again, since its offset was hardly committed; what comes behind it in its partition is handled.
    world.send_event(0, "other", "mark", "probe.ok").await;
    world.until_seen("mark").await;
    assert_eq!((world.waiting().await, world.count(due).await), (vec![("bad".to_owned(), 1, true)], before));
    for attempts in 2..4 {
        world.make_due().await;
        let what = format!("attempt {attempts} has failed");
        world.until_count(&what, "SELECT attempts::int8 FROM tidemill.waiting", attempts).await;
        world.host().kill_9();
        world.start().await;
    }
    world.make_due().await;
    world.until_dead(1).await;
    assert_eq!(world.dead().await, [("bad".to_owned(), 4, "failed".to_owned())]);
    assert_eq!(world.failed_attempts().await, 1, "the last of four in this process");
    world.until_handled(1).await;
}

async fn c08_the_waits_between_attempts_grow_as_the_manifest_says(kind: Kind) {
    let world = World::probe(kind).await;
    for (name, value) in [("retries", 2), ("factor", 3), ("jitter", 0)] {
        world.handlers.retry("probe", name, value);
    }
    world.handlers.retry("probe", "delay", "10m");
    world.handlers.retry("probe", "max_delay", "1h");
    let world = world.started().await;
    world.send_event(0, "k", "bad", "probe.vague").await;
    for (attempts, minutes) in [(1, 10), (2, 30)] {
        world
            .until_count("an attempt has failed", "SELECT coalesce(max(attempts), 0)::int8 FROM tidemill.waiting", attempts)
            .await;
        let wait = "SELECT (extract(epoch FROM due - failed_at))::int8 FROM tidemill.waiting";
        assert_eq!(world.count(wait).await, minutes * 60);
        world.make_due().await;
    }
    world.until_dead(1).await;
}

async fn c08_reject_skips_retries(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    world.send(0, &[("k", "no", "probe.reject"), ("k", "behind", "probe.ok")]).await;
    world.until_handled(1).await;
    world.until_dead(1).await;
    assert_eq!(world.dead().await, [("no".to_owned(), 1, "rejected".to_owned())]);
    // Also when it is a retry that rejects: the handler has the last word.
    world.send(0, &[("k", "later", "probe.fail")]).await;
    world.until_waiting(1).await;
    let turn = "UPDATE tidemill.waiting SET value = convert_to(replace(convert_from(value, 'UTF8'), 'probe.fail', 'probe.reject'), 'UTF8')";
    world.sql().await.batch_execute(turn).await.unwrap();
    world.make_due().await;
    world.until_dead(2).await;
    assert_eq!(world.dead().await[0], ("later".to_owned(), 2, "rejected".to_owned()));
}

async fn c08_after_a_dead_letter_the_keys_events_get_one_attempt_until_one_succeeds(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "50ms");
    let world = world.started().await;
    let kinds = ["fail", "fail", "trap", "ok", "vague", "fail"];
    let events = |key: &str| -> Vec<(String, String)> {
        (1..).zip(kinds).map(|(number, kind)| (format!("{key}{number}"), format!("probe.{kind}"))).collect()
    };
    // One after the other, each when all before it is done: straight from the topic.
    let mut done = 0;
    for (id, kind) in events("a") {
        world.send_event(0, "a", &id, &kind).await;
        done += 1;
        let over = "SELECT (SELECT count(*) FROM probe.seen) + (SELECT count(*) FROM tidemill.dead_letters)";
        world.until_count("the event is done", over, done).await;
    }
    // All at once: they wait behind each other.
    let behind = events("b");
    world.send(1, &behind.iter().map(|(id, kind)| ("b", id.as_str(), kind.as_str())).collect::<Vec<_>>()).await;
    world.until_dead(10).await;
    world.until_handled(2).await;
    let attempts = [(1, 4), (2, 1), (3, 1), (5, 4), (6, 1)];
    let wanted = |key: &str| attempts.map(|(number, attempts)| (format!("{key}{number}"), attempts));
    let dead: Vec<_> = world.dead().await.into_iter().map(|(id, attempts, _)| (id, attempts)).collect();
    assert_eq!(dead, [wanted("a"), wanted("b")].concat());
    // One that succeeds restores the trust.
    world.send(0, &[("a", "a7", "probe.ok"), ("a", "a8", "probe.fail")]).await;
    world.until_dead(11).await;
    assert_eq!(world.dead().await[5], ("a8".to_owned(), 4, "failed".to_owned()));
}

async fn c08_waiting_events_of_a_key_have_a_cap(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    world.handlers.retry("probe", "waiting_per_key", 3);
    world.prepared().await;
    let ok = "probe.ok";
    let batch = [("a", "a1", "probe.fail"), ("a", "a2", ok), ("b", "b1", ok), ("a", "a3", ok), ("a", "a4", ok), ("b", "b2", ok)];
    world.send(0, &batch).await;
    let mut world = world;
    world.start().await;
    world.until_handled(2).await;
    world.until_waiting(3).await;
    world.send(0, &[("a", "a5", ok), ("b", "b3", ok), ("a", "a6", ok)]).await;
    world.until_handled(3).await;
    world.until_dead(3).await;
    let classes: Vec<_> = world.dead().await.into_iter().map(|(id, _, class)| (id, class)).collect();
    assert_eq!(classes, ["a4", "a5", "a6"].map(|id| (id.to_owned(), "waiting-cap".to_owned())));
    let waiting = |attempts| [("a1".to_owned(), attempts, true), ("a2".to_owned(), 0, false), ("a3".to_owned(), 0, false)];
    assert_eq!(world.waiting().await, waiting(1));
    // The one at the head keeps its retries: it is not the one that found no room.
    world.make_due().await;
    world.until_count("the second attempt has failed", "SELECT sum(attempts)::int8 FROM tidemill.waiting", 2).await;
    assert_eq!(world.waiting().await, waiting(2));
    world.let_pass().await;
    world.make_due().await;
    world.until_handled(6).await;
    world.send(0, &[("a", "a7", ok)]).await;
    world.until_handled(7).await;
    assert_eq!((world.order("a").await.as_str(), world.order("b").await.as_str()), ("a1 a2 a3 a7", "b1 b2 b3"));
    assert_eq!(world.dead().await.len(), 3);
}

async fn c08_many_failing_keys_stop_the_group_instead_of_emptying_its_topic(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    world.prepared().await;
    let events: Vec<_> =
        (0..60).map(|n| outgoing(Some(n % 3), Some(&format!("key-{n}")), &format!("e{n}"), "probe.trap")).collect();
    world.produce(&events).await;
    let mut world = world;
    world.start().await;
    let stopped = eventually("the group is shown as stopped", async || {
        let ready = world.readyz().await;
        assert_eq!(ready.status, 200, "it answers requests all the same: {ready:?}");
        ready.body["stopped"].as_array().and_then(|groups| groups.first().cloned())
    })
    .await;
    assert_eq!(stopped["group"], world.group().as_str(), "{stopped}");
    assert_eq!(world.metric("group_stopped").await, 1.0);
    let told = "SELECT count(*) FROM tidemill.scopes WHERE stopped_on IS NOT NULL AND stopped_until > clock_timestamp()";
    world.until_count("the other replicas are told", told, 1).await;
    assert!(stopped["reason"].as_str().is_some_and(|reason| reason.contains("trap")), "{stopped}");
    // It tries some events now and then and keeps nothing.
    let tried = async || world.counted("tidemill_invocations_total", &["outcome=\"trap\""]).await;
    let before = tried().await;
    eventually("it tries again", async || (tried().await > before).then_some(())).await;
    assert_eq!((world.dead().await.len(), world.count("SELECT count(*) FROM probe.seen").await), (0, 0));
    let waiting = world.waiting().await;
    assert!(waiting.len() < 10 && waiting.iter().all(|(_, attempts, _)| *attempts == 1), "{waiting:?}");
    world.let_pass().await;
    world.make_due().await;
    world.until_handled(60).await;
    world.until_all_goes_on().await;
    assert_eq!((world.dead().await, world.metric("group_stopped").await), (vec![], 0.0));
    world.until_count("the other replicas are told", told, 0).await;
}

/// Events that only wait behind others of their keys can't fail, so they say nothing of the revision.
async fn c08_events_that_never_ran_do_not_let_a_stopped_group_go_on(kind: Kind) {
    let world = World::probe(kind).await;
    world.prepared().await;
    let event = |n: i32| outgoing(Some(n % 12 % 3), Some(&format!("key-{}", n % 12)), &format!("e{n}"), "probe.trap");
    world.produce(&(0..120).map(event).collect::<Vec<_>>()).await;
    let mut world = world;
    world.start().await;
    let stopped = async || world.readyz().await.body["stopped"].as_array().map_or(0, Vec::len);
    eventually("the group stops", async || (stopped().await == 1).then_some(())).await;
    // It probes after 2, 4 and 8 seconds; retries would be exhausted long before.
    let tried = async || world.counted("tidemill_invocations_total", &["outcome=\"trap\""]).await;
    for _ in 0..3 {
        let before = tried().await;
        eventually("it tries again", async || (tried().await > before).then_some(())).await;
    }
    assert_eq!((world.dead().await, stopped().await), (vec![], 1));
    world.let_pass().await;
    world.until_handled(120).await;
    assert_eq!(world.dead().await, []);
}

/// Each batch asks whether its keys wait. While few events do, reading all of them looks cheap to the server, and is not: it would do so for each key.
#[tokio::test]
async fn c06_whether_a_key_waits_is_not_asked_of_all_that_waits() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "batch", 1);
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    let event = |key: &str, n: i32, kind: &str| outgoing(Some(0), Some(key), &format!("{key}-{n}"), kind);
    world.send_event(0, "k", "first", "probe.fail").await;
    world.produce(&(0..199).map(|n| event("k", n, "probe.ok")).collect::<Vec<_>>()).await;
    world.until_waiting(200).await;
    world.sql().await.batch_execute("ANALYZE tidemill.waiting").await.unwrap();
    let scanned = async || {
        // A session says what it did within a second.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        world.count("SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'tidemill.waiting'::regclass").await
    };
    let before = scanned().await;
    world.produce(&(0..300).map(|n| event("other", n, "probe.ok")).collect::<Vec<_>>()).await;
    world.until_handled(300).await;
    let scanned = scanned().await - before;
    println!("{scanned} rows were scanned");
    // All of them for each of the others would be 60,000; they are counted now and then.
    assert!(scanned < 20_000, "{scanned} rows were scanned");
}
