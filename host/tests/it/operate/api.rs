//! Promise 21 for the admin API: its own token, on its own port, and the same work as the commands do.

use serde_json::{Value as Json, json};

use super::{Site, ids, outcomes};
use crate::support::http::token;
use crate::support::{Answer, World};

const TOKEN: &str = "an-admin-token-for-tests-0123456789abcdef";

/// A running host; with the admin token or without one.
pub async fn hosted(token: bool) -> Site {
    let mut world = World::probe(crate::support::Kind::Embedded).await.env("TIDEMILL_LOG", "debug");
    if token {
        world = world.env("TIDEMILL_ADMIN_TOKEN", TOKEN);
    }
    Site::of(world.started().await).await
}

impl Site {
    fn request(&mut self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.world.host().admin);
        reqwest::Client::builder().no_proxy().build().unwrap().request(method.parse().unwrap(), url)
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        Answer::read(self.request("GET", path).bearer_auth(TOKEN).send().await.unwrap()).await
    }

    pub async fn post(&mut self, path: &str, body: Json) -> Answer {
        let request = self.request("POST", path).bearer_auth(TOKEN).header("x-tidemill-actor", "carol").json(&body);
        Answer::read(request.send().await.unwrap()).await
    }
}

#[tokio::test]
async fn c21_the_admin_api_wants_its_own_token_and_health_does_not() {
    let mut site = hosted(true).await;
    let id = site.letter(Some("k"), "e1").await;
    let user = token("alice", false);
    for (authorization, path) in [
        (None, "/v1/dead-letters"),
        (None, "/v1/no-such-path"),
        (Some("Bearer wrong".to_owned()), "/v1/dead-letters"),
        (Some(format!("Bearer {TOKEN}x")), "/v1/waiting"),
        (Some(format!("Basic {TOKEN}")), "/v1/outbox"),
        (Some(format!("Bearer {user}")), "/v1/actions"),
        (Some(format!("Bearer {}", crate::support::http::KEY)), "/v1/dead-letters/1"),
    ] {
        let request = site.request("GET", path);
        let request = authorization.iter().fold(request, |request, text| request.header("authorization", text));
        let answer = Answer::read(request.send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem()), (401, "invalid-token"), "{authorization:?} {path}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    }
    let change = site.request("POST", "/v1/dead-letters/discard").header("x-tidemill-actor", "eve");
    let refused = change.json(&json!({ "ids": [id], "dry_run": false })).send().await.unwrap();
    assert_eq!((refused.status().as_u16(), site.recorded().await.len()), (401, 0));
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(site.world.admin(path).await.status, 200, "{path} is open");
    }
    assert_eq!(site.get("/v1/dead-letters").await.status, 200);
    assert_eq!(site.get("/v1/no-such-path").await.status, 404);
    assert_eq!(site.get("/v1/dead-letters/replay").await.status, 405);

    // The public port knows neither the paths nor the token.
    let public = |path: &str| site.world.anonymous("POST", path).bearer_auth(TOKEN).body("{}").send();
    assert_eq!(public("/v1/dead-letters/discard").await.unwrap().status(), 404);
    assert_eq!(public("/probe/ok").await.unwrap().status(), 401);
    let log = site.world.log();
    assert!(!log.contains(TOKEN) && !log.contains("not-so-secret"), "a secret is in the log: {log}");
}

#[tokio::test]
async fn c21_without_a_token_the_admin_api_is_closed_and_says_how_to_open_it() {
    let mut site = hosted(false).await;
    let answer = site.get("/v1/dead-letters").await;
    assert_eq!((answer.status, answer.problem()), (403, "admin-token-not-set"));
    assert!(answer.text.contains("TIDEMILL_ADMIN_TOKEN"), "{answer:?}");
    assert_eq!(site.world.readyz().await.status, 200);
    let short = site.world.command(&["serve"]).env("TIDEMILL_ADMIN_TOKEN", "hush-hush").finish().await;
    assert!(
        !short.status.success() && short.stderr.contains("at least 32") && !short.stderr.contains("hush"),
        "{}",
        short.stderr
    );
}

