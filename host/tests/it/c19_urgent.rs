//! Promise 19: the way back is open at once, whatever else is under way.

use serde_json::json;

use crate::support::host::{fails_naming, succeeded};
use crate::support::{Kind, World, eventually};

const PREPARING: &str = "SELECT count(*) FROM tidemill.candidates WHERE state = 'preparing'";

/// A probe that has run two revisions, the second of them now.
async fn twice_deployed() -> World {
    let world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    world.mark_probe(true);
    world.deploy().await;
    world
}

impl World {
    /// A replica that lives and says nothing. `loaded`: what it has loaded, in SQL.
    async fn silent(&self, loaded: &str) {
        let silent = format!(
            "INSERT INTO tidemill.replicas (id, host, pid, program, beat_at, loaded)
                 VALUES (gen_random_uuid(), 'silent', 1, '0', clock_timestamp() + interval '1 h', {loaded})"
        );
        self.sql().await.batch_execute(&silent).await.unwrap();
    }

    /// The silent one is gone.
    async fn silenced(&self) {
        self.sql().await.batch_execute("DELETE FROM tidemill.replicas WHERE host = 'silent'").await.unwrap();
    }

    async fn until_preparing(&self) {
        eventually("a candidate is prepared", async || (self.count(PREPARING).await == 1).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_what_is_urgent_does_not_wait_for_a_deploy_that_is_being_prepared() {
    let mut world = World::probe(Kind::Embedded).await.bare().await;
    world.deploy().await;
    world.silent("0").await;
    world.mark_probe(true);
    let run = world.deploy_run().env("TIDEMILL_ACTOR", "ann");
    let deploy = tokio::spawn(async move { run.finish().await });
    world.until_preparing().await;
    let view = world.fleet(&["ps"]).await;
    assert_eq!(view["candidate"]["by"], "ann", "{view}");
    let pause = world.tool(&["pause", "probe"]).env("TIDEMILL_ACTOR", "bob");
    let pause = tokio::spawn(async move { pause.finish().await });
    let ended = deploy.await.unwrap();
    fails_naming(&ended, &["given up", "bob", "nothing was switched"]);
    eventually("it is paused", async || (world.steps("ok", json!({})).await.status == 503).then_some(())).await;
    world.silenced().await;
    succeeded(pause.await.unwrap());
    world.fleet(&["resume", "probe"]).await;
    let http = world.host().http.clone();
    assert!(!world.is_marked(&http).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_a_command_that_changes_nothing_gives_up_no_deploy() {
    let world = twice_deployed().await;
    world.fleet(&["pause", "probe"]).await;
    world.silent("0").await;
    world.mark_probe(false);
    let run = world.deploy_run();
    let deploy = tokio::spawn(async move { run.finish().await });
    world.until_preparing().await;
    world.fleet_refused(&["pause", "prob"], &["`prob`", "did you mean `probe`"]).await;
    world.fleet_refused(&["undeploy", "prob"], &["`prob`", "did you mean `probe`"]).await;
    world.fleet_refused(&["rollback", "probe", "abcdef"], &["no revision abcdef"]).await;
    let paused = world.fleet(&["pause", "probe"]).await;
    assert_eq!(paused["handlers"][0]["outcome"], "unchanged", "{paused}");
    assert_eq!(world.count(PREPARING).await, 1, "the deploy was given up for nothing");
    world.silenced().await;
    succeeded(deploy.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_a_rollback_is_not_given_up_for_what_is_urgent_as_well() {
    let world = twice_deployed().await;
    world.silent("0").await;
    let back = world.tool(&["rollback", "probe"]);
    let back = tokio::spawn(async move { back.finish().await });
    world.until_preparing().await;
    let pause = world.tool(&["pause", "probe"]);
    let pause = tokio::spawn(async move { pause.finish().await });
    // It has asked for its turn for a while by then.
    eventually("the pause waits", async || {
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND application_name = 'tidemill deploy' AND query LIKE '%pg_notify%' AND query LIKE '%abandoned%'";
        (world.count(waits).await == 1).then_some(())
    })
    .await;
    assert_eq!(world.count(PREPARING).await, 1, "the rollback was given up");
    world.silenced().await;
    succeeded(back.await.unwrap());
    succeeded(pause.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_a_rollback_does_not_wait_for_a_replica_that_is_still_starting() {
    let mut world = twice_deployed().await;
    world.silent("NULL").await;
    let report = world.fleet(&["rollback", "probe"]).await;
    assert!(report["loaded_ms"].as_f64().is_some_and(|ms| ms < 10_000.0), "{report}");
    let http = world.host().http.clone();
    assert!(!world.is_marked(&http).await);
    // Everybody has a say in what is new.
    world.handlers.retry("probe", "retries", 1);
    let run = world.deploy_run();
    let deploy = tokio::spawn(async move { run.finish().await });
    world.until_preparing().await;
    world.silenced().await;
    succeeded(deploy.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c19_what_is_urgent_does_not_wait_for_a_migration() {
    let world = twice_deployed().await;
    // Somebody else's migrations are under way, or hang.
    let other = world.sql().await;
    other.batch_execute("SELECT pg_advisory_lock(7000, 0)").await.unwrap();
    let next = world.handlers.folder.join("probe/migrations/0002_more.sql");
    std::fs::write(&next, "CREATE TABLE more (a int);").unwrap();
    let run = world.deploy_run();
    let deploy = tokio::spawn(async move { run.finish().await });
    let asks = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE '%pg_try_advisory_lock(7000%' \
                AND pid <> pg_backend_pid()";
    eventually("the deploy wants to migrate", async || (world.count(asks).await >= 1).then_some(())).await;
    world.until_preparing().await;
    let back = world.fleet(&["rollback", "probe"]).await;
    assert_eq!(back["handlers"][0]["outcome"], "rolled back", "{back}");
    fails_naming(&deploy.await.unwrap(), &["given up", "nothing was switched"]);
    other.batch_execute("SELECT pg_advisory_unlock(7000, 0)").await.unwrap();
    let report = world.deploy().await;
    assert!(report["migrations"].to_string().contains("0002_more.sql"), "{report}");
}
