//! The inbox's days: what is forgotten, and that an event is one whatever its record's timestamp.

use crate::support::records::{self, New};
use crate::support::{Kind, World, eventually};

const DAY: i64 = 86_400_000;

fn today() -> i64 {
    jiff::Timestamp::now().as_millisecond() / DAY
}

impl World {
    async fn send_at(&self, partition: i32, id: &str, timestamp: i64) {
        let event = New::event(partition, id).at(timestamp);
        records::produce_all(&self.broker.address(), &self.topic("in"), &[event]).await;
    }
}

#[tokio::test]
async fn c04_days_are_forgotten_by_dropping_their_partitions_and_their_records_are_reported_expired() {
    let mut world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let sql = world.sql().await;
    // The probe's topics keep a day, so the inbox reaches back three; these days come from a longer past.
    let day = i32::try_from(today()).unwrap();
    sql.execute("SELECT tidemill.inbox_prepare($1, $2)", &[&(day - 40), &(day - 38)]).await.unwrap();
    sql.execute(
        "INSERT INTO tidemill.inbox SELECT 1, d, 'test', 'handled' FROM generate_series($1::int4, $2) d",
        &[&(day - 40), &day],
    )
    .await
    .unwrap();
    world.start().await;
    let left = "SELECT count(*) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'tidemill.inbox'::regclass AND c.relname ~ '^inbox_[0-9]+$'
                  AND substring(c.relname FROM 7)::int < (extract(epoch FROM now()) / 86400)::int - 4";
    eventually("the old days are dropped", async || (world.count(left).await == 0).then_some(())).await;
    let below: i32 = sql.query_one("SELECT forgotten_below FROM tidemill.inbox_span", &[]).await.unwrap().get(0);
    assert_eq!(below, day - 37);

    world.send_at(0, "handled", (today() - 39) * DAY).await;
    world.send_at(0, "never-handled", (today() - 38) * DAY + 1).await;
    world.send_at(0, "fresh", today() * DAY).await;
    world.until_seen("fresh").await;
    assert_eq!((world.seen("handled").await, world.seen("never-handled").await), (0, 0), "nobody can tell, so neither is run");
    assert_eq!(world.metric("events_expired_total").await, 2.0);
    assert_eq!(world.metric("events_duplicate_total").await, 0.0);
    assert!(world.readyz().await.body["notes"]["expired"].as_str().unwrap().contains(&world.group()));
    world.until_logged("forgotten whether they were handled").await;

    // A process that has not heard of the forgetting cannot note such an event either.
    let note = "INSERT INTO tidemill.inbox VALUES (1, $1, 'test', 'late')";
    let refused = sql.execute(note, &[&(day - 39)]).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().constraint(), Some("inbox_forgotten"));

    // Before the first day that the inbox ever had: never forgotten, handled once.
    for _ in 0..2 {
        world.send_at(1, "ancient", (today() - 60) * DAY).await;
    }
    world.send_at(1, "behind", today() * DAY).await;
    world.until_seen("behind").await;
    assert_eq!(world.seen("ancient").await, 1);
}

impl World {
    /// Lets the database forget the oldest day that it has, between two rounds of the host's upkeep.
    async fn forget_a_day(&self) -> i32 {
        let begun = "SELECT count(*) FROM tidemill.inbox_span WHERE forgotten_below IS NOT NULL";
        self.until_count("the first round has forgotten some", begun, 1).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        let (sql, forget) = (self.sql().await, "SELECT tidemill.inbox_forget(forgotten_below + 1) FROM tidemill.inbox_span");
        // Others may have its locks for a moment.
        eventually("it forgets a day", async || sql.query_one(forget, &[]).await.ok()?.get(0)).await
    }
}

