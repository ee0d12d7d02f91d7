//! Promise 18 when a migration gives a table another column: what the running revision has prepared does not fit any more, and nobody notices.

use serde_json::{Value as Json, json};

use crate::support::{Answer, Kind, World, records};

/// More than one connection each, of a pool of sixteen.
const AT_ONCE: usize = 12;
const EVERYTHING: &str = "SELECT * FROM rows";
const RETURNING: &str = "INSERT INTO rows (id) VALUES ($1) RETURNING *";

impl World {
    /// Requests side by side, each of which holds its connection for a while; every one of them has to succeed.
    async fn side_by_side(&self, body: impl Fn(usize) -> Json) -> Vec<Answer> {
        let requests = (0..AT_ONCE).map(|n| {
            let mut body = body(n);
            body["ms"] = json!(400);
            // After the statement, so that none gets the connection of another.
            let steps = if body["sql2"].is_null() { "sql-then-sleep" } else { "sql-then-sleep-then-sql2" };
            let request = self.request("alice", "POST", &format!("/probe/{steps}")).json(&body);
            let request = body["key"].as_str().into_iter().fold(request, |request, key| request.header("idempotency-key", key));
            async { Answer::read(request.send().await.unwrap()).await }
        });
        let answers = futures_util::future::join_all(requests).await;
        let failed: Vec<&Answer> = answers.iter().filter(|answer| answer.status != 200).collect();
        assert!(failed.is_empty(), "{} of {AT_ONCE} requests failed: {failed:?}", failed.len());
        answers
    }

    async fn add_column(&self, name: &str) {
        self.sql().await.batch_execute(&format!("ALTER TABLE probe.rows ADD COLUMN {name} text")).await.unwrap();
    }

    /// Every connection that the host has prepares these.
    async fn warm_up(&self) {
        self.side_by_side(|n| json!({ "sql": RETURNING, "params": [format!("warm-{n}")], "sql2": EVERYTHING })).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_new_column_fails_no_request_of_the_running_revision() {
    let world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    world.warm_up().await;
    for turn in ["one", "two"] {
        world.add_column(turn).await;
        let all = world.side_by_side(|_| json!({ "sql": EVERYTHING, "sql2": EVERYTHING })).await;
        assert!(all.iter().all(|answer| answer.body["columns"].to_string().contains(turn)), "{all:?}");
        world.add_column(&format!("{turn}_more")).await;
        // Under a key, the unit that has to be made once more has claimed it already.
        let body = |n| {
            let id = format!("{turn}-{n}");
            json!({ "sql": RETURNING, "params": [id], "sql2": EVERYTHING, "key": id })
        };
        world.side_by_side(body).await;
        world.side_by_side(body).await;
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.rows").await, i64::try_from(3 * AT_ONCE).unwrap());
    assert_eq!(world.counted("tidemill_invocations_total", &["outcome=\"replayed\""]).await, 2 * AT_ONCE as u64);
    for outcome in ["unavailable", "doomed", "rolled-back"] {
        let label = format!("outcome=\"{outcome}\"");
        assert_eq!(world.counted("tidemill_invocations_total", &[&label]).await, 0, "{outcome}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_new_column_fails_no_event_of_the_running_revision() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.retry("probe", "retries", 0);
    let world = world.bare().await;
    world.deploy().await;
    for turn in 0..3 {
        // The events' statement, on every connection.
        world.side_by_side(|_| json!({ "sql": EVERYTHING })).await;
        world.add_column(&format!("column_{turn}")).await;
        for n in 0..9 {
            let event = records::event(&format!("e{turn}-{n}"), "probe.sql", &json!({ "sql": EVERYTHING }));
            let key = format!("k{n}");
            records::produce_event(&world.broker.address(), &world.topic("in"), Some(n % 3), &key, &event).await;
        }
        world.until_handled(i64::from((turn + 1) * 9)).await;
    }
    assert_eq!((world.dead().await, world.waiting().await), (Vec::new(), Vec::new()));
    assert_eq!(world.failed_attempts().await, 0, "an attempt was used up");
    assert!(!world.log().contains("the partition waits"), "{}", world.log());
}
