//! Promise 8: a group that has stopped goes on by itself when its events succeed again, and until then nothing of it is used up anywhere.

use std::time::Duration;

use crate::support::events::outgoing;
use crate::support::{Kind, World, on_both_brokers};

on_both_brokers!(
    c08_an_event_that_never_succeeds_does_not_keep_its_group_stopped,
    c08_the_retries_of_all_replicas_rest_while_a_group_is_stopped,
);

/// The one that stopped the group stands alone at the head of its batch; whether others succeed is seen behind it.
async fn c08_an_event_that_never_succeeds_does_not_keep_its_group_stopped(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    world.prepared().await;
    let event = |n: usize| {
        let type_ = if n < 10 { "probe.trap" } else { "probe.ok" };
        outgoing(Some(0), Some(&format!("key-{n}")), &format!("e{n}"), type_)
    };
    world.produce(&(0..40).map(event).collect::<Vec<_>>()).await;
    let mut world = world;
    world.start().await;
    world.until_logged("the group pauses").await;
    world.until_handled(30).await;
    world.until_waiting(10).await;
    assert_eq!(world.dead().await, []);
}

/// Only a replica with a partition of the group sees that many keys fail; retries run on all of them.
async fn c08_the_retries_of_all_replicas_rest_while_a_group_is_stopped(kind: Kind) {
    let world = World::probe(kind).await;
    world.handlers.retry("probe", "delay", "10m");
    let world = world.started().await;
    world.send_event(0, "k", "bad", "probe.fail").await;
    world.until_waiting(1).await;
    // As another replica says it.
    let sql = world.sql().await;
    let revision: String = sql.query_one("SELECT revision FROM tidemill.active", &[]).await.unwrap().get(0);
    let stop = "UPDATE tidemill.scopes SET stopped_on = $1, stopped_until = clock_timestamp() + interval '1 hour'";
    assert_eq!(sql.execute(stop, &[&&revision[..12]]).await.unwrap(), 1);
    tokio::time::sleep(Duration::from_secs(3)).await;
    world.make_due().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(world.waiting().await, [("bad".to_owned(), 1, true)]);
    // It has ended without a word.
    sql.batch_execute("UPDATE tidemill.scopes SET stopped_until = clock_timestamp()").await.unwrap();
    world.until_count("the second attempt has failed", "SELECT attempts::int8 FROM tidemill.waiting", 2).await;
}
