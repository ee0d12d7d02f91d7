//! Many events at once, and what became of them.

use std::collections::BTreeMap;

use serde_json::json;

use super::records::{self, Outgoing};
use super::{Host, World, eventually};

/// A CloudEvent in structured form, as a record.
pub fn outgoing(partition: Option<i32>, key: Option<&str>, id: &str, kind: &str) -> Outgoing {
    Outgoing {
        partition,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: Some(records::event(id, kind, &json!({ "id": id }))),
        headers: vec![("content-type".to_owned(), b"application/cloudevents+json".to_vec())],
        timestamp: None,
    }
}

impl World {
    /// Puts records into the probe's topic in this order, and returns where they are.
    pub async fn produce(&self, events: &[Outgoing]) -> Vec<(i32, i64)> {
        let sent = records::produce_each(&self.broker.address(), &self.topic("in"), events).await;
        sent.into_iter().map(|answer| answer.unwrap()).collect()
    }

    /// Puts events (key, id, type) into one partition of the probe's topic, in this order.
    pub async fn send(&self, partition: i32, events: &[(&str, &str, &str)]) {
        let events = events.iter().map(|(key, id, kind)| outgoing(Some(partition), Some(key), id, kind));
        self.produce(&events.collect::<Vec<_>>()).await;
    }

    /// From now on no event fails any more.
    pub async fn let_pass(&self) {
        self.sql().await.batch_execute("INSERT INTO probe.switches VALUES ('let-pass', true)").await.unwrap();
    }

    /// Stands for the time that would have to pass: every waiting event with a time, or with a claim whose process is gone, may run at once.
    pub async fn make_due(&self) {
        let sql = "UPDATE tidemill.waiting SET due = clock_timestamp() WHERE due IS NOT NULL";
        self.sql().await.batch_execute(sql).await.unwrap();
    }

    /// Waits until a query gives this number.
    pub async fn until_count(&self, what: &str, query: &str, expected: i64) {
        let mut last = 0;
        let reached = tokio::time::timeout(
            super::PATIENCE,
            eventually(what, async || {
                last = self.count(query).await;
                (last == expected).then_some(())
            }),
        );
        assert!(reached.await.is_ok(), "{what}: {last} instead of {expected}");
    }

    /// Waits until so many events have been handled, by their different ids, and none twice.
    pub async fn until_handled(&self, count: i64) {
        let what = format!("{count} events are handled");
        self.until_count(&what, "SELECT count(DISTINCT event_id) FROM probe.seen", count).await;
        assert_eq!(self.count("SELECT count(*) FROM probe.seen").await, count, "an effect happened twice");
    }

    /// Waits until so many events wait in the database.
    pub async fn until_waiting(&self, count: i64) {
        self.until_count(&format!("{count} events wait"), "SELECT count(*) FROM tidemill.waiting", count).await;
    }

    /// Waits until there are so many dead letters.
    pub async fn until_dead(&self, count: i64) {
        self.until_count(&format!("{count} events are dead"), "SELECT count(*) FROM tidemill.dead_letters", count).await;
    }

    /// The dead letters: id, attempts and class, by id.
    pub async fn dead(&self) -> Vec<(String, i32, String)> {
        let query = "SELECT event_id, attempts, error_class FROM tidemill.dead_letters ORDER BY event_id, id";
        let rows = self.sql().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    /// The waiting events in their order: id, attempts, and whether they have a time.
    pub async fn waiting(&self) -> Vec<(String, i32, bool)> {
        let query = "SELECT event_id, attempts, due IS NOT NULL FROM tidemill.waiting ORDER BY key, id";
        let rows = self.sql().await.query(query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    /// What has been handled, by key in its order. Fails if anything was handled twice.
    pub async fn seen_by_key(&self) -> BTreeMap<Option<String>, Vec<String>> {
        let query = "SELECT subject_key, event_id FROM probe.seen ORDER BY seq";
        let mut keys: BTreeMap<Option<String>, Vec<String>> = BTreeMap::new();
        for row in self.sql().await.query(query, &[]).await.unwrap() {
            let (ids, id) = (keys.entry(row.get(0)).or_default(), row.get(1));
            assert!(!ids.contains(&id), "{id} was handled twice");
            ids.push(id);
        }
        keys
    }

    /// What has been handled of one key, in its order, separated by blanks.
    pub async fn order(&self, key: &str) -> String {
        self.seen_by_key().await.remove(&Some(key.to_owned())).unwrap_or_default().join(" ")
    }

    /// The sum of a metric over all its lines that contain these texts, such as `outcome="ok"`.
    pub async fn counted(&self, name: &str, parts: &[&str]) -> u64 {
        let page = self.admin("/metrics").await.text;
        let lines = page.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let lines = lines.filter(|line| parts.iter().all(|part| line.contains(part)));
        lines.map(|line| line.rsplit(' ').next().and_then(|number| number.parse::<f64>().ok()).unwrap_or(0.0) as u64).sum()
    }

    /// How many attempts at single events have failed in this process.
    pub async fn failed_attempts(&self) -> u64 {
        self.counted("tidemill_attempts_failed_total", &[]).await
    }

    /// One more replica on free ports.
    pub async fn replica(&self) -> Host {
        let run = self.command(&["serve"]).env("TIDEMILL_HTTP_ADDR", "127.0.0.1:0").env("TIDEMILL_ADMIN_ADDR", "127.0.0.1:0");
        run.serve().await
    }

    /// Waits until `/readyz` names nothing that is paused or stopped.
    pub async fn until_all_goes_on(&self) {
        eventually("nothing is paused or stopped", async || {
            let ready = self.readyz().await.body;
            (ready["paused"] == json!([]) && ready["stopped"] == json!([])).then_some(())
        })
        .await;
    }
}
