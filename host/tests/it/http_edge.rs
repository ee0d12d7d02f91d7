//! The public port: who gets in, and what everyone else is told (RFC 9457 problem details).

use serde_json::json;

use crate::support::http::{KEY, now, signed, token};
use crate::support::{Answer, Kind, World};

/// Checks what every problem has to have.
fn is_problem(answer: &Answer, status: u16, slug: &str) {
    assert_eq!((answer.status, answer.problem()), (status, slug), "{answer:?}");
    assert_eq!(answer.body["status"], status);
    assert!(answer.body["title"].as_str().is_some_and(|title| !title.is_empty()), "{answer:?}");
    carries_ids(answer);
}

fn carries_ids(answer: &Answer) {
    for name in ["x-request-id", "x-correlation-id"] {
        assert!(answer.header(name).is_some_and(|id| !id.is_empty()), "{name} is missing: {answer:?}");
    }
}

#[tokio::test]
async fn c21_only_a_verified_token_gets_in() {
    let world = World::with_probe().await;
    let good = json!({ "sub": "alice", "exp": now() + 60 });
    let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6OTk5OTk5OTk5OX0.";
    let tampered = { token("alice", false).replacen("eyJ", "eyI", 1) };
    for (what, header) in [
        ("no token", None),
        ("an expired one", Some(format!("Bearer {}", token("alice", true)))),
        ("another key", Some(format!("Bearer {}", signed(&good, "another key that is just as long as ours")))),
        ("no signature", Some(format!("Bearer {none}"))),
        ("a changed one", Some(format!("Bearer {tampered}"))),
        ("no subject", Some(format!("Bearer {}", signed(&json!({ "exp": now() + 60 }), KEY)))),
        ("an empty subject", Some(format!("Bearer {}", signed(&json!({ "sub": "", "exp": now() + 60 }), KEY)))),
        ("a subject beyond 128", Some(format!("Bearer {}", signed(&json!({ "sub": "x".repeat(129), "exp": now() + 60 }), KEY)))),
        ("no expiry", Some(format!("Bearer {}", signed(&json!({ "sub": "alice" }), KEY)))),
        (
            "not yet",
            Some(format!("Bearer {}", signed(&json!({ "sub": "alice", "exp": now() + 9000, "nbf": now() + 8000 }), KEY))),
        ),
        ("another scheme", Some("Basic YWxpY2U6eA==".to_owned())),
        ("garbage", Some("Bearer x.y.z".to_owned())),
    ] {
        let mut request = world.anonymous("POST", "/probe/insert").json(&json!({ "id": what }));
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let answer = Answer::read(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem()), (401, "invalid-token"), "{what}: {answer:?}");
        is_problem(&answer, 401, "invalid-token");
        assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer")), "{what}");
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.rows").await, 0);
    world.steps("log", json!({ "text": "the end" })).await;
    world.until_logged("logged the end").await;
    assert!(!world.log().contains(KEY) && !world.log().contains(&token("alice", true)), "secrets are in no log");
    let open = Answer::read(world.anonymous("GET", "/open").send().await.unwrap()).await;
    assert_eq!((open.status, &open.body["subject"]), (200, &json!(null)));
}

#[tokio::test]
async fn an_unknown_route_is_404_and_a_wrong_method_405_with_allow() {
    let world = World::with_probe().await;
    for path in ["/", "/nothing", "/probe", "/probe/a/b", "/metrics", "/readyz"] {
        let answer = Answer::read(world.request("alice", "GET", path).send().await.unwrap()).await;
        is_problem(&answer, 404, "not-found");
    }
    let answer = Answer::read(world.request("alice", "DELETE", "/probe/ok").send().await.unwrap()).await;
    is_problem(&answer, 405, "method-not-allowed");
    assert_eq!(answer.header("allow"), Some("POST"));
    let answer = Answer::read(world.anonymous("POST", "/open").send().await.unwrap()).await;
    is_problem(&answer, 405, "method-not-allowed");
    assert!(answer.header("allow").is_some_and(|allow| allow.contains("GET")));
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_and_never_reaches_the_handler() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "body", "10KiB");
    let world = world.started().await;
    for (size, status) in [(9_000, 200), (11_000, 413), (100_000, 413)] {
        let body = json!({ "id": format!("{size}"), "note": "x".repeat(size) });
        let answer = world.steps("insert", body).await;
        assert_eq!(answer.status, status, "{size}: {}", answer.text);
        if status == 413 {
            is_problem(&answer, 413, "body-too-large");
        }
    }
    assert_eq!(world.count("SELECT count(*) FROM probe.rows").await, 1);
}

#[tokio::test]
async fn c12_request_and_correlation_ids_are_echoed_made_and_handed_on() {
    let world = World::with_probe().await;
    let request = world.request("alice", "POST", "/probe/ok").header("x-request-id", "r-1").header("x-correlation-id", "c-1");
    let answer = Answer::read(request.json(&json!({})).send().await.unwrap()).await;
    assert_eq!((answer.header("x-request-id"), answer.header("x-correlation-id")), (Some("r-1"), Some("c-1")));
    assert_eq!((&answer.body["request_id"], &answer.body["correlation_id"]), (&json!("r-1"), &json!("c-1")));
    let answer = world.steps("ok", json!({})).await;
    carries_ids(&answer);
    assert_eq!(
        answer.header("x-request-id"),
        answer.header("x-correlation-id"),
        "a missing correlation id becomes the request id"
    );
    assert_ne!(world.steps("ok", json!({})).await.header("x-request-id"), answer.header("x-request-id"));
}

#[tokio::test]
async fn the_handler_gets_the_request_as_it_was_sent() {
    let world = World::with_probe().await;
    let answer =
        Answer::read(world.request("alice", "POST", "/probe/%6Fk?a=1&b=%20x").json(&json!({})).send().await.unwrap()).await;
    assert_eq!(answer.status, 200, "parameters are decoded: {answer:?}");
    assert_eq!(answer.body["path"], "/probe/%6Fk", "the path is not");
    assert_eq!((&answer.body["query"], &answer.body["method"]), (&json!("a=1&b=%20x"), &json!("POST")));
}

#[tokio::test]
async fn the_admin_port_shows_health_and_metrics() {
    let world = World::with_probe().await;
    world.steps("insert", json!({ "id": "counted" })).await;
    assert_eq!(world.admin("/livez").await.status, 200);
    let ready = world.readyz().await;
    assert_eq!((ready.status, &ready.body["status"]), (200, &json!("ready")));
    assert_eq!((&ready.body["paused"], &ready.body["stuck"]), (&json!([]), &json!([])));
    let metrics = world.admin("/metrics").await;
    assert!(metrics.status == 200 && metrics.text.contains("# TYPE tidemill_"), "{}", metrics.text);
    assert_eq!(world.admin("/probe/ok").await.status, 404, "the ports share nothing");
}
