//! Learning what became of a COMMIT whose answer was lost.

use super::{CommitError, Pool};
use std::time::{Duration, Instant};

/// Asks `pg_xact_status` on new connections until it knows, or until `patience` is over.
///
/// A backend whose client is gone without a word may sit in its transaction for long; it is ended, which it survives if it is already
/// past its commit: either way the next answer is final.
pub(super) async fn learn(pool: &Pool, xid: &str, patience: Duration) -> Result<(), CommitError> {
    let end = Instant::now() + patience;
    loop {
        let last = match tokio::time::timeout(pool.patience().min(patience), ask(pool, xid)).await {
            Ok(Ok(status)) => match status.as_deref() {
                Some("committed") => return Ok(()),
                Some("aborted") => {
                    return Err(CommitError::Failed("the connection broke before the commit; nothing was kept".to_owned()));
                }
                Some(other) => format!("the transaction is {other}"),
                None => return Err(CommitError::Unknown(format!("PostgreSQL no longer knows transaction {xid}"))),
            },
            Ok(Err(error)) => error,
            Err(_) => "the database does not answer".to_owned(),
        };
        if Instant::now() >= end {
            return Err(CommitError::Unknown(format!(
                "the connection broke after COMMIT was sent, and for {patience:?} its outcome could not be learned: {last}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn ask(pool: &Pool, xid: &str) -> Result<Option<String>, String> {
    let client = pool.connect().await.map_err(|error| error.to_string())?;
    let status = |row: tokio_postgres::Row| row.get::<_, Option<String>>(0);
    let question = "SELECT pg_xact_status(($1::text)::xid8)";
    let first = client.query_one(question, &[&xid]).await.map(status).map_err(|error| error.to_string())?;
    if first.as_deref() == Some("in progress") {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE usename = session_user AND backend_xid::text = ((($1::text)::numeric) % 4294967296)::text";
        client.execute(end, &[&xid]).await.map_err(|error| error.to_string())?;
    }
    Ok(first)
}
