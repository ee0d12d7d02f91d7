//! Promise 3: what an `Idempotency-Key` may look like, whose it is, what it stands for, and how long.

use reqwest::header::HeaderValue;
use serde_json::{Value as Json, json};
use toml::{Table, Value};

use crate::c03_idempotency::{kept, keyed, replayed, work};
use crate::support::{Answer, Kind, World, eventually};

/// A probe with a route for every method, and one without authentication.
async fn with_all_methods() -> World {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.change("probe", |manifest| {
        let routes = manifest["http"].as_array_mut().unwrap();
        let mut add = |method: &str, path: &str, auth: &str| {
            let route = [("method", method), ("path", path), ("auth", auth)];
            routes.push(Value::Table(
                route.map(|(key, value)| (key.to_owned(), Value::from(value))).into_iter().collect::<Table>(),
            ));
        };
        for method in ["PUT", "PATCH", "DELETE", "GET"] {
            add(method, "/probe/{action}", "jwt");
        }
        add("POST", "/anyone/{action}", "none");
    });
    world.started().await
}

async fn send(request: reqwest::RequestBuilder, key: &str) -> Answer {
    Answer::read(request.header("idempotency-key", key).send().await.unwrap()).await
}

#[tokio::test]
async fn c03_another_request_under_the_key_is_422() {
    let world = World::with_probe().await;
    let first = keyed(&world, "k", "sql", &work(&world, "first")).await;
    assert_eq!(first.status, 200, "{first:?}");
    let request = |path: &str, body: &Json| world.request("alice", "POST", path).json(body);
    let same = work(&world, "first");
    let others = [
        ("body", request("/probe/sql", &work(&world, "other"))),
        ("path", request("/probe/sql-then-sql", &same)),
        ("query", request("/probe/sql?x", &same)),
        ("empty query", request("/probe/sql?", &same)),
        ("second content-type", request("/probe/sql", &same).header("content-type", "text/json")),
        ("content-type", world.request("alice", "POST", "/probe/sql").header("content-type", "text/json").json(&same)),
    ];
    for (what, other) in others {
        let other = send(other, "k").await;
        assert_eq!((other.status, other.problem()), (422, "idempotency-key-reused"), "{what}: {other:?}");
        assert!(other.body["detail"].as_str().unwrap().contains("a new key"), "the way out");
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 1);
    let again = keyed(&world, "k", "sql", &same).await;
    assert!(replayed(&again) && again.text == first.text, "the first answer stays: {again:?}");
}

#[tokio::test]
async fn c03_users_routes_and_methods_have_keys_of_their_own() {
    let world = with_all_methods().await;
    let body = work(&world, "mine");
    let owners = [
        world.request("alice", "POST", "/probe/sql"),
        world.request("bob", "POST", "/probe/sql"),
        world.request("alice", "PUT", "/probe/sql"),
        world.request("alice", "PATCH", "/probe/sql"),
        world.request("alice", "DELETE", "/probe/sql"),
        world.anonymous("POST", "/anyone/sql"),
    ];
    let count = owners.len() as i64;
    for owner in owners {
        let (first, again) = (owner.try_clone().unwrap().json(&body), owner.json(&body));
        let (first, again) = (send(first, "k").await, send(again, "k").await);
        assert_eq!((first.status, replayed(&first)), (200, false), "{first:?}");
        assert_eq!((again.status, replayed(&again)), (200, true), "{again:?}");
    }
    assert_eq!((world.seen("mine").await, kept(&world).await), (count, count));
}

#[tokio::test]
async fn c03_a_request_that_changes_nothing_has_no_key() {
    let world = with_all_methods().await;
    for key in ["k", "k", "not a key"] {
        let answer = send(world.request("alice", "GET", "/probe/ok"), key).await;
        assert_eq!((answer.status, replayed(&answer)), (200, false), "{answer:?}");
    }
    assert_eq!(kept(&world).await, 0);
}

