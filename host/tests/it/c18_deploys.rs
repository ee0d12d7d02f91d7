//! Promise 18: a deploy is all or nothing, and nobody notices the switch.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::support::fleet::{document, until_ready};
use crate::support::http::token;
use crate::support::{Host, Kind, World, eventually};

#[tokio::test]
async fn c18_an_empty_installation_is_ready_and_runs_what_is_deployed_until_it_is_undeployed() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    let ready = world.readyz().await;
    assert_eq!(ready.status, 200, "{ready:?}");
    assert!(ready.text.contains("no handler is active: `tidemill deploy DIR`"), "{ready:?}");
    assert_eq!(world.steps("ok", json!({})).await.status, 404);

    let report = world.deploy().await;
    assert_eq!((report["changed"].as_bool(), &report["handlers"][0]["outcome"]), (Some(true), &json!("deployed")), "{report}");
    assert_eq!(report["replicas"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["replicas"][0]["loaded"], true, "{report}");
    // The command has returned: it is so.
    assert_eq!(world.steps("insert", json!({ "id": "first" })).await.status, 200);
    world.send_event(0, "k", "e1", "probe.ok").await;
    world.until_seen("e1").await;

    assert!(world.host().sigterm().await.success());
    assert_eq!(world.fleet(&["ps"]).await["replicas"].as_array().unwrap().len(), 0, "a replica that ends says so");
    world.start_bare().await;
    assert_eq!(world.steps("insert", json!({ "id": "second" })).await.status, 200, "what is active survives a restart");
    world.send_event(0, "k", "e2", "probe.ok").await;
    world.until_seen("e2").await;

    world.fleet(&["undeploy", "probe"]).await;
    assert_eq!(world.steps("ok", json!({})).await.status, 404);
    world.fleet_refused(&["undeploy", "probe"], &["no handler `probe` is deployed"]).await;
    world.until_logged("left the group").await;
    world.send_event(0, "k", "e3", "probe.ok").await;
    assert!(world.host().sigterm().await.success());
    world.start_bare().await;
    assert_eq!(world.steps("ok", json!({})).await.status, 404);
    assert_eq!(world.seen("e3").await, 0);
    world.deploy().await;
    world.until_seen("e3").await;
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 3);
}

#[tokio::test]
async fn c18_the_same_content_again_changes_nothing_and_says_so() {
    let world = World::probe(Kind::Embedded).await.env("TIDEMILL_ACTOR", "ann").bare().await;
    let folder = world.handlers.folder.to_str().unwrap().to_owned();
    let first = world.fleet(&["deploy", &folder, "--note", "the first one"]).await;
    let again = world.fleet(&["deploy", &folder, "--note", "again"]).await;
    assert_eq!((again["changed"].as_bool(), &again["handlers"][0]["outcome"]), (Some(false), &json!("unchanged")), "{again}");
    assert_eq!(again["version"], first["version"]);
    let view = world.fleet(&["ps"]).await;
    assert_eq!((&view["handlers"][0]["by"], &view["handlers"][0]["note"]), (&json!("ann"), &json!("the first one")), "{view}");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.revisions").await, 1);
    let recorded =
        "SELECT count(*) FROM tidemill.actions WHERE action = 'handlers.deploy' AND actor = 'ann' AND subject = 'handler/probe'";
    assert_eq!(world.count(recorded).await, 1);
    // A revision can't be changed under its name, not even by the host.
    let error = world
        .sql()
        .await
        .batch_execute(&format!("SET ROLE {}; UPDATE tidemill.revisions SET note = ''", world.database.login()))
        .await;
    assert_eq!(error.unwrap_err().code().unwrap().code(), "42501");
    let shown = world.tool(&["ps"]).finish().await.stdout;
    assert!(shown.contains("probe") && shown.contains("the first one") && shown.contains("(newest)"), "{shown}");
}

#[tokio::test]
async fn c18_several_handlers_switch_together_or_not_at_all() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let http = world.host().http.clone();
    let before = world.active("probe").await;
    world.mark_probe(true);
    world.handlers.add("host/tests/guests/stranger");
    world.deploy_refused(&["stranger", "example:unknown/thing", "nothing was switched"]).await;
    assert!(!world.is_marked(&http).await, "the good one was not switched either");
    assert_eq!((world.active("probe").await, world.active("stranger").await), (before, None));
    world.handlers.replace_component("stranger", "host/tests/guests/broken");
    let report = world.deploy().await;
    assert_eq!(report["handlers"].as_array().unwrap().len(), 2, "{report}");
    assert!(world.is_marked(&http).await && world.active("stranger").await.is_some());
    let versions = "SELECT count(DISTINCT version) FROM tidemill.switches WHERE handler IN ('probe', 'stranger') AND version > 1";
    assert_eq!(world.count(versions).await, 1, "both in one step");
}

