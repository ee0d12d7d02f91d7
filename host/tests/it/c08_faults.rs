//! Promise 8: faults of the host's own parts use up no retry and end in no dead letter; an event that ends processes does.

use serde_json::json;
use tokio_postgres::Client;

use crate::support::events::outgoing;
use crate::support::{Cut, Fault, Kind, World, eventually, on_both_brokers, records};

on_both_brokers!(
    c08_a_lock_timeout_is_no_attempt,
    c08_a_lock_timeout_of_a_retry_is_no_attempt,
    c08_a_deadlock_is_no_attempt,
    c08_a_database_that_goes_away_uses_up_no_attempt,
    c08_a_connection_that_breaks_while_an_attempt_is_written_down_counts_it_once,
    c08_an_event_that_was_running_when_three_processes_died_is_dead_and_its_neighbours_are_handled_once,
    c08_an_event_that_ends_processes_is_found_behind_many_that_were_handled,
    c08_a_retry_whose_process_was_killed_runs_again_at_once,
    c08_a_retry_that_was_running_when_three_processes_died_is_dead_and_its_key_goes_on,
    c08_a_shutdown_is_no_attempt_and_no_crash,
    c08_a_shutdown_in_the_middle_of_a_retry_is_no_attempt_and_no_crash,
);

/// An event that changes these rows of the probe, in this order.
async fn send_locking(world: &World, key: &str, id: &str, rows: &[&str]) {
    let event = records::event(id, "probe.lock", &json!({ "rows": rows }));
    records::produce_event(&world.broker.address(), &world.topic("in"), Some(0), key, &event).await;
}

/// A transaction of somebody else that has changed this row, beside another one.
async fn holding(world: &World, row: &str) -> Client {
    let sql = world.sql().await;
    sql.batch_execute("INSERT INTO probe.rows VALUES ('one', ''), ('two', '') ON CONFLICT DO NOTHING").await.unwrap();
    sql.batch_execute(&format!("BEGIN; UPDATE probe.rows SET note = 'x' WHERE id = '{row}'")).await.unwrap();
    sql
}

/// Nothing has failed, nothing waits and nothing was given up.
async fn nobodys_attempt(world: &World) {
    assert_eq!((world.failed_attempts().await, world.waiting().await, world.dead().await), (0, vec![], vec![]));
}

async fn c08_a_lock_timeout_is_no_attempt(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "sql_time", "1s");
    let world = world.started().await;
    let holder = holding(&world, "one").await;
    send_locking(&world, "k", "locked", &["one"]).await;
    world.until_logged("lock timeout").await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    nobodys_attempt(&world).await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    world.until_handled(2).await;
    nobodys_attempt(&world).await;
    assert_eq!(world.order("k").await, "locked behind");
}

async fn c08_a_lock_timeout_of_a_retry_is_no_attempt(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "sql_time", "1s");
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    world.send_event(0, "k", "bad", "probe.fail").await;
    world.until_waiting(1).await;
    send_locking(&world, "k", "locked", &["one"]).await;
    world.until_waiting(2).await;
    let holder = holding(&world, "one").await;
    world.let_pass().await;
    world.make_due().await;
    world.until_seen("bad").await;
    let invocations = async || world.counted("tidemill_invocations_total", &["outcome=\"unavailable\""]).await;
    eventually("it runs into the lock more than once", async || (invocations().await > 2).then_some(())).await;
    assert_eq!(world.waiting().await, [("locked".to_owned(), 0, true)]);
    holder.batch_execute("ROLLBACK").await.unwrap();
    world.until_handled(2).await;
    world.until_waiting(0).await;
    assert_eq!((world.failed_attempts().await, world.dead().await), (1, vec![]));
}

async fn c08_a_deadlock_is_no_attempt(kind: Kind) {
    let world = World::probe(kind).await;
    world.prepared().await;
    // The host's side looks for a deadlock soon, and is the one that is told; the other side never looks.
    let soon = format!("ALTER ROLE {} SET deadlock_timeout = '3s'", world.database.login());
    world.sql().await.batch_execute(&soon).await.unwrap();
    let mut world = world;
    world.start().await;
    let other = holding(&world, "two").await;
    other.batch_execute("SET deadlock_timeout = '10min'").await.unwrap();
    send_locking(&world, "k", "crossed", &["one", "two"]).await;
    let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
        WHERE NOT l.granted AND l.locktype = 'transactionid' AND a.datname = current_database()";
    world.until_count("the handler waits for the other's row", waits, 1).await;
    other.batch_execute("UPDATE probe.rows SET note = 'y' WHERE id = 'one'; COMMIT").await.unwrap();
    world.until_handled(1).await;
    nobodys_attempt(&world).await;
    world.until_logged("deadlock detected").await;
}