#[tokio::test]
async fn c03_a_malformed_key_is_400_and_names_the_header() {
    let world = World::with_probe().await;
    let long = "k".repeat(256);
    let post = || world.request("alice", "POST", "/probe/insert").json(&json!({ "id": "malformed" }));
    let mut answers = Vec::new();
    for key in ["", "\"\"", "two words", "\"two words\"", "\"open", "a,b", "\"a\", \"b\"", &long] {
        answers.push(send(post(), key).await);
    }
    let bytes = post().header("idempotency-key", HeaderValue::from_bytes(b"k\xe9y").unwrap());
    answers.push(Answer::read(bytes.send().await.unwrap()).await);
    answers.push(send(post().header("idempotency-key", "one"), "two").await);
    for answer in answers {
        assert_eq!((answer.status, answer.problem()), (400, "invalid-idempotency-key"), "{answer:?}");
        assert!(answer.text.contains("Idempotency-Key") && answer.text.contains("1 to 255"), "{answer:?}");
    }
    assert!(!world.has_row("malformed").await);
    assert_eq!(keyed(&world, &long[1..], "insert", &json!({ "id": "long" })).await.status, 200);
    // Who is not let in learns nothing of keys.
    assert_eq!(send(world.anonymous("POST", "/probe/ok"), "two words").await.status, 401);
}

#[tokio::test]
async fn c03_an_answer_that_is_too_large_to_be_kept_is_a_failure_that_leaves_nothing() {
    let world = World::with_probe().await;
    let large = json!({ "id": "large", "status": 200, "bytes": 17 << 20 });
    for _ in 0..2 {
        let answer = keyed(&world, "k", "insert-then-status", &large).await;
        assert_eq!((answer.status, answer.problem()), (500, "response-too-large"), "{answer:?}");
        assert!(!world.has_row("large").await && kept(&world).await == 0);
    }
    let without = world.steps("insert-then-status", large).await;
    assert_eq!((without.status, without.text.is_empty()), (200, false));
}

#[tokio::test]
async fn c03_a_key_is_good_for_a_day() {
    let world = World::with_probe().await;
    let body = work(&world, "aged");
    let age = async |by: &str| {
        let sql = format!("UPDATE tidemill.idempotency SET stored_at = stored_at - interval '{by}'");
        assert_eq!(world.sql().await.execute(&sql, &[]).await.unwrap(), 1);
    };
    assert_eq!(keyed(&world, "k", "sql", &body).await.status, 200);
    age("23 hours 50 minutes").await;
    assert!(replayed(&keyed(&world, "k", "sql", &body).await));
    assert_eq!(keyed(&world, "k", "insert", &body).await.status, 422);
    age("10 minutes").await;
    // The same key, in the place of its old answer.
    let fresh = keyed(&world, "k", "sql", &body).await;
    assert_eq!((fresh.status, replayed(&fresh)), (200, false), "{fresh:?}");
    let again = keyed(&world, "k", "sql", &body).await;
    assert_eq!((&again.text, replayed(&again)), (&fresh.text, true));
    // The same key beside its old answer, which lies in another day's partition; and with another request, since the old one is forgotten.
    age("24 hours").await;
    world.sql().await.execute("UPDATE tidemill.idempotency SET slot = (slot + 2) % 3", &[]).await.unwrap();
    let other = keyed(&world, "k", "sql-then-sql", &body).await;
    assert_eq!((other.status, replayed(&other)), (200, false), "{other:?}");
    assert!(replayed(&keyed(&world, "k", "sql-then-sql", &body).await));
    assert_eq!((world.seen("aged").await, kept(&world).await), (4, 2));
}

#[tokio::test]
async fn c03_an_answer_of_yesterday_is_found_and_older_ones_are_dropped_by_the_day() {
    let mut world = World::with_probe().await;
    let body = work(&world, "yesterday");
    let first = keyed(&world, "k", "sql", &body).await;
    assert_eq!(first.status, 200, "{first:?}");
    let sql = world.sql().await;
    sql.execute(
        "UPDATE tidemill.idempotency SET slot = (tidemill.idempotency_day() + 2) % 3, stored_at = stored_at - interval '1 hour'",
        &[],
    )
    .await
    .unwrap();
    // What the day before yesterday left lies where tomorrow will write.
    let old = "INSERT INTO tidemill.idempotency
               SELECT sha256(n::text::bytea), (tidemill.idempotency_day() + 1) % 3, '', 'alice', 'POST /', n::text, now() - interval '30 hours',
                      200, '{}', '{}', '' FROM generate_series(1, 1000) n";
    sql.execute(old, &[]).await.unwrap();
    assert_eq!(kept(&world).await, 1_001);
    assert!(world.host().sigterm().await.success());
    world.start().await;
    eventually("the old answers are forgotten", async || (kept(&world).await == 1).then_some(())).await;
    let again = keyed(&world, "k", "sql", &body).await;
    assert_eq!((&again.text, replayed(&again)), (&first.text, true));
    let nothing: bool = sql.query_one("SELECT tidemill.idempotency_forget()", &[]).await.unwrap().get(0);
    assert!(!nothing, "what today and yesterday left stays");
}
