//! How fast rows were committed, by the times that PostgreSQL keeps of its transactions.

use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// How long all rows may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often the database is asked; the rate does not depend on it.
const SAMPLE: Duration = Duration::from_millis(100);

/// Rows of a table, from the first commit to the last.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Committed {
    /// All of them.
    pub(crate) rows: u64,
    /// How many a second came after the first commit.
    pub(crate) rate: f64,
    /// How many one transaction wrote, on average.
    pub(crate) each: f64,
}

impl Committed {
    /// Of the rows of `table` that `condition` picks.
    pub(crate) async fn read(client: &Client, table: &str, condition: &str) -> anyhow::Result<Self> {
        let text = format!(
            "WITH c AS MATERIALIZED (SELECT pg_xact_commit_timestamp(xmin) AS at FROM {table} WHERE {condition}), \
                  f AS (SELECT min(at) AS first, max(at) AS last FROM c) \
             SELECT count(*), count(*) FILTER (WHERE at > first), count(DISTINCT at), extract(epoch FROM max(last) - min(first))::float8 \
             FROM c, f"
        );
        let row = client.query_one(&text, &[]).await?;
        let [rows, later, commits] = [0, 1, 2].map(|column| row.get::<_, i64>(column));
        let time: Option<f64> = row.get(3);
        Ok(Self { rows: rows.try_into()?, rate: later as f64 / time.unwrap_or(f64::NAN), each: rows as f64 / commits as f64 })
    }
}

/// Waits until a sequence has given so many numbers: that costs the database next to nothing.
pub(crate) async fn drawn(client: &Client, sequence: &str, wanted: u64) -> anyhow::Result<u64> {
    let text = format!("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}");
    let end = Instant::now() + PATIENCE;
    loop {
        let drawn: u64 = client.query_one(&text, &[]).await?.get::<_, i64>(0).try_into()?;
        if drawn >= wanted {
            return Ok(drawn);
        }
        anyhow::ensure!(Instant::now() < end, "{drawn} of {wanted} rows after {PATIENCE:?}");
        tokio::time::sleep(SAMPLE).await;
    }
}

/// Waits until so many rows are there.
pub(crate) async fn counted(client: &Client, table: &str, condition: &str, wanted: u64) -> anyhow::Result<()> {
    let text = format!("SELECT count(*) FROM {table} WHERE {condition}");
    let end = Instant::now() + PATIENCE;
    loop {
        let rows: u64 = client.query_one(&text, &[]).await?.get::<_, i64>(0).try_into()?;
        if rows >= wanted {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < end, "{rows} of {wanted} rows of {table} after {PATIENCE:?}");
        tokio::time::sleep(SAMPLE).await;
    }
}