async fn c08_a_database_that_goes_away_uses_up_no_attempt(kind: Kind) {
    let world = World::probe(kind).await.proxied().await;
    world.handlers.retry("probe", "delay", "2s");
    world.handlers.retry("probe", "factor", 1);
    let world = world.started().await;
    world.send(0, &[("k", "bad", "probe.fail"), ("k", "behind", "probe.ok"), ("other", "beside", "probe.ok")]).await;
    world.until_seen("beside").await;
    world.until_waiting(2).await;
    for round in 1..=2 {
        world.proxy().refuse(true);
        world.proxy().break_all();
        eventually("the consumers wait for the database", async || {
            world.readyz().await.body["notes"]["consumers"].as_str().map(drop)
        })
        .await;
        // The next attempts are due meanwhile.
        let overdue = "SELECT count(*) FROM tidemill.waiting WHERE due < clock_timestamp() - interval '1 second'";
        eventually("an attempt would be due", async || (world.count(overdue).await == 1).then_some(())).await;
        world.proxy().refuse(false);
        world.send_event(0, "other", &format!("after-{round}"), "probe.ok").await;
        world.until_seen(&format!("after-{round}")).await;
    }
    world.until_dead(1).await;
    world.until_handled(4).await;
    assert_eq!(world.dead().await, [("bad".to_owned(), 4, "failed".to_owned())]);
    assert_eq!(world.failed_attempts().await, 4);
}

/// Whatever the moment at which the connection breaks, an attempt that is written down counts once, and one that is not counts not at all.
async fn c08_a_connection_that_breaks_while_an_attempt_is_written_down_counts_it_once(kind: Kind) {
    let world = World::probe(kind).await.proxied().await;
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    for (partition, cut) in [(0, Cut::BeforeCommit), (1, Cut::AfterCommit)] {
        let (key, id) = (format!("key-{partition}"), format!("bad-{partition}"));
        world.proxy().arm(Fault::Cut(cut), "tidemill.fail(");
        world.send_event(partition, &key, &id, "probe.fail").await;
        let hits = u32::try_from(partition).unwrap() * 2 + 1;
        eventually("the first failure was cut", async || (world.proxy().hits() == hits).then_some(())).await;
        let attempts = format!("SELECT coalesce(max(attempts), 0)::int8 FROM tidemill.waiting WHERE event_id = '{id}'");
        world.until_count("the first attempt counts", &attempts, 1).await;
        world.proxy().arm(Fault::Cut(cut), "tidemill.fail(");
        let due = format!("UPDATE tidemill.waiting SET due = clock_timestamp() WHERE event_id = '{id}'");
        world.sql().await.batch_execute(&due).await.unwrap();
        eventually("the second failure was cut", async || (world.proxy().hits() == hits + 1).then_some(())).await;
        // What was given back runs again at once.
        world.until_count("the second attempt counts", &attempts, 2).await;
        world.until_count("and no claim is left", "SELECT count(*) FROM tidemill.waiting WHERE claim IS NOT NULL", 0).await;
        world.until_count("once", &attempts, 2).await;
    }
    assert_eq!(world.dead().await, []);
    world.let_pass().await;
    world.make_due().await;
    world.until_handled(2).await;
}

/// Waits until a guest hangs inside its unit: `probe.hang` has asked for its switch and says nothing more.
async fn until_hanging(world: &World) {
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'idle in transaction' AND query LIKE '%switches%'",
        world.database.login()
    );
    world.until_count("an event hangs", &idle, 1).await;
}

/// A world whose hanging events are never ended by a limit.
async fn with_long_deadlines(kind: Kind) -> World {
    let world = World::probe(kind).await;
    world.handlers.limit("probe", "wall", "10m");
    world
}

async fn c08_an_event_that_was_running_when_three_processes_died_is_dead_and_its_neighbours_are_handled_once(kind: Kind) {
    let world = with_long_deadlines(kind).await;
    world.prepared().await;
    let mut events: Vec<_> = (0..20).map(|n| outgoing(Some(0), Some(&format!("k{n}")), &format!("e{n}"), "probe.ok")).collect();
    events.insert(10, outgoing(Some(0), Some("fatal"), "fatal", "probe.hang"));
    events.insert(15, outgoing(Some(0), Some("fatal"), "after-fatal", "probe.ok"));
    world.produce(&events).await;
    let mut world = world;
    for _ in 0..3 {
        world.start().await;
        until_hanging(&world).await;
        assert_eq!(world.dead().await, []);
        world.host().kill_9();
    }
    world.start().await;
    world.until_dead(1).await;
    world.until_handled(21).await;
    let dead = world.dead().await;
    assert_eq!((dead[0].0.as_str(), dead[0].2.as_str()), ("fatal", "host-crash"));
    world.until_waiting(0).await;
    let left = "SELECT count(*) FROM tidemill.running WHERE record_offset IS NOT NULL AND deaths > 1";
    assert_eq!(world.count(left).await, 0);
}

