//! Reading anew: a new generation of a group beside the current one, until it takes over.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::host::{fails_naming, succeeded};
use crate::support::records::{self, New};
use crate::support::{Kind, World, eventually, on_both_brokers};

on_both_brokers!(
    reprocess_rebuilds_an_emptied_projection_while_live_events_go_on,
    reprocess_switches_only_when_the_running_generation_has_come_to_where_the_new_one_began,
    c10_a_replay_of_what_a_newer_generation_has_handled_has_no_second_effect,
    c10_a_replay_that_comes_before_the_newer_generation_has_one_effect,
);

const BUILDING: &str = "SELECT count(*) FROM tidemill.scopes WHERE state = 'building'";

impl World {
    async fn reprocess(&self, args: &[&str]) -> String {
        let args = [&["reprocess", "probe"], args].concat();
        succeeded(self.tool(&args).finish().await).stdout
    }

    async fn until_switched(&self) {
        let switched = "SELECT count(*) FROM tidemill.scopes WHERE generation = 2 AND state = 'current'";
        eventually("the new generation takes over", async || (self.count(switched).await == 1).then_some(())).await;
        assert_eq!(self.count("SELECT count(*) FROM tidemill.scopes WHERE state = 'retired' AND ended_at IS NOT NULL").await, 1);
    }
}

