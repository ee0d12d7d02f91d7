//! Promise 13, repeating jobs: they fire at their times and go on; what was missed is fired as their policy says.

use serde_json::{Value as Json, json};

use crate::support::jobs::{SECOND, text};
use crate::support::records::Record;
use crate::support::{World, eventually};

const MINUTE: i64 = 60 * SECOND;

fn times(records: &[Record]) -> Vec<Json> {
    records.iter().map(|record| record.json()["time"].clone()).collect()
}

/// Not early, each with an id of its own.
fn sound(records: &[Record]) {
    let ids: std::collections::BTreeSet<String> = records.iter().map(|record| record.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), records.len());
    for record in records {
        let time: jiff::Timestamp = record.json()["time"].as_str().unwrap().parse().unwrap();
        assert!(time.as_millisecond() <= record.timestamp.unwrap(), "early: {}", record.json());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_repeating_job_fires_in_even_steps() {
    let world = World::with_probe().await;
    let begin = world.database_now().await;
    world.schedule("tick", json!({ "period": SECOND, "first": begin + SECOND, "missed": "all" })).await;
    world.schedule("later", json!({ "period": 3_600 * SECOND })).await;
    let due = world.job("later").await["due"].as_i64().unwrap();
    assert!((0..=5 * SECOND).contains(&(due - begin - 3_600 * SECOND)), "one period from now: {due}");
    let fired = world.until_fired("tick", 4).await;
    sound(&fired);
    let expected: Vec<Json> = (1..=4).map(|n| json!(text(begin + n * SECOND))).collect();
    assert_eq!(times(&fired)[..4], expected[..]);
    assert_eq!(world.cancel(&["tick"]).await, [true]);
    let count = world.fired_of("tick").await.len();
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    world.until_outbox_is_empty().await;
    assert!(
        world.fired_of("tick").await.len() <= count + 1,
        "a cancelled job stops; what had fired may just have been on its way"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_missed_times_fire_as_the_policy_says() {
    let world = World::with_probe().await;
    // Ten minutes were missed, the last one half a minute ago; nothing more is due for half a minute.
    let first = world.database_now().await - 10 * MINUTE - 20 * SECOND;
    for missed in ["once", "skip", "all"] {
        world.schedule(missed, json!({ "period": MINUTE, "first": first, "missed": missed })).await;
    }
    let late = world.database_now().await - 61 * SECOND - 1;
    world.schedule("late", json!({ "period": 3_600 * SECOND, "first": late, "missed": "skip" })).await;
    let goes_on = "SELECT count(*) FROM tidemill.jobs WHERE due > clock_timestamp()";
    eventually("all go on", async || (world.count(goes_on).await == 4).then_some(())).await;
    world.until_outbox_is_empty().await;
    let latest = json!(text(first + 10 * MINUTE));
    assert_eq!(times(&world.fired_of("once").await), [latest.clone()]);
    assert_eq!(times(&world.fired_of("skip").await), [latest]);
    let all = world.fired_of("all").await;
    sound(&all);
    assert_eq!(times(&all), (0..=10).map(|n| json!(text(first + n * MINUTE))).collect::<Vec<_>>());
    assert_eq!(times(&world.fired_of("late").await), [] as [Json; 0]);
    for name in ["once", "skip", "all"] {
        assert_eq!(world.job(name).await["due"], first + 11 * MINUTE, "{name}");
    }
    assert_eq!(world.job("late").await["due"], late + 3_600 * SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_calendar_fires_by_its_zone_and_goes_on() {
    let world = World::with_probe().await;
    world.schedule("report", json!({ "cron": "30 9 * * *", "zone": "Europe/Berlin" })).await;
    let zoned = |micros: i64| jiff::Timestamp::from_microsecond(micros).unwrap().in_tz("Europe/Berlin").unwrap();
    let due = world.job("report").await["due"].as_i64().unwrap();
    let now = world.database_now().await;
    assert_eq!((zoned(due).hour(), zoned(due).minute(), zoned(due).second()), (9, 30, 0));
    assert!(due > now && due - now <= 25 * 3_600 * SECOND, "the next one");
    // Stands for three days without a host.
    world.sql().await.batch_execute("UPDATE tidemill.jobs SET due = due - interval '3 days'").await.unwrap();
    let fired = world.until_fired("report", 1).await;
    sound(&fired);
    let time: jiff::Timestamp = fired[0].json()["time"].as_str().unwrap().parse().unwrap();
    assert_eq!((zoned(time.as_microsecond()).hour(), zoned(time.as_microsecond()).minute()), (9, 30));
    assert!(now - time.as_microsecond() < 25 * 3_600 * SECOND, "the latest of those that were missed");
    assert_eq!((fired.len(), &world.job("report").await["due"]), (1, &json!(due)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c13_a_job_whose_next_time_cannot_be_computed_waits_and_holds_nothing_up() {
    let world = World::with_probe().await;
    world.schedule("spoilt", json!({ "cron": "* * * * *" })).await;
    let spoil = "UPDATE tidemill.jobs SET time_zone = 'Europe/Atlantis', due = due - interval '2 minutes'";
    world.sql().await.batch_execute(spoil).await.unwrap();
    world.until_logged("europe/atlantis").await;
    world.schedule("well", json!({ "period": 3_600 * SECOND, "first": 0 })).await;
    world.until_fired("well", 1).await;
    let ready = world.readyz().await;
    assert!(ready.text.contains("job `spoilt` of app `probe`") && ready.text.contains("Europe/Atlantis"), "{ready:?}");
    assert_eq!((world.fired_of("spoilt").await.len(), world.jobs().await), (0, 2));
    let logged = world.log().matches("Europe/Atlantis").count();
    assert!(logged <= 2, "it is looked at again in a minute, not all the time: {logged}");
}
