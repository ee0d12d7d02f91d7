//! A look into the database of a test, with all rights.

use super::error::describe;
use super::target::Target;
use serde_json::{Value, json};
use tokio_postgres::Client;

/// What is published, taken away as the relay would.
const TAKE: &str = "\
    WITH taken AS (DELETE FROM tidemill.outbox RETURNING id, topic, key, value) \
    SELECT topic, key, value FROM taken ORDER BY id";

/// The event of a waiting job stands behind what it gets when it fires.
const JOBS: &str = "\
    SELECT json_build_object('name', name, 'handler', handler, 'due', to_char(due AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
        'repeats', repeats, 'topic', topic, 'key', convert_from(key, 'UTF8'), 'event', ('{' || convert_from(event, 'UTF8'))::json)::text \
    FROM tidemill.jobs ORDER BY due, name";

/// A connection with all rights; no row is hidden from it.
pub struct Inspector {
    client: Client,
}

impl Inspector {
    /// Connects; unqualified names are looked for in `schemas`.
    pub async fn connect(url: &str, schemas: &[&str]) -> anyhow::Result<Self> {
        let target = Target::parse(url, "the URL of the private server")?;
        let client = target.connect().await.map_err(|error| anyhow::anyhow!(target.trouble(&error)))?;
        let path: Vec<String> = schemas.iter().chain(&["public"]).map(|schema| format!("\"{schema}\"")).collect();
        client.batch_execute(&format!("SET timezone = 'UTC'; SET search_path = {}", path.join(", "))).await?;
        Ok(Self { client })
    }

    /// The rows of a statement that returns some, as JSON objects.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Value>, String> {
        let statement = sql.trim().trim_end_matches(';');
        let sql = format!("WITH result AS ({statement}\n) SELECT row_to_json(result)::text FROM result");
        let rows = self.client.query(&sql, &[]).await.map_err(|error| format!("{}, in: {statement}", describe(&error)))?;
        rows.iter().map(|row| serde_json::from_str(row.get(0)).map_err(|error| error.to_string())).collect()
    }

    /// Runs statements.
    pub async fn execute(&self, sql: &str) -> Result<(), String> {
        self.client.batch_execute(sql).await.map_err(|error| format!("{}, in: {sql}", describe(&error)))
    }

    /// The jobs that wait, by the time at which they are due.
    pub async fn jobs(&self) -> Result<Vec<Value>, String> {
        let rows = self.client.query(JOBS, &[]).await.map_err(|error| describe(&error))?;
        rows.iter().map(|row| serde_json::from_str(row.get(0)).map_err(|error| error.to_string())).collect()
    }

    /// The apps that have a waiting job of this name.
    pub async fn apps_of_job(&self, name: &str) -> Result<Vec<String>, String> {
        let rows = self.client.query("SELECT app FROM tidemill.jobs WHERE name = $1 ORDER BY app", &[&name]).await;
        Ok(rows.map_err(|error| describe(&error))?.iter().map(|row| row.get(0)).collect())
    }

    /// What has been published since the last call: topic, key and the event.
    pub async fn take_published(&self) -> Result<Vec<Value>, String> {
        let rows = self.client.query(TAKE, &[]).await.map_err(|error| describe(&error))?;
        let published = rows.iter().map(|row| {
            let (topic, key, value): (&str, Option<&[u8]>, Option<&[u8]>) = (row.get(0), row.get(1), row.get(2));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let value = value.unwrap_or_default();
            let event: Value = serde_json::from_slice(value).unwrap_or_else(|_| text(value).into());
            json!({"topic": topic, "key": key.map(text), "event": event})
        });
        Ok(published.collect())
    }
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector").finish_non_exhaustive()
    }
}
