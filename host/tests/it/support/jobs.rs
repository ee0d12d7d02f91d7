//! Jobs of the probe, and the events that came of them.

use serde_json::{Value as Json, json};

use super::records::{self, Record};
use super::{Answer, World, eventually};

/// Microseconds.
pub const SECOND: i64 = 1_000_000;

impl World {
    /// Now, by the database's clock, in microseconds since 1970 and whole milliseconds, as record timestamps are.
    pub async fn database_now(&self) -> i64 {
        self.count("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::int8 * 1000").await
    }

    /// Lets the probe schedule a job on its topic `out`, and takes the answer as it comes.
    pub async fn try_schedule(&self, name: &str, what: Json) -> Answer {
        let mut body = json!({ "name": name, "topic": self.topic("out"), "key": "k" });
        body.as_object_mut().unwrap().extend(what.as_object().unwrap().clone());
        self.steps("schedule", body).await
    }

    /// Lets the probe schedule a job, which must succeed.
    pub async fn schedule(&self, name: &str, what: Json) {
        let answer = self.try_schedule(name, what).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Lets the probe cancel jobs: whether each was waiting.
    pub async fn cancel(&self, names: &[&str]) -> Vec<bool> {
        let answer = self.steps("cancel", json!({ "names": names })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.body["cancelled"].clone()).unwrap()
    }

    /// What the probe is told of a job; null if there is none.
    pub async fn job(&self, name: &str) -> Json {
        let answer = self.steps("job", json!({ "name": name })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// How many jobs wait.
    pub async fn jobs(&self) -> i64 {
        self.count("SELECT count(*) FROM tidemill.jobs").await
    }

    /// Waits until no job waits and the outbox is empty.
    pub async fn until_jobs_are_over(&self) {
        eventually("no job waits", async || (self.jobs().await == 0).then_some(())).await;
        self.until_outbox_is_empty().await;
    }

    /// From now on, whoever writes an outbox row, it is noted in `public.fired` in the same transaction: event id, job and time.
    pub async fn note_fired(&self) {
        let sql = "CREATE TABLE public.fired (event_id text, job text, at timestamptz DEFAULT clock_timestamp()); \
            CREATE FUNCTION public.note_fired() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN \
                INSERT INTO public.fired VALUES (NEW.event_id, convert_from(NEW.value, 'UTF8')::jsonb #>> '{data,job}'); RETURN NEW; END $$; \
            CREATE TRIGGER note_fired AFTER INSERT ON tidemill.outbox FOR EACH ROW EXECUTE FUNCTION public.note_fired()";
        self.sql().await.batch_execute(sql).await.unwrap();
    }

    /// The records of the probe's topic `out`.
    pub async fn fired(&self) -> Vec<Record> {
        records::all(&self.broker.address(), &self.topic("out")).await
    }

    /// The events that a job has fired, by its name in their data.
    pub async fn fired_of(&self, name: &str) -> Vec<Record> {
        self.fired().await.into_iter().filter(|record| record.json()["data"]["job"] == name).collect()
    }

    /// Waits until a job has fired so many events, and returns them.
    pub async fn until_fired(&self, name: &str, count: usize) -> Vec<Record> {
        eventually(&format!("job {name} has fired {count} times"), async || {
            let fired = self.fired_of(name).await;
            (fired.len() >= count).then_some(fired)
        })
        .await
    }
}

/// RFC 3339 with six decimals.
pub fn text(micros: i64) -> String {
    format!("{:.6}", jiff::Timestamp::from_microsecond(micros).unwrap())
}
