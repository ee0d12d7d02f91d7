//! Learning what became of a COMMIT whose answer was lost.

use super::{CommitError, Pool};
use std::time::{Duration, Instant};

/// Asks `pg_xact_status` on new connections until it knows, or until `patience` is over.
///
/// A backend whose client is gone without a word may sit in its transaction for long; it is ended, which it survives if it is already
/// past its commit: either way the next answer is final.
///
/// After a crash the server gives numbers out again whose records had not reached the disk, so `committed` may be said of another transaction:
/// it is believed only of a server that has run since before the transaction `began`: neither started since (`pg_postmaster_start_time`) nor
/// recovered from the crash of one of its processes, which discards the statistics (`stats_reset`). `aborted` can be believed always, for a number that has
/// committed is never given out again.
pub(super) async fn learn(pool: &Pool, xid: &str, began: Instant, patience: Duration) -> Result<(), CommitError> {
    let end = Instant::now() + patience;
    loop {
        let last = match tokio::time::timeout(pool.patience().min(patience), ask(pool, xid, began)).await {
            Ok(Ok((status, same_run))) => match status.as_deref() {
                Some("committed") if same_run => return Ok(()),
                Some("committed") => {
                    return Err(CommitError::Unknown(
                        "the connection broke after COMMIT was sent, and PostgreSQL has crashed or was started anew since"
                            .to_owned(),
                    ));
                }
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

/// What the server knows of a transaction, and whether it has run since before that began.
async fn ask(pool: &Pool, xid: &str, began: Instant) -> Result<(Option<String>, bool), String> {
    let client = pool.connect().await.map_err(|error| error.to_string())?;
    let question = "SELECT pg_xact_status(($1::text)::xid8), extract(epoch FROM clock_timestamp() \
                        - greatest(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_catalog.pg_stat_wal)))::float8";
    // Taken first: the server's time goes on until it answers.
    let age = began.elapsed().as_secs_f64();
    let row = client.query_one(question, &[&xid]).await.map_err(|error| error.to_string())?;
    let (first, same_run): (Option<String>, bool) = (row.get(0), row.get::<_, f64>(1) >= age);
    if first.as_deref() == Some("in progress") {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                   WHERE usename = session_user AND backend_xid::text = ((($1::text)::numeric) % 4294967296)::text";
        client.execute(end, &[&xid]).await.map_err(|error| error.to_string())?;
    }
    Ok((first, same_run))
}