/// Offsets are committed later than units: what was handled before the crash comes again in front of the event at fault, more than any batch.
async fn c08_an_event_that_ends_processes_is_found_behind_many_that_were_handled(kind: Kind) {
    let world = with_long_deadlines(kind).await;
    world.handlers.limit("probe", "batch", 1);
    world.prepared().await;
    let event = |n: i32| outgoing(Some(0), Some(&format!("k{}", n % 20)), &format!("e{n}"), "probe.ok");
    world.produce(&(0..600).map(event).collect::<Vec<_>>()).await;
    let mut world = world;
    world.start().await;
    world.until_handled(600).await;
    world.produce(&[outgoing(Some(0), Some("fatal"), "fatal", "probe.hang"), event(600)]).await;
    for _ in 0..3 {
        until_hanging(&world).await;
        assert_eq!(world.dead().await, []);
        world.host().kill_9();
        records::rewind(&world.broker.address(), &world.group(), &world.topic("in")).await;
        world.start().await;
    }
    world.until_dead(1).await;
    world.until_handled(601).await;
    let dead = world.dead().await;
    assert_eq!((dead[0].0.as_str(), dead[0].2.as_str()), ("fatal", "host-crash"));
}

/// A claim ends with its process, long before its time is over.
async fn c08_a_retry_whose_process_was_killed_runs_again_at_once(kind: Kind) {
    let world = with_long_deadlines(kind).await;
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    world.send(0, &[("k", "first", "probe.fail"), ("k", "fatal", "probe.hang")]).await;
    world.until_waiting(2).await;
    world.make_due().await;
    until_hanging(&world).await;
    world.host().kill_9();
    let claimed = "SELECT count(*) FROM tidemill.waiting WHERE claim IS NOT NULL AND due > clock_timestamp() + interval '1 min'";
    assert_eq!(world.count(claimed).await, 1, "by its time alone it would rest for minutes");
    world.start().await;
    until_hanging(&world).await;
}

async fn c08_a_retry_that_was_running_when_three_processes_died_is_dead_and_its_key_goes_on(kind: Kind) {
    let world = with_long_deadlines(kind).await;
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    world.send(0, &[("k", "first", "probe.fail"), ("k", "fatal", "probe.hang"), ("k", "last", "probe.ok")]).await;
    world.until_waiting(3).await;
    for round in 0..3 {
        world.make_due().await;
        until_hanging(&world).await;
        assert_eq!(world.dead().await.len(), 1, "the first one has had its two attempts; round {round}");
        world.host().kill_9();
        world.start().await;
    }
    world.make_due().await;
    world.until_dead(2).await;
    world.until_handled(1).await;
    let dead: Vec<_> = world.dead().await.into_iter().map(|(id, _, class)| (id, class)).collect();
    assert_eq!(dead, [("fatal", "host-crash"), ("first", "failed")].map(|(id, class)| (id.to_owned(), class.to_owned())));
    assert_eq!(world.order("k").await, "last");
}

async fn c08_a_shutdown_is_no_attempt_and_no_crash(kind: Kind) {
    let world = with_long_deadlines(kind).await.env("TIDEMILL_SHUTDOWN_GRACE", "300ms");
    world.handlers.retry("probe", "retries", 0);
    world.prepared().await;
    let mut world = world;
    // One hangs in its partition's batch; the other one is a retry.
    world.send(0, &[("a", "hanging", "probe.hang"), ("b", "beside", "probe.ok")]).await;
    for _ in 0..5 {
        world.start().await;
        until_hanging(&world).await;
        assert!(world.host().sigterm().await.success(), "exit code 0");
        assert_eq!(world.dead().await, []);
    }
    world.let_pass().await;
    world.start().await;
    world.until_handled(2).await;
    nobodys_attempt(&world).await;
}

async fn c08_a_shutdown_in_the_middle_of_a_retry_is_no_attempt_and_no_crash(kind: Kind) {
    let world = with_long_deadlines(kind).await.env("TIDEMILL_SHUTDOWN_GRACE", "300ms");
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    world.send(0, &[("k", "first", "probe.fail"), ("k", "hanging", "probe.hang")]).await;
    world.until_waiting(2).await;
    world.make_due().await;
    for _ in 0..5 {
        // It runs again at once: nothing has to be waited for after a process has ended in order.
        until_hanging(&world).await;
        assert!(world.host().sigterm().await.success(), "exit code 0");
        world.start().await;
    }
    world.let_pass().await;
    world.host().sigterm().await;
    world.start().await;
    world.until_handled(1).await;
    world.until_waiting(0).await;
    assert_eq!(world.dead().await.len(), 1);
}
