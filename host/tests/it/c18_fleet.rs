//! Promise 18 between replicas and deploys: who is counted, who may begin, what gives way to what.

use serde_json::json;

use crate::support::fleet::{signal, until_ready};
use crate::support::{Kind, World, eventually};

/// Sessions of replicas that wait for a lock.
const REGISTERING: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tidemill replica' AND wait_event_type = 'Lock' \
     AND datname = current_database()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_replica_is_registered_before_it_serves_and_again_after_it_was_late() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    // As a switch does while it counts who has agreed.
    let switching = world.sql().await;
    switching.batch_execute("BEGIN; SELECT version FROM tidemill.fleet FOR UPDATE").await.unwrap();
    let coming = world.member();
    let coming = tokio::spawn(async move { coming.serve().await });
    eventually("the replica wants to register", async || (world.count(REGISTERING).await == 1).then_some(())).await;
    assert!(!coming.is_finished(), "it serves, and the switch has not counted it");
    switching.batch_execute("COMMIT").await.unwrap();
    let second = coming.await.unwrap();
    assert_eq!(world.ask(&second.http, "ok").await.status, 200);

    // It freezes until it is dead to the others, and thaws in the midst of a switch.
    signal(&second, "-STOP");
    let dead = "SELECT count(*) FROM tidemill.replicas WHERE beat_at < clock_timestamp() - interval '6 s'";
    eventually("the replica is dead to the others", async || (world.count(dead).await == 1).then_some(())).await;
    switching.batch_execute("BEGIN; SELECT version FROM tidemill.fleet FOR UPDATE").await.unwrap();
    signal(&second, "-CONT");
    eventually("the replica wants to register", async || (world.count(REGISTERING).await == 1).then_some(())).await;
    assert_eq!(world.ask(&second.http, "ok").await.status, 503, "it serves what may not be active any more");
    switching.batch_execute("COMMIT").await.unwrap();
    until_ready(&second, true).await;
    assert_eq!(world.ask(&second.http, "ok").await.status, 200);
    assert!(world.host().sigterm().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_replica_that_cannot_load_what_is_active_stops_answering_with_what_was() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    let (database, login) = (world.sql().await, world.database.login());
    // Another revision becomes active without this host, which may not even read it.
    let switch = format!(
        "REVOKE SELECT ON tidemill.revisions FROM {login};
         INSERT INTO tidemill.revisions (revision, handler, app, manifest, digest, component, size, created_by)
             SELECT repeat('f', 64), handler, app, manifest, digest, component, size, created_by FROM tidemill.revisions;
         UPDATE tidemill.active SET revision = repeat('f', 64);
         UPDATE tidemill.fleet SET version = version + 1"
    );
    database.batch_execute(&switch).await.unwrap();
    until_ready(world.host(), false).await;
    let answer = world.steps("ok", json!({})).await;
    assert_eq!(answer.status, 503, "it answers with what is not active: {answer:?}");
    database.batch_execute(&format!("GRANT SELECT ON tidemill.revisions TO {login}")).await.unwrap();
    until_ready(world.host(), true).await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
    assert!(world.host().sigterm().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_a_replica_that_is_dead_to_the_others_registers_whatever_its_own_clock_says() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    // A switch that does not count it, since its last heartbeat came late to the database.
    let switching = world.sql().await;
    switching.batch_execute("BEGIN; SELECT version FROM tidemill.fleet FOR UPDATE").await.unwrap();
    let late = "UPDATE tidemill.replicas SET beat_at = clock_timestamp() - interval '10 s'";
    world.sql().await.batch_execute(late).await.unwrap();
    eventually("it registers", async || (world.count(REGISTERING).await == 1).then_some(())).await;
    switching.batch_execute("COMMIT").await.unwrap();
    world.until_logged("the heartbeat was late").await;
    until_ready(world.host(), true).await;
    assert_eq!(world.steps("ok", json!({})).await.status, 200);
}

#[tokio::test]
async fn c18_a_handler_that_others_need_is_not_undeployed() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.add_twin("twin", &["probe"]);
    let world = world.bare().await;
    world.deploy().await;
    world.fleet_refused(&["undeploy", "probe"], &["`twin`", "cancel", "probe", "nothing was switched"]).await;
    assert!(world.active("probe").await.is_some());
    world.fleet(&["undeploy", "twin"]).await;
    world.fleet(&["undeploy", "probe"]).await;
}

#[tokio::test]
async fn c18_a_manifest_that_this_version_does_not_understand_can_be_replaced_or_taken_away() {
    let world = World::probe(Kind::Embedded).await;
    world.handlers.add("host/tests/guests/broken");
    let mut world = world.bare().await;
    world.deploy().await;
    let later = "UPDATE tidemill.revisions SET manifest = 'new_key = 1' || chr(10) || manifest WHERE handler = 'broken'";
    world.sql().await.batch_execute(later).await.unwrap();
    let broken = world.handlers.folder.join("broken");
    let aside = broken.with_file_name("aside");
    std::fs::rename(&broken, &aside).unwrap();
    std::fs::rename(aside.join("handler.toml"), aside.join("handler.toml.aside")).unwrap();
    world.mark_probe(true);
    world.deploy_refused(&["`broken`", "new_key", "older than"]).await;
    world.fleet(&["pause", "broken"]).await;
    world.fleet(&["undeploy", "broken"]).await;
    world.deploy().await;
    let http = world.host().http.clone();
    assert!(world.is_marked(&http).await);
}