/// Whatever their age: they are no records any more, and the change of their row is their fence.
#[tokio::test]
async fn c07_what_waits_and_what_is_dead_runs_when_its_day_is_forgotten() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.retry("probe", "delay", "10m");
    let mut world = world.started().await;
    world.send(0, &[("k", "waits", "probe.fail"), ("k", "behind", "probe.ok"), ("dead", "dead", "probe.reject")]).await;
    world.until_waiting(2).await;
    world.until_dead(1).await;
    assert!(world.host().sigterm().await.success());
    let sql = world.sql().await;
    let old = i64::from(world.forget_a_day().await) * DAY;
    sql.execute("UPDATE tidemill.waiting SET record_time = $1", &[&old]).await.unwrap();
    sql.execute("UPDATE tidemill.dead_letters SET record_time = $1", &[&old]).await.unwrap();
    world.let_pass().await;
    world.start().await;
    world.make_due().await;
    world.until_handled(2).await;
    crate::support::host::succeeded(world.tool(&["dlq", "replay", "--all", "--yes"]).finish().await);
    world.until_handled(3).await;
    assert_eq!((world.order("k").await.as_str(), world.metric("events_expired_total").await), ("waits behind", 0.0));
}

/// The database refuses it at once, the process hears of it later.
#[tokio::test]
async fn c07_an_event_whose_day_is_forgotten_while_it_is_under_way_is_reported_and_holds_nothing_up() {
    let world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let day = world.forget_a_day().await;
    world.send_at(0, "late", i64::from(day) * DAY).await;
    eventually("it is under way", async || {
        let paused = world.readyz().await.body["paused"].as_array().is_some_and(|paused| !paused.is_empty());
        // A round that came late has told the host already.
        (paused || world.metric("events_expired_total").await > 0.0).then_some(())
    })
    .await;
    // A change of what is active is followed by a round of the upkeep.
    world.mark_probe(true);
    world.deploy().await;
    world.send_event(0, "k", "behind", "probe.ok").await;
    world.until_seen("behind").await;
    assert_eq!((world.seen("late").await, world.metric("events_expired_total").await), (0, 1.0));
}

/// A world whose topic keeps its records for long, with one of 39 days ago that was handled.
async fn with_a_past() -> World {
    let world = World::probe(Kind::Embedded).await;
    let topic = world.topic("in");
    world.handlers.change("probe", |manifest| manifest["topics"][topic.as_str()]["retention"] = "60d".into());
    let world = world.bare().await;
    world.deploy().await;
    world.until_day_is_made(today() - 39).await;
    world.send_at(0, "handled", (today() - 39) * DAY).await;
    world.until_seen("handled").await;
    world
}

impl World {
    /// Takes an empty day of the inbox away, which each round of its upkeep makes again.
    async fn take_day_away(&self, day: i64) {
        self.sql().await.batch_execute(&format!("DROP TABLE tidemill.inbox_{day}")).await.unwrap();
    }

    async fn until_day_is_made(&self, day: i64) {
        let there = format!("SELECT count(*) FROM pg_class WHERE relname = 'inbox_{day}'");
        self.until_count("the day is made", &there, 1).await;
    }

    /// The inbox knows what was handled, and what was not is handled.
    async fn remembers_its_past(&self) {
        for id in ["handled", "unhandled"] {
            self.send_at(0, id, (today() - 39) * DAY).await;
        }
        self.send_at(0, "last", today() * DAY).await;
        self.until_seen("last").await;
        let seen = (self.seen("handled").await, self.seen("unhandled").await);
        assert_eq!(seen, (1, 1), "{} events are said to be expired", self.metric("events_expired_total").await);
    }
}

#[tokio::test]
async fn c07_what_an_undeployed_handler_has_handled_is_remembered_for_its_return() {
    let world = with_a_past().await;
    // One that reads nothing stays.
    world.handlers.add("host/tests/guests/broken");
    world.deploy().await;
    world.fleet(&["undeploy", "probe"]).await;
    // Every change of what is active is followed by a round; when the second one has begun, the first has ended.
    for action in ["pause", "resume"] {
        world.take_day_away(today() + 2).await;
        world.fleet(&[action, "broken"]).await;
        world.until_day_is_made(today() + 2).await;
    }
    world.deploy().await;
    world.remembers_its_past().await;
}