#[tokio::test]
async fn c18_a_refusal_on_one_replica_refuses_it_everywhere() {
    // The second replica names its database roles after another installation: with that, this handler's role does not fit.
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    let odd = world.member().env("TIDEMILL_INSTALLATION", "an_installation_of_a_long_name1").serve().await;
    let handler = "a-handler-with-quite-a-long-name-for-it";
    world.handlers.change("probe", |manifest| drop(manifest.insert("name".into(), handler.into())));
    world.handlers.change("probe", |manifest| drop(manifest.insert("app".into(), "probe".into())));
    let migration = world.handlers.folder.join("probe/migrations/0001_probe.sql");
    let text = std::fs::read_to_string(&migration).unwrap().replace("role:probe", &format!("role:{handler}"));
    std::fs::write(&migration, text).unwrap();
    let database = world.sql().await;
    database.batch_execute("DROP SCHEMA probe CASCADE; DELETE FROM tidemill.migrations WHERE app = 'probe'").await.unwrap();
    world.deploy_refused(&["refuses", "PostgreSQL takes 63", "nothing was switched"]).await;
    let first = world.host().http.clone();
    for http in [&first, &odd.http] {
        assert_eq!(world.ask(http, "ok").await.status, 404, "no replica uses it");
    }
    assert_eq!(world.active(handler).await, None);
    assert_eq!(
        world.count("SELECT count(*) FROM tidemill.migrations WHERE app = 'probe'").await,
        0,
        "nothing was migrated either"
    );
    drop(odd);
    let report = world.deploy().await;
    assert_eq!(report["changed"], true, "{report}");
    assert_eq!(world.ask(&first, "ok").await.status, 200);
}

