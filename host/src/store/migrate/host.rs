//! The host's own schema. Its migrations are written with it, and no operator's consent is asked.

use super::apply::{Applied, changed, record};
use super::{HOST, Migration, describe, place_of};
use std::time::Duration;
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

/// Under which name the host's own migrations are recorded.
const APP: &str = "tidemill";

/// Brings the schema `tidemill` up to date; `login` and `database` are quoted.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    login: &str,
    database: &str,
    limit: Duration,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    transaction
        .batch_execute(
            "CREATE SCHEMA IF NOT EXISTS tidemill; \
             CREATE TABLE IF NOT EXISTS tidemill.migrations (\
                app text NOT NULL, number integer NOT NULL, name text NOT NULL, checksum bytea NOT NULL, \
                applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (app, number))",
        )
        .await
        .map_err(|error| anyhow::anyhow!("{}: the admin login cannot make the schema `tidemill`", describe(&error)))?;
    transaction
        .batch_execute(&format!(
            "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {login}; \
             GRANT USAGE ON SCHEMA tidemill TO {login}; GRANT SELECT ON tidemill.migrations TO {login}"
        ))
        .await?;
    let applied = Applied::read(transaction).await?;
    for (number, name, text) in HOST {
        let migration = Migration::new(*number, (*name).to_owned(), (*text).to_owned());
        match applied.knows(APP, &migration) {
            Some(true) => continue,
            Some(false) => return Err(changed(APP, &migration)),
            None => {}
        }
        let text = text.replace("{{runtime}}", login);
        transaction.batch_execute(&text).await.map_err(|error| failed(&migration, &text, limit, &error))?;
        record(transaction, APP, &migration).await?;
        done.push(format!("applied {} of `{APP}`", migration.file()));
    }
    Ok(())
}

fn failed(migration: &Migration, text: &str, limit: Duration, error: &tokio_postgres::Error) -> anyhow::Error {
    let line = place_of(text, error).map(|line| format!(" (line {line})")).unwrap_or_default();
    let advice = match error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        true => format!(": what it needs was in use for {limit:?}; repeat it, or wait longer with --migration-lock-timeout"),
        false => String::new(),
    };
    anyhow::anyhow!("migration {} of `{APP}`{line}: {}{advice}; nothing was changed", migration.file(), describe(error))
}
