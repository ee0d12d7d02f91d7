//! One file, one transaction: it is there whole, and recorded, or not at all.

use super::check::reached;
use super::script::{self, Statement};
use super::{AppPlan, Migration, concurrent, describe, place_of, quote};
use anyhow::bail;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

/// The migrations that a database has, by app and number.
#[derive(Debug, Default)]
pub(super) struct Applied {
    checksums: BTreeMap<(String, i32), Vec<u8>>,
    apps: BTreeSet<String>,
}

impl Applied {
    /// Reads them; a database that was never migrated has none.
    pub(super) async fn read(client: &impl GenericClient) -> anyhow::Result<Self> {
        let exists: bool = client.query_one("SELECT to_regclass('tidemill.migrations') IS NOT NULL", &[]).await?.get(0);
        if !exists {
            return Ok(Self::default());
        }
        let rows = client.query("SELECT app, number, checksum FROM tidemill.migrations", &[]).await?;
        let checksums: BTreeMap<_, _> = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        let apps = checksums.keys().map(|(app, _): &(String, i32)| app.clone()).collect();
        Ok(Self { checksums, apps })
    }

    /// Whether the migration is applied (`Some`), and with this content (`true`).
    pub(super) fn knows(&self, app: &str, migration: &Migration) -> Option<bool> {
        self.checksums.get(&(app.to_owned(), migration.number)).map(|known| *known == migration.checksum)
    }

    /// Whether nothing of the app is applied.
    pub(super) fn is_new(&self, app: &AppPlan) -> bool {
        !self.apps.contains(&app.app)
    }

    /// The app's migrations that are applied, and those that are not.
    pub(super) fn split(&self, app: &AppPlan) -> anyhow::Result<(Vec<Migration>, Vec<Migration>)> {
        if let Some(other) = app.migrations.iter().find(|migration| self.knows(&app.app, migration) == Some(false)) {
            return Err(changed(&app.app, other));
        }
        Ok(app.migrations.iter().cloned().partition(|migration| self.knows(&app.app, migration).is_some()))
    }
}

/// What is said about a file whose text is another one than the applied one.
pub(super) fn changed(app: &str, migration: &Migration) -> anyhow::Error {
    let file = migration.file();
    anyhow::anyhow!(
        "migration {file} of `{app}` was changed after it was applied; put its old text back and add a new one with a higher number"
    )
}

/// Notes, as the login that connected, that a migration is applied.
pub(super) async fn record(client: &impl GenericClient, app: &str, migration: &Migration) -> anyhow::Result<()> {
    let insert = "INSERT INTO tidemill.migrations (app, number, name, checksum) VALUES ($1, $2, $3, $4)";
    client.execute(insert, &[&app, &migration.number, &migration.name, &&migration.checksum[..]]).await?;
    Ok(())
}

/// Applies one file as the app's owner. Returns what was done, a line each.
pub(super) async fn apply(
    client: &mut Client,
    app: &AppPlan,
    names: &BTreeMap<String, String>,
    migration: &Migration,
    limit: Duration,
) -> anyhow::Result<Vec<String>> {
    let file = migration.file();
    let Ok(statements) = script::statements(&migration.text) else { bail!("migration {file} of `{}` cannot be read", app.app) };
    let mut lines = Vec::new();
    match statements.as_slice() {
        [statement] if statement.is_concurrent() => {
            let ran = concurrent::run(client, app, statement, &statement.expanded(names)?).await;
            lines.extend(
                ran.map_err(|reason| anyhow::anyhow!("migration {file} of `{}` (line {}): {reason}", app.app, statement.line))?,
            );
            record(client, &app.app, migration).await?;
        }
        statements => transact(client, app, names, migration, statements, limit).await?,
    }
    lines.push(format!("applied {file} of `{}`", app.app));
    Ok(lines)
}

async fn transact(
    client: &mut Client,
    app: &AppPlan,
    names: &BTreeMap<String, String>,
    migration: &Migration,
    statements: &[Statement],
    limit: Duration,
) -> anyhow::Result<()> {
    let transaction = client.transaction().await?;
    transaction
        .batch_execute(&format!(
            "SET LOCAL ROLE {}; SET LOCAL search_path = {}; SET LOCAL lock_timeout = {}",
            quote(&app.owner),
            quote(&app.app),
            limit.as_millis()
        ))
        .await?;
    let place = |line: usize| format!("migration {} of `{}` (line {line})", migration.file(), app.app);
    for statement in statements {
        let text = statement.expanded(names)?;
        let Err(error) = transaction.execute(&text, &[]).await else { continue };
        transaction.rollback().await.ok();
        let line = statement.line + place_of(&text, &error).unwrap_or(1) - 1;
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            let holders = holders(client, app, statement).await;
            bail!(
                "{}: what it needs was in use for {limit:?}{holders}; nothing of this file was changed, and what runs goes on. Repeat it, or wait \
                 longer with --migration-lock-timeout",
                place(line)
            );
        }
        bail!("{}: {}; nothing of this file was changed", place(line), describe(&error));
    }
    // The bookkeeping belongs to the admin login, the statements of an app to its owner.
    transaction.batch_execute("RESET ROLE; SET LOCAL search_path = pg_catalog").await?;
    record(&transaction, &app.app, migration).await?;
    let committed = transaction.commit().await;
    committed.map_err(|error| {
        anyhow::anyhow!("migration {} of `{}`: {}; nothing of this file was changed", migration.file(), app.app, describe(&error))
    })
}

/// Who uses the statement's tables now: after a lock that was not free, most likely who held it.
async fn holders(client: &Client, app: &AppPlan, statement: &Statement) -> String {
    let tables: Vec<String> = reached(statement)
        .into_iter()
        .map(|(schema, name)| if schema.is_some() { name } else { format!("{}.{name}", quote(&app.app)) })
        .collect();
    let query = "SELECT DISTINCT a.pid, coalesce(nullif(a.application_name, ''), a.usename::text, ''), \
                        extract(epoch FROM clock_timestamp() - a.xact_start)::float8 \
                 FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid) \
                 WHERE l.granted AND a.pid <> pg_backend_pid() AND a.datname = current_database() \
                   AND l.relation IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name) ORDER BY 3 DESC LIMIT 3";
    let rows = client.query(query, &[&tables]).await.unwrap_or_default();
    let shown = rows.iter().map(|row| {
        let seconds: Option<f64> = row.get(2);
        format!("process {} (`{}`, for {:.1} s)", row.get::<_, i32>(0), row.get::<_, String>(1), seconds.unwrap_or_default())
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { String::new() } else { format!(" by transactions of {}", shown.join(", ")) }
}