async fn reprocess_rebuilds_an_emptied_projection_while_live_events_go_on(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let second = world.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
    let mut second = second.serve().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let old: Vec<New> = (0..300).map(|n| New::event(n % 3, &format!("old-{n}"))).collect();
    records::produce_all(&address, &topic, &old).await;
    let seen = "SELECT count(*) FROM probe.seen";
    eventually("the old events are handled", async || (world.count(seen).await == 300).then_some(())).await;
    world.sql().await.batch_execute("TRUNCATE probe.seen").await.unwrap();
    assert!(world.reprocess(&["--earliest"]).await.contains("--yes"));
    assert_eq!(world.count(BUILDING).await, 0, "without --yes nothing happens");

    let (over, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    let live = async {
        while !over.load(Ordering::Relaxed) {
            let n = sent.fetch_add(3, Ordering::Relaxed);
            let events: Vec<New> = (0..3).map(|p| New::event(p, &format!("live-{}", n + p as u32))).collect();
            records::produce_all(&address, &topic, &events).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let rebuild = async {
        world.reprocess(&["--earliest", "--yes", "--as", "tester"]).await;
        world.until_switched().await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(live, rebuild);
    let total = 300 + i64::from(sent.load(Ordering::Relaxed));
    let rebuilt = "SELECT count(*) FROM tidemill.inbox WHERE scope = (SELECT scope FROM tidemill.scopes WHERE generation = 2)";
    eventually("the new generation has handled every event once", async || (world.count(rebuilt).await == total).then_some(()))
        .await;
    let left = format!("left the group; all offsets are committed group=\"{}\"", world.group());
    eventually("the retired generation is left", async || {
        (second.log().contains(&left) && world.log().contains(&left)).then_some(())
    })
    .await;
    for partition in 0..3 {
        let id = format!("end-{partition}");
        world.send_event(partition, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
    // One effect for each generation that has handled the event, and of the old events those of the first are emptied.
    let wrong = "SELECT count(*) FROM (SELECT event_id, count(*) AS effects FROM probe.seen GROUP BY event_id) s
                 WHERE effects <> (SELECT count(*) FROM tidemill.inbox WHERE id = event_id) - (event_id LIKE 'old-%')::int";
    eventually("each event has one effect a generation", async || (world.count(wrong).await == 0).then_some(())).await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen WHERE event_id LIKE 'old-%'").await, 300);
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, total + 3);
    let committed = records::committed(&address, &format!("{}.g2", world.group()), &topic).await;
    assert_eq!(committed.len(), 3, "the new generation is a group of its own at the brokers");
    // Handled by the new one alone.
    assert_eq!(world.count("SELECT count(*) FROM probe.seen WHERE event_id LIKE 'end-%'").await, 3);
    let recorded = "SELECT count(*) FROM tidemill.actions WHERE actor = 'tester' AND action = 'reprocess.start'";
    assert_eq!(world.count(recorded).await, 1);
    assert!(second.sigterm().await.success() && world.host().sigterm().await.success());
}

#[tokio::test]
async fn reprocess_from_a_time_begins_there() {
    let world = World::with_probe().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let now = jiff::Timestamp::now();
    let before = now.as_millisecond() - 2 * 3_600_000;
    let events = |name: &str, at: i64| (0..6).map(|n| New::event(n % 2, &format!("{name}-{n}")).at(at)).collect::<Vec<_>>();
    records::produce_all(&address, &topic, &events("early", before)).await;
    records::produce_all(&address, &topic, &events("late", now.as_millisecond())).await;
    eventually("all is handled", async || (world.count("SELECT count(*) FROM probe.seen").await == 12).then_some(())).await;
    world.sql().await.batch_execute("TRUNCATE probe.seen").await.unwrap();
    let from = (now - jiff::SignedDuration::from_hours(1)).to_string();
    // While it can't write it has not caught up, and the running generation stays the current one.
    let mut sql = world.sql().await;
    let blocker = sql.transaction().await.unwrap();
    blocker.batch_execute("LOCK TABLE probe.seen IN SHARE MODE").await.unwrap();
    world.reprocess(&["--from", &from, "--yes"]).await;
    let blocked = "SELECT count(*) FROM pg_locks WHERE relation = 'probe.seen'::regclass AND NOT granted";
    eventually("the new generation runs", async || (world.count(blocked).await > 0).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.count(BUILDING).await, 1);
    blocker.rollback().await.unwrap();
    world.until_switched().await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen WHERE event_id LIKE 'late-%'").await, 6);
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 6);
}

#[tokio::test]
async fn one_generation_builds_at_a_time_and_can_be_cancelled() {
    let mut world = World::probe(Kind::Embedded).await.started().await;
    world.send_event(0, "k", "first", "probe.ok").await;
    world.until_seen("first").await;
    // Without a replica it cannot catch up.
    assert!(world.host().sigterm().await.success());
    world.reprocess(&["--earliest", "--yes"]).await;
    let again = world.tool(&["reprocess", "probe", "--earliest", "--yes"]).finish().await;
    fails_naming(&again, &["generation 2", &world.group(), "--cancel"]);
    let list = world.reprocess(&["--list"]).await;
    assert!(list.contains("building") && list.contains(&format!("{}.g2", world.group())), "{list}");
    assert!(world.reprocess(&["--cancel"]).await.contains("--yes"));
    assert_eq!(world.count(BUILDING).await, 1);
    world.reprocess(&["--cancel", "--yes"]).await;
    assert_eq!(world.count(BUILDING).await, 0);
    fails_naming(&world.tool(&["reprocess", "probe", "--cancel", "--yes"]).finish().await, &["no generation"]);
    fails_naming(&world.tool(&["reprocess", "nobody", "--earliest"]).finish().await, &["`nobody`", "`probe`"]);
    fails_naming(&world.tool(&["reprocess", "probe", "--from", "2999-01-01T00:00:00Z"]).finish().await, &["future"]);
    world.start().await;
    world.send_event(0, "k", "second", "probe.ok").await;
    world.until_seen("second").await;
    assert_eq!((world.seen("first").await, world.seen("second").await), (1, 1));
}

async fn reprocess_switches_only_when_the_running_generation_has_come_to_where_the_new_one_began(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    let (address, topic) = (world.broker.address(), world.topic("in"));
    let first: Vec<New> = (0..3).map(|n| New::event(n, &format!("first-{n}"))).collect();
    records::produce_all(&address, &topic, &first).await;
    world.until_handled(3).await;
    // A backlog of the running generation, older than where the new one begins.
    let sql = world.sql().await;
    sql.batch_execute("BEGIN; LOCK TABLE probe.seen IN SHARE MODE").await.unwrap();
    let backlog: Vec<New> = (0..30).map(|n| New::event(n % 3, &format!("backlog-{n}"))).collect();
    records::produce_all(&address, &topic, &backlog).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let from = jiff::Timestamp::now().to_string();
    world.reprocess(&["--from", &from, "--yes"]).await;
    let begun = "SELECT count(*) FROM tidemill.group_starts JOIN tidemill.scopes USING (scope) WHERE state = 'building' AND start_offset = 11";
    world.until_count("the new generation begins behind the backlog", begun, 3).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(world.count(BUILDING).await, 1, "the backlog is the running generation's");
    sql.batch_execute("ROLLBACK").await.unwrap();
    world.until_switched().await;
    world.until_handled(33).await;
}

async fn c10_a_replay_of_what_a_newer_generation_has_handled_has_no_second_effect(kind: Kind) {
    let world = World::probe(kind).await.started().await;
    for partition in 0..3 {
        world.send_event(partition, "other", &format!("first-{partition}"), "probe.ok").await;
    }
    world.send_event(0, "k", "bad", "probe.reject").await;
    world.until_dead(1).await;
    world.until_handled(3).await;
    world.let_pass().await;
    world.sql().await.batch_execute("TRUNCATE probe.seen").await.unwrap();
    world.reprocess(&["--earliest", "--yes"]).await;
    world.until_switched().await;
    world.until_handled(4).await;
    let replay = world.tool(&["dlq", "replay", "--key", "k", "--yes"]).finish().await;
    assert_eq!(replay.status.code(), Some(1), "{}{}", replay.stdout, replay.stderr);
    assert!(replay.stdout.contains("handled-anew"), "{}", replay.stdout);
    assert_eq!((world.seen("bad").await, world.count("SELECT count(*) FROM tidemill.waiting").await), (1, 0));
}

async fn c10_a_replay_that_comes_before_the_newer_generation_has_one_effect(kind: Kind) {
    let mut world = World::probe(kind).await.started().await;
    let others: Vec<_> = (0..3).map(|n| (format!("other{n}"), format!("first-{n}"))).collect();
    for (partition, (key, id)) in (0..).zip(&others) {
        world.send_event(partition, key, id, "probe.ok").await;
    }
    for (key, id) in [("first", "bad-1"), ("last", "bad-2")] {
        world.send_event(0, key, id, "probe.reject").await;
    }
    world.until_dead(2).await;
    world.until_handled(3).await;
    world.let_pass().await;
    assert!(world.take_host().sigterm().await.success());
    // Stands for the seconds after a switch: the newer generation has the group, and has come to neither event yet. And for letters of another day than
    // the scope's: a replay must not take the scope for itself by that.
    let sql = world.sql().await;
    sql.batch_execute(
        "TRUNCATE probe.seen; UPDATE tidemill.dead_letters SET record_time = record_time - 5 * 86400000; UPDATE tidemill.scopes SET state = 'retired', ended_at = now(); \
         INSERT INTO tidemill.scopes (consumer_group, generation, handler) SELECT consumer_group, 2, handler FROM tidemill.scopes",
    )
    .await
    .unwrap();
    succeeded(world.tool(&["dlq", "replay", "--handler", "probe", "--yes", "--wait", "0s"]).finish().await);
    world.until_waiting(2).await;
    // One replay runs before the generation has come to its event, the other one after.
    sql.batch_execute("UPDATE tidemill.waiting SET due = now() + interval '10 seconds' WHERE event_id = 'bad-2'").await.unwrap();
    sql.batch_execute("UPDATE tidemill.scopes SET state = 'retired' WHERE generation = 2").await.unwrap();
    world.start().await;
    eventually("a replay has run", async || (world.seen("bad-1").await == 1).then_some(())).await;
    let today =
        "SELECT count(*) FROM tidemill.scopes WHERE generation = 2 AND day >= floor(extract(epoch FROM now()) / 86400) - 1";
    assert_eq!(world.count(today).await, 1, "the scope's day has changed");
    sql.batch_execute("UPDATE tidemill.scopes SET state = 'current' WHERE generation = 2").await.unwrap();
    let read = "SELECT count(*) FROM tidemill.inbox WHERE scope = (SELECT scope FROM tidemill.scopes WHERE generation = 2)";
    world.until_count("the newer generation has read all", read, 5).await;
    world.until_waiting(0).await;
    world.until_handled(5).await;
    let replayed = "SELECT count(*) FROM tidemill.dead_letters WHERE state = 'replayed'";
    assert_eq!(world.count(replayed).await, 2);
}
