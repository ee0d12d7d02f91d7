//! An exact account of what was acknowledged while parts failed, and of what came of it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;

use super::{World, eventually};

/// Requests that insert a row and publish its event, which the probe itself handles. Some of the events fail until [`Ledger::settle`].
#[derive(Default)]
pub struct Ledger {
    acknowledged: Mutex<Vec<String>>,
    rounds: Mutex<u32>,
}

impl Ledger {
    /// Lets requests flow until this is over.
    pub async fn flow_while(&self, world: &World, fault: impl Future<Output = ()>) {
        let round = {
            let mut rounds = self.rounds.lock().unwrap();
            *rounds += 1;
            *rounds
        };
        let over = AtomicBool::new(false);
        let workers = (0..4).map(|worker| self.work(world, &over, format!("{round}-{worker}")));
        let fault = async {
            fault.await;
            over.store(true, Ordering::SeqCst);
        };
        tokio::join!(futures_util::future::join_all(workers), fault);
    }

    async fn work(&self, world: &World, over: &AtomicBool, name: String) {
        for number in 0u32.. {
            if over.load(Ordering::SeqCst) {
                return;
            }
            let id = format!("{name}-{number}");
            let kind = match number % 20 {
                7 => "probe.fail",
                13 => "probe.vague",
                _ => "probe.ok",
            };
            let key = format!("user-{}", number % 5);
            let body = json!({ "id": id, "event_id": id, "topic": world.topic("in"), "key": key, "type": kind });
            match world.try_probe("insert-then-publish", &body).await {
                Some(answer) if answer.status == 200 => self.acknowledged.lock().unwrap().push(id),
                // The probe passes its own status on for a statement that failed.
                Some(answer) => {
                    assert!(answer.status >= 500 || answer.body["kind"] == "Unavailable", "{answer:?}");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                None => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }

    /// Lets everything pass, waits until every committed row's event is handled, and checks the account: nothing acknowledged is lost, no
    /// effect is doubled or invented, no key inverted, nothing given up.
    pub async fn settle(&self, world: &World) {
        world.let_pass().await;
        let acknowledged = self.acknowledged.lock().unwrap().clone();
        assert!(acknowledged.len() > 20, "only {} requests got through", acknowledged.len());
        let query = "SELECT count(*) FROM unnest($1::text[]) id WHERE NOT EXISTS (SELECT FROM probe.rows WHERE rows.id = id)";
        let lost: i64 = world.sql().await.query_one(query, &[&acknowledged]).await.unwrap().get(0);
        assert_eq!(lost, 0, "acknowledged and not there");
        let missing = "SELECT count(*) FROM probe.rows WHERE NOT EXISTS (SELECT FROM probe.seen WHERE event_id = rows.id)";
        eventually("every committed row's event is handled", async || (world.count(missing).await == 0).then_some(())).await;
        world.until_outbox_is_empty().await;
        for partition in 0..3 {
            let mark = format!("mark-{partition}");
            world.send_event(partition, "mark", &mark, "probe.ok").await;
            world.until_seen(&mark).await;
        }
        world.until_waiting(0).await;
        assert_eq!(world.dead().await, []);
        let doubled = "SELECT count(*) FROM (SELECT FROM probe.seen GROUP BY event_id HAVING count(*) > 1) doubled";
        assert_eq!(world.count(doubled).await, 0, "an effect happened twice");
        let invented = "SELECT count(*) FROM probe.seen WHERE subject_key <> 'mark'
            AND NOT EXISTS (SELECT FROM probe.rows WHERE id = event_id)";
        assert_eq!(world.count(invented).await, 0, "an event without its row");
        // Per key in the order of the commits.
        let inversions = "SELECT count(*) FROM (
            SELECT pg_xact_commit_timestamp(r.xmin) AS at, lag(pg_xact_commit_timestamp(r.xmin)) OVER (PARTITION BY s.subject_key ORDER BY s.seq) AS before
            FROM probe.seen s JOIN probe.rows r ON r.id = s.event_id) ordered WHERE before > at";
        assert_eq!(world.count(inversions).await, 0, "events of one key were handled out of order");
    }
}