#[tokio::test]
async fn c10_letters_are_worked_over_the_api() {
    let mut site = hosted(true).await;
    let (first, second) = (site.letter(Some("a&b"), "e1").await, site.letter(Some("c"), "e2").await);
    let page = site.get("/v1/dead-letters?key=a%26b&since=1h").await;
    assert_eq!((page.status, ids(&page.body)), (200, vec![first]), "{page:?}");
    let whole = site.get(&format!("/v1/dead-letters/{first}")).await;
    assert_eq!((&whole.body["value"], &whole.body["error"]), (&json!({ "json": { "id": 1.0 } }), &json!("it broke")));
    assert_eq!(site.get("/v1/dead-letters/4711").await.problem(), "no-such-row");

    let tried = site.post("/v1/dead-letters/replay", json!({ "ids": [first] })).await;
    assert_eq!((&tried.body["dry_run"], &tried.body["changed"]), (&json!(true), &json!(1)), "{tried:?}");
    assert_eq!(site.count("SELECT count(*) FROM tidemill.waiting").await, 0, "a dry run, if nothing is said");
    let done = site.post("/v1/dead-letters/replay", json!({ "ids": [first], "dry_run": false })).await;
    assert_eq!(outcomes(&done.body), [(first, "queued".to_owned())]);
    let waiting = site.get("/v1/waiting").await;
    assert_eq!(
        (&waiting.body["rows"][0]["dead_letter"], &waiting.body["rows"][0]["ordered_by"]),
        (&json!(first), &json!("carol"))
    );
    let row = waiting.body["rows"][0]["id"].clone();
    assert_eq!(site.get(&format!("/v1/waiting/{row}")).await.body["value"], json!({ "json": { "id": 1.0 } }));
    let back = site.post("/v1/waiting/dead-letter", json!({ "ids": [row], "reason": "not now", "dry_run": false })).await;
    assert_eq!(back.body["rows"][0]["outcome"], "taken-back", "{back:?}");
    let gone = site.post("/v1/dead-letters/discard", json!({ "all": true, "dry_run": false })).await;
    assert_eq!(gone.body["changed"], 2, "{gone:?}");
    assert_eq!(site.post("/v1/waiting/retry", json!({ "handler": "ghost" })).await.body["rows"], json!([]));

    let actions = site.get("/v1/actions?actor=carol&limit=3").await;
    let said: Vec<_> = actions.body["rows"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(said, ["waiting.dead-letter", "dead-letters.discard", "dead-letters.discard"]);
    assert_eq!(
        (&actions.body["rows"][2]["via"], &actions.body["rows"][2]["subject"]),
        (&json!("api"), &json!(format!("dead-letter/{second}")))
    );
}

#[tokio::test]
async fn c10_what_is_asked_wrongly_changes_nothing() {
    let mut site = hosted(true).await;
    site.letter(Some("k"), "e1").await;
    for (path, body) in [
        ("/v1/dead-letters/discard", json!({ "dry_run": false })),
        ("/v1/dead-letters/discard", json!({ "handlr": "ghost", "dry_run": false })),
        ("/v1/dead-letters/discard", json!({ "all": true, "reason": "x", "dry_run": false })),
        ("/v1/dead-letters/discard", json!({ "since": "yesterday", "dry_run": false })),
        ("/v1/dead-letters/discard", json!({ "handler": "a\u{0}b", "dry_run": false })),
        ("/v1/dead-letters/discard", json!({ "all": true, "limit": 0, "dry_run": false })),
        ("/v1/outbox/discard", json!({ "handler": "ghost", "dry_run": false })),
        ("/v1/waiting/dead-letter", json!({ "all": true, "reason": "a\nb", "dry_run": false })),
        ("/v1/waiting/retry", json!({ "state": "asleep", "dry_run": false })),
        ("/v1/waiting/retry", json!("all")),
    ] {
        let answer = site.post(path, body.clone()).await;
        assert_eq!((answer.status, answer.problem()), (400, "invalid-request"), "{path} {body}: {answer:?}");
    }
    let nobody =
        site.request("POST", "/v1/dead-letters/discard").bearer_auth(TOKEN).json(&json!({ "all": true, "dry_run": false }));
    let nobody = Answer::read(nobody.send().await.unwrap()).await;
    assert_eq!((nobody.status, nobody.problem()), (400, "no-actor"), "{nobody:?}");
    assert_eq!(site.get("/v1/dead-letters?handlr=x").await.status, 400);
    assert_eq!(site.count("SELECT count(*) FROM tidemill.dead_letters WHERE state = 'dead'").await, 1);
    assert_eq!(site.recorded().await.len(), 0);
}
