//! Promise 19: back in one step. And what rests, rests.

use serde_json::json;

use crate::support::{Answer, Kind, World, eventually};

#[tokio::test]
async fn c19_a_rollback_switches_to_the_revision_before_or_to_any_other_by_name() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    let first = world.deploy().await["handlers"][0]["revision"].as_str().unwrap().to_owned();
    world.fleet_refused(&["rollback", "probe"], &["`probe`", "no other revision", "tidemill revisions probe"]).await;
    world.mark_probe(true);
    let second = world.deploy().await["handlers"][0]["revision"].as_str().unwrap().to_owned();
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    let report = world.fleet(&["rollback", "probe", "--note", "it hurts"]).await;
    assert_eq!((&report["handlers"][0]["revision"], &report["handlers"][0]["outcome"]), (&json!(first), &json!("rolled back")));
    println!(
        "rollback: prepared {} ms, switched {} ms, loaded {} ms",
        report["prepared_ms"], report["switched_ms"], report["loaded_ms"]
    );
    assert!(!world.is_marked(&http).await);
    assert!(world.host().sigterm().await.success());
    world.start_bare().await;
    let http = world.host().http.clone();
    assert!(!world.is_marked(&http).await, "also after a restart");
    world.fleet(&["rollback", "probe", &second[..12]]).await;
    assert!(world.is_marked(&http).await);
    let same = world.fleet(&["rollback", "probe", &second[..6]]).await;
    assert_eq!(same["changed"], false);
    for (revision, words) in [("0000", "no revision 0000"), ("xyz", "no revision: hex digits")] {
        world.fleet_refused(&["rollback", "probe", revision], &[words, "tidemill revisions probe"]).await;
    }
    world.fleet_refused(&["rollback", "nobody"], &["`nobody`"]).await;
    // It was not deployed for a while; the one before it is still the one before it.
    world.fleet(&["undeploy", "probe"]).await;
    world.mark_probe(false);
    world.handlers.limit("probe", "wall", "9s");
    world.deploy().await;
    world.fleet(&["rollback", "probe"]).await;
    assert_eq!(world.active("probe").await, Some(second));
}

#[tokio::test]
async fn c19_a_revision_whose_table_is_gone_is_refused_with_the_reason() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    let next = world.handlers.folder.join("probe/migrations/0002_extra.sql");
    std::fs::write(&next, "CREATE TABLE extra (a int);").unwrap();
    let needs = world.deploy().await["handlers"][0]["revision"].as_str().unwrap().to_owned();
    // The table goes by another way than a deploy, which would not let it.
    world.sql().await.batch_execute("DROP TABLE probe.extra").await.unwrap();
    world.mark_probe(true);
    world.deploy().await;
    world.fleet_refused(&["rollback", "probe"], &[&needs[..12], "probe.extra", "gone", "nothing was switched"]).await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    world.sql().await.batch_execute("CREATE TABLE probe.extra ()").await.unwrap();
    world.fleet(&["rollback", "probe"]).await;
    assert!(!world.is_marked(&http).await);
}

#[tokio::test]
async fn c19_a_revision_that_traps_on_its_first_call_is_left_at_once_and_its_events_are_not_lost() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.retry("probe", "retries", 100);
    world.handlers.retry("probe", "factor", 1);
    let mut world = world.bare().await;
    world.deploy().await;
    world.handlers.replace_component("probe", "host/tests/guests/broken");
    let broken = world.deploy().await["handlers"][0]["revision"].as_str().unwrap().to_owned();
    let answer = world.steps("ok", json!({})).await;
    assert_eq!((answer.status, answer.problem()), (500, "handler-failed"), "{answer:?}");
    for n in 0..3 {
        world.send_event(0, &format!("k{n}"), &format!("e{n}"), "probe.ok").await;
    }
    let named = format!("SELECT count(*) FROM tidemill.waiting WHERE revision = '{}' AND error_class = 'trap'", &broken[..12]);
    eventually("the attempts name the revision", async || (world.count(&named).await > 0).then_some(())).await;
    world.fleet(&["rollback", "probe"]).await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    for n in 0..3 {
        world.until_seen(&format!("e{n}")).await;
    }
    assert!(world.host().sigterm().await.success());
    world.start_bare().await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    assert_eq!(world.count("SELECT count(*) FROM probe.seen").await, 3);
}

#[tokio::test]
async fn c19_a_paused_handler_rests_until_it_is_resumed() {
    let mut world = World::probe(Kind::Embedded).await.env("TIDEMILL_ACTOR", "ann.operator").bare().await;
    world.deploy().await;
    world.send_event(0, "k", "before", "probe.ok").await;
    world.until_seen("before").await;
    world.fleet(&["pause", "probe"]).await;
    for restart in [false, true] {
        if restart {
            assert!(world.host().sigterm().await.success());
            world.start_bare().await;
        }
        // Nobody knows who asks before the token is verified.
        let answer = Answer::read(world.anonymous("POST", "/probe/ok").send().await.unwrap()).await;
        assert_eq!((answer.status, answer.problem()), (503, "handler-paused"), "{answer:?}");
        assert!(answer.text.contains("paused") && answer.header("retry-after").is_some(), "{answer:?}");
        assert!(!answer.text.contains("ann.operator") && !answer.text.contains("probe"), "who has paused what: {answer:?}");
    }
    let shown = world.tool(&["ps"]).finish().await.stdout;
    assert!(shown.contains("ann.operator"), "{shown}");
    assert_eq!(world.fleet(&["pause", "probe"]).await["changed"], false);
    world.send_event(0, "k", "meanwhile", "probe.ok").await;
    // A deploy does not wake it.
    world.mark_probe(true);
    let report = world.deploy().await;
    assert!(report["warnings"].to_string().contains("tidemill resume probe"), "{report}");
    assert_eq!(world.steps("ok", json!({})).await.status, 503);
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(world.seen("meanwhile").await, 0, "events stay in their topic");
    world.fleet(&["resume", "probe"]).await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
    world.until_seen("meanwhile").await;
    assert_eq!(world.fleet(&["resume", "probe"]).await["changed"], false);
}