/// Requests to all hosts in turn, and events, while revisions are switched; exact counts of what was sent and of what came of it.
async fn switches_under_load(replicas: usize) {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    world.mark_probe(true);
    world.deploy().await;
    let mut others: Vec<Host> = Vec::new();
    for _ in 1..replicas {
        others.push(world.member().serve().await);
    }
    let mut hosts = vec![world.host().http.clone()];
    hosts.extend(others.iter().map(|host| host.http.clone()));
    let (over, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let bearer = token("alice", false);
    let caller = async |number: usize| {
        let mut failures = Vec::new();
        for turn in 0.. {
            if over.load(Ordering::SeqCst) {
                break;
            }
            let id = format!("r{number}-{turn}");
            let body = json!({ "id": id, "event_id": id, "topic": world.topic("in"), "key": format!("k{}", turn % 7) });
            let url = format!("{}/probe/insert-then-publish", hosts[turn % hosts.len()]);
            match client.post(url).bearer_auth(&bearer).json(&body).send().await {
                Ok(response) if response.status() == 200 => drop(sent.fetch_add(1, Ordering::SeqCst)),
                Ok(response) => failures.push(format!("{}: {}", response.status(), response.text().await.unwrap_or_default())),
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures
    };
    let switching = async {
        for turn in 0..20 {
            world.mark_probe(turn % 2 == 1);
            let report = world.deploy().await;
            assert_eq!(report["changed"], true, "{report}");
            assert!(report["replicas"].as_array().unwrap().iter().all(|replica| replica["loaded"] == true), "{report}");
            for http in &hosts {
                assert_eq!(world.is_marked(http).await, turn % 2 == 1, "every replica works by it when the command returns");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        over.store(true, Ordering::SeqCst);
    };
    let (failures, ()) = tokio::join!(futures_util::future::join_all((0..4).map(caller)), switching);
    assert_eq!(failures.concat(), Vec::<String>::new(), "a request failed");
    let sent = i64::try_from(sent.load(Ordering::SeqCst)).unwrap();
    assert!(sent > 100, "only {sent} requests");
    assert_eq!(world.count("SELECT count(*) FROM probe.rows").await, sent, "requests lost or repeated");
    eventually("all events are handled", async || (world.count("SELECT count(*) FROM probe.seen").await >= sent).then_some(()))
        .await;
    assert_eq!(world.count("SELECT count(DISTINCT event_id) FROM probe.seen").await, sent, "events lost");
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, sent, "events repeated");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.waiting").await, 0, "events failed");
    assert_eq!(world.count("SELECT count(*) FROM tidemill.dead_letters").await, 0);
    println!("{sent} requests and as many events over 20 switches, {replicas} replicas");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_switching_under_load_loses_repeats_and_fails_nothing() {
    switches_under_load(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_switching_three_replicas_under_load_loses_repeats_and_fails_nothing() {
    switches_under_load(3).await;
}

#[tokio::test]
async fn c18_running_invocations_end_on_the_revision_that_they_began_with() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.limit("probe", "wall", "60s");
    let mut world = world.bare().await;
    // Both are compiled before, so that the switch is over long before the request.
    for marked in [true, false] {
        world.deploy().await;
        world.mark_probe(marked);
    }
    world.deploy().await;
    let body = json!({ "id": "slow", "ms": 8_000 });
    let request = tokio::spawn(world.request("alice", "POST", "/probe/insert-then-sleep-then-query").json(&body).send());
    world.until_pending().await;
    world.mark_probe(true);
    world.deploy().await;
    assert!(!request.is_finished(), "the request is still under way");
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    let answer = request.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert!(!answer.text().await.unwrap().contains("424242"), "it ended on another revision than it began with");
}

#[tokio::test]
async fn c18_a_deploy_without_a_host_is_tried_by_the_command_itself() {
    let mut world = World::probe(Kind::Embedded).await;
    world.prepared().await;
    let good = std::fs::read(world.handlers.folder.join("probe/component.wasm")).unwrap();
    std::fs::write(world.handlers.folder.join("probe/component.wasm"), &good[..good.len() / 2]).unwrap();
    world.deploy_refused(&["probe", "does not compile"]).await;
    std::fs::write(world.handlers.folder.join("probe/component.wasm"), &good).unwrap();
    let report = world.deploy().await;
    assert_eq!((report["changed"].as_bool(), report["replicas"].as_array().unwrap().len()), (Some(true), 0), "{report}");
    world.start_bare().await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
}

#[tokio::test]
async fn c18_a_host_with_a_folder_deploys_it_at_its_start_and_leaves_the_rest_alone() {
    let mut world = World::probe(Kind::Embedded).await;
    world.handlers.add("host/tests/guests/broken");
    world.prepared().await;
    world.deploy().await;
    std::fs::remove_dir_all(world.handlers.folder.join("broken")).unwrap();
    world.mark_probe(true);
    world.start().await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    assert!(world.active("broken").await.is_some(), "what is not in the folder stays");
    world.until_logged("`broken`").await;
    let recorded = "SELECT count(*) FROM tidemill.actions WHERE action = 'handlers.deploy' AND via = 'host'";
    assert_eq!(world.count(recorded).await, 1);
    assert!(world.host().sigterm().await.success());
    world.start().await;
    assert_eq!(world.count(recorded).await, 1, "the same folder again changes nothing");
}

#[tokio::test]
async fn c18_migrations_come_with_a_deploy_or_are_named() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let next = world.handlers.folder.join("probe/migrations/0002_more.sql");
    std::fs::write(&next, "CREATE TABLE more (a int);").unwrap();
    let mut run = world.deploy_run();
    run.env.remove("TIDEMILL_ADMIN_DATABASE_URL");
    let before = world.active("probe").await;
    crate::support::host::fails_naming(
        &run.finish().await,
        &["0002_more.sql", "TIDEMILL_ADMIN_DATABASE_URL", "nothing was switched"],
    );
    assert_eq!(world.active("probe").await, before);
    std::fs::write(&next, "CREATE TABLE more (a int); CREATE TABLE rows (again int);").unwrap();
    world.deploy_refused(&["0002_more.sql", "rows", "nothing was switched"]).await;
    assert_eq!(world.active("probe").await, before, "a failed migration leaves the old revision");
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    std::fs::write(&next, "CREATE TABLE more (a int);").unwrap();
    let report = world.deploy().await;
    assert!(report["migrations"].to_string().contains("0002_more.sql"), "{report}");
    let first = world.handlers.folder.join("probe/migrations/0001_probe.sql");
    std::fs::write(&first, "SELECT 1;").unwrap();
    world.deploy_refused(&["0001_probe.sql", "was changed"]).await;
    assert!(world.host().sigterm().await.success());
}

#[tokio::test]
async fn c18_two_deploys_at_once_are_made_one_after_the_other() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    let other = World::with_database(
        crate::support::postgres::Database { name: world.database.name.clone(), port: world.database.port },
        world.broker.clone(),
    );
    world.mark_probe(true);
    other.handlers.limit("probe", "wall", "11s");
    let (one, two) = (world.deploy_run(), other.deploy_run());
    let (one, two) = tokio::join!(one.finish(), two.finish());
    let (one, two) = (document(one), document(two));
    assert_ne!(one["version"], two["version"]);
    let last = if one["version"].as_i64() > two["version"].as_i64() { &one } else { &two };
    assert_eq!(world.active("probe").await.as_deref(), last["handlers"][0]["revision"].as_str());
    // Whoever holds the lock for long is named.
    let holder = world.sql().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(7010, 0); UPDATE tidemill.fleet SET holder = 'bob', held_since = now()")
        .await
        .unwrap();
    world.mark_probe(false);
    crate::support::host::fails_naming(&world.deploy_run().finish().await, &["another deploy is under way", "bob"]);
    until_ready(world.host(), true).await;
}

#[tokio::test]
async fn c18_the_admin_api_deploys_and_shows_the_same() {
    use base64::Engine as _;
    const TOKEN: &str = "an-admin-token-for-tests-0123456789abcdef";
    let mut world = World::probe(Kind::Embedded).await.env("TIDEMILL_ADMIN_TOKEN", TOKEN).bare().await;
    let admin = world.host().admin.clone();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let call = async |method: &str, path: &str, body: Option<&Json>| {
        let request = client.request(method.parse().unwrap(), format!("{admin}{path}")).bearer_auth(TOKEN);
        let request = request.header("x-tidemill-actor", "carol");
        let request = body.iter().fold(request, |request, body| request.json(body));
        crate::support::Answer::read(request.send().await.unwrap()).await
    };
    let folder = world.handlers.folder.join("probe");
    let manifest = std::fs::read_to_string(folder.join("handler.toml")).unwrap();
    let component = std::fs::read(folder.join("component.wasm")).unwrap();
    let migration = std::fs::read_to_string(folder.join("migrations/0001_probe.sql")).unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(&component);
    let upload = |component: &str| {
        json!({ "note": "by api", "handlers": [{ "manifest": manifest, "component_base64": component,
            "migrations": [{ "number": 1, "name": "probe", "text": migration }] }] })
    };
    // On a connection of its own: one that is answered before its body was read ends.
    let stranger = reqwest::Client::builder().no_proxy().build().unwrap();
    let unauthorized = stranger.post(format!("{admin}/v1/deploys")).json(&upload(&encoded)).send().await.unwrap();
    assert_eq!(unauthorized.status().as_u16(), 401);
    let cut = call("POST", "/v1/deploys", Some(&upload(&encoded[..encoded.len() / 8 * 4]))).await;
    assert_eq!((cut.status, cut.problem()), (422, "refused"), "{cut:?}");
    let made = call("POST", "/v1/deploys", Some(&upload(&encoded))).await;
    assert_eq!((made.status, &made.body["changed"]), (200, &json!(true)), "{made:?}");
    assert_eq!(world.deploy().await["changed"], false, "the folder is the same revision");
    world.mark_probe(true);
    world.deploy().await;
    let revisions = call("GET", "/v1/handlers/probe/revisions", None).await;
    assert_eq!(revisions.body, world.fleet(&["revisions", "probe"]).await);
    let (new, old) = (&revisions.body[0]["revision"], &revisions.body[1]["revision"]);
    let diff = call("GET", &format!("/v1/diff?from={}&to={}", old.as_str().unwrap(), new.as_str().unwrap()), None).await;
    assert!(diff.body["component"].to_string().contains("sha256") && diff.body["manifest"] == json!([]), "{diff:?}");
    let back = call("POST", "/v1/handlers/probe/rollback", Some(&json!({ "revision": &old.as_str().unwrap()[..12] }))).await;
    assert_eq!((back.status, &back.body["handlers"][0]["revision"]), (200, old), "{back:?}");
    let none = call("POST", "/v1/handlers/prob/pause", Some(&json!({}))).await;
    assert_eq!((none.status, none.problem()), (404, "not-deployed"), "{none:?}");
    assert!(none.text.contains("did you mean `probe`"), "{none:?}");
    let view = call("GET", "/v1/fleet", None).await;
    assert_eq!(view.body["handlers"][0]["by"], "carol", "{view:?}");
    for (action, state) in [("pause", json!("paused")), ("resume", json!("active")), ("undeploy", Json::Null)] {
        let path = format!("/v1/handlers/probe/{action}");
        for note in ["a\0b".to_owned(), "x".repeat(2_001)] {
            let refused = call("POST", &path, Some(&json!({ "note": note }))).await;
            assert_eq!((refused.status, refused.problem()), (400, "invalid-request"), "{refused:?}");
        }
        let done = call("POST", &path, Some(&json!({ "note": format!("to {action}") }))).await;
        assert_eq!((done.status, &done.body["changed"]), (200, &json!(true)), "{action}: {done:?}");
        let view = call("GET", "/v1/fleet", None).await;
        assert_eq!(view.body["handlers"][0]["state"], state, "{action}: {view:?}");
    }
    let recorded = "SELECT count(*) FROM tidemill.actions WHERE actor = 'carol' AND via = 'api' AND action LIKE 'handlers.%'";
    assert_eq!(world.count(recorded).await, 5);
}
