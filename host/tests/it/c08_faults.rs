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
    c09_a_connection_that_breaks_while_an_event_is_given_up_leaves_one_letter_with_one_copy,
    c08_an_event_that_was_running_when_three_processes_died_is_dead_and_its_neighbours_are_handled_once,
    c08_an_event_that_ends_processes_is_found_behind_many_that_were_handled,
    c08_a_retry_whose_process_was_killed_runs_again_at_once,
    c08_a_retry_that_was_running_when_three_processes_died_is_dead_and_its_key_goes_on,
    c08_retries_beside_one_that_ends_processes_are_not_given_up,
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
    // One that was written down just as the connection broke is in the database alone.
    assert!(world.failed_attempts().await <= 4);
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

/// The letter, its copy for the topic and the end of the event are one transaction, whether it was the first attempt or a later one.
async fn c09_a_connection_that_breaks_while_an_event_is_given_up_leaves_one_letter_with_one_copy(kind: Kind) {
    let world = World::probe(kind).await.proxied().await;
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    for (partition, cut) in [(0, Cut::BeforeCommit), (1, Cut::AfterCommit)] {
        let hits = world.proxy().hits();
        world.proxy().arm(Fault::Cut(cut), "tidemill.fail(");
        world.send_event(partition, &format!("now-{partition}"), &format!("rejected-{partition}"), "probe.reject").await;
        eventually("giving it up was cut", async || (world.proxy().hits() == hits + 1).then_some(())).await;
        world.until_dead(i64::from(partition) * 2 + 1).await;
        world.send_event(partition, &format!("later-{partition}"), &format!("failed-{partition}"), "probe.fail").await;
        world.until_waiting(1).await;
        world.proxy().arm(Fault::Cut(cut), "tidemill.fail(");
        world.make_due().await;
        eventually("the end of its retries was cut", async || (world.proxy().hits() == hits + 2).then_some(())).await;
        world.until_waiting(0).await;
    }
    // The records are read once more.
    assert!(world.host().sigterm().await.success());
    records::rewind(&world.broker.address(), &world.group(), &world.topic("in")).await;
    world.start().await;
    for partition in 0..3 {
        world.send_event(partition, "mark", &format!("mark-{partition}"), "probe.ok").await;
    }
    world.until_handled(3).await;
    let dead: Vec<_> = world.dead().await.into_iter().map(|(id, attempts, _)| (id, attempts)).collect();
    let wanted = [("failed-0", 2), ("failed-1", 2), ("rejected-0", 1), ("rejected-1", 1)];
    assert_eq!(dead, wanted.map(|(id, attempts)| (id.to_owned(), attempts)));
    world.until_outbox_is_empty().await;
    let copies = records::all(&world.broker.address(), &format!("{}.dlq", world.topic("in"))).await;
    let mut ids: Vec<_> = copies.iter().map(|copy| copy.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.sort_unstable();
    assert_eq!(ids, wanted.map(|(id, _)| id.to_owned()), "one copy of each");
}

/// Waits until a guest hangs inside its unit: `probe.hang` has asked for its switch and says nothing more.
async fn until_hanging(world: &World) {
    until_some_hang(world, 1).await;
}

async fn until_some_hang(world: &World, count: i64) {
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'idle in transaction' AND query LIKE '%switches%'",
        world.database.login()
    );
    world.until_count("events hang", &idle, count).await;
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

/// All that ran at the first end are suspects; from then on they run one at a time.
async fn c08_retries_beside_one_that_ends_processes_are_not_given_up(kind: Kind) {
    let world = with_long_deadlines(kind).await;
    world.handlers.retry("probe", "retries", 1);
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    for n in 0..4 {
        let (key, first, slow) = (format!("k{n}"), format!("first-{n}"), format!("slow-{n}"));
        world.send(n % 3, &[(&key, &first, "probe.fail"), (&key, &slow, "probe.hang")]).await;
    }
    world.until_waiting(8).await;
    world.make_due().await;
    world.until_dead(4).await;
    let hanging = "SELECT count(*) FROM tidemill.waiting WHERE claim IS NOT NULL AND due > clock_timestamp() + interval '1 min'";
    for round in 0..3 {
        let at_once = if round == 0 { 4 } else { 1 };
        world.until_count("suspects run one at a time", hanging, at_once).await;
        until_some_hang(&world, at_once).await;
        world.host().kill_9();
        if round == 2 {
            world.let_pass().await;
        }
        // Before it starts: what runs has its row locked.
        world.make_due().await;
        world.start().await;
    }
    // One of them was running at each of the three ends, or none was.
    world.until_waiting(0).await;
    let crashed = world.dead().await.into_iter().filter(|(_, _, class)| class == "host-crash").count();
    assert!(crashed <= 1, "{:?}", world.dead().await);
    world.until_handled(4 - i64::try_from(crashed).unwrap()).await;
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