#[tokio::test]
async fn c18_a_host_that_has_not_loaded_yet_what_is_active_forgets_nothing() {
    let mut world = with_a_past().await;
    assert!(world.host().sigterm().await.success());
    // Loading takes as long as somebody locks the revisions; the inbox is looked after meanwhile. What it makes last is this day.
    world.take_day_away(today() - 2).await;
    let held = world.sql().await;
    held.batch_execute("BEGIN; LOCK TABLE tidemill.revisions").await.unwrap();
    let run = world.tool(&["serve"]);
    let starting = tokio::spawn(async move { run.serve().await });
    world.until_day_is_made(today() - 2).await;
    assert!(!starting.is_finished(), "it has loaded all the same");
    held.batch_execute("ROLLBACK").await.unwrap();
    world.put_host(starting.await.unwrap());
    world.remembers_its_past().await;
}

#[tokio::test]
async fn c04_copies_on_both_sides_of_midnight_have_one_effect() {
    let world = World::with_probe().await;
    let midnight = today() * DAY;
    // In batches of their own, either way round.
    for (id, timestamps) in [("forth", [midnight - 1, midnight]), ("back", [midnight, midnight - 1])] {
        for timestamp in timestamps {
            world.send_at(0, id, timestamp).await;
            world.until_seen(id).await;
        }
    }
    // In one batch: as many days as copies, and fewer.
    for (id, timestamps) in [("two", &[midnight - 1, midnight][..]), ("both", &[midnight - 1, midnight, midnight - 1])] {
        let copies: Vec<New> = timestamps.iter().map(|at| New::event(1, id).at(*at)).collect();
        records::produce_all(&world.broker.address(), &world.topic("in"), &copies).await;
        world.until_seen(id).await;
    }
    // In two partitions at once, many of them, so that some are in flight together.
    for number in 0..40 {
        let copies = [(1, midnight - 1), (2, midnight)];
        let copies: Vec<New> =
            copies.into_iter().map(|(partition, at)| New::event(partition, &format!("pair-{number}")).at(at)).collect();
        records::produce_all(&world.broker.address(), &world.topic("in"), &copies).await;
    }
    for partition in 0..3 {
        let id = format!("end-{partition}");
        world.send_event(partition, "k", &id, "probe.ok").await;
        world.until_seen(&id).await;
    }
    for id in ["forth", "back", "two", "both"] {
        assert_eq!(world.seen(id).await, 1, "{id}");
    }
    let pairs = "SELECT count(*), count(DISTINCT event_id) FROM probe.seen WHERE event_id LIKE 'pair-%'";
    let row = world.sql().await.query_one(pairs, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (40, 40), "copies in flight at the same moment");
    let days = "SELECT count(DISTINCT tableoid) FROM tidemill.inbox WHERE id IN ('forth', 'back')";
    assert_eq!(world.count(days).await, 2, "the two lie in partitions of their own");
}

#[tokio::test]
async fn c04_events_of_absurd_times_are_handled_once() {
    let world = World::with_probe().await;
    // The first day of all (0 itself means `now` to the client), the year 9999, and a copy of each at a sane time.
    for (id, timestamp) in [("first-day", 1), ("year-9999", 253_402_300_799_000)] {
        for timestamp in [timestamp, timestamp, today() * DAY] {
            world.send_at(0, id, timestamp).await;
        }
        world.until_seen(id).await;
    }
    world.send_event(0, "k", "end", "probe.ok").await;
    world.until_seen("end").await;
    assert_eq!((world.seen("first-day").await, world.seen("year-9999").await), (1, 1));
    assert_eq!(world.count("SELECT count(*) FROM tidemill.inbox_other").await, 2);
    assert_eq!(world.metric("events_duplicate_total").await, 4.0);
}
