//! Promise 6 where a handler leaves: nobody else is held up by it, and what waits goes on with whoever has its group.

use serde_json::json;

use crate::support::{Kind, World, on_both_brokers, records};

on_both_brokers!(
    c06_a_batch_that_does_not_end_when_its_handler_is_paused_leaves_others_alone,
    c06_what_waits_goes_on_when_its_group_goes_to_a_handler_of_another_name,
);

impl World {
    /// Lets a further handler of the probe's app do what the probe may.
    async fn grant_like_the_probe(&self, handler: &str) {
        let sql = self.sql().await;
        let like = |name: &str| format!("%\\_{name}");
        let find = "SELECT rolname FROM pg_roles WHERE rolname LIKE $1 AND rolname LIKE '%' || $2 || '%'";
        let role: String = sql.query_one(find, &[&like(handler), &self.database.name]).await.unwrap().get(0);
        let grant = format!(
            "GRANT USAGE ON SCHEMA probe TO \"{role}\"; GRANT SELECT, INSERT ON probe.seen TO \"{role}\"; GRANT SELECT ON probe.switches TO \"{role}\""
        );
        sql.batch_execute(&grant).await.unwrap();
    }
}

async fn c06_a_batch_that_does_not_end_when_its_handler_is_paused_leaves_others_alone(kind: Kind) {
    let world = World::probe(kind).await.env("TIDEMILL_SHUTDOWN_GRACE", "300ms");
    world.handlers.limit("probe", "wall", "10m");
    world.handlers.add_twin("other", &[]);
    let out = world.topic("out");
    world.handlers.change("other", |manifest| {
        let topic = format!("[[topic]]\nname = '{out}'\ngroup = '{out}-group'\nstart = 'earliest'");
        manifest.extend(topic.parse::<toml::Table>().unwrap());
    });
    let world = world.bare().await;
    world.deploy().await;
    world.grant_like_the_probe("other").await;
    world.send_event(0, "k", "hangs", "probe.hang").await;
    let idle = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{}' AND state = 'idle in transaction' AND query LIKE '%switches%'",
        world.database.login()
    );
    world.until_count("an event hangs", &idle, 1).await;
    world.fleet(&["pause", "probe"]).await;
    world.until_logged("did not end in time").await;
    world.until_count("it is rolled back", &idle, 0).await;
    let event = records::event("of-other", "probe.ok", &json!({}));
    records::produce_event(&world.broker.address(), &out, Some(0), "k", &event).await;
    world.until_seen("of-other").await;
    assert_eq!(world.failed_attempts().await, 0);
}

async fn c06_what_waits_goes_on_when_its_group_goes_to_a_handler_of_another_name(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    let world = world.bare().await;
    world.deploy().await;
    world.send(0, &[("k", "bad", "probe.fail"), ("k", "behind", "probe.ok"), ("dead", "given-up", "probe.reject")]).await;
    world.until_waiting(2).await;
    world.until_dead(1).await;
    world.fleet(&["undeploy", "probe"]).await;
    world.handlers.change("probe", |manifest| drop(manifest.insert("name".into(), "renamed".into())));
    world.deploy().await;
    world.grant_like_the_probe("renamed").await;
    world.let_pass().await;
    world.make_due().await;
    world.until_handled(2).await;
    world.send_event(0, "k", "later", "probe.ok").await;
    world.until_handled(3).await;
    assert_eq!(world.order("k").await, "bad behind later");
    let replayed = world.tool(&["dlq", "replay", "--key", "dead", "--yes"]).finish().await;
    crate::support::host::succeeded(replayed);
    assert_eq!(world.seen("given-up").await, 1);
}
