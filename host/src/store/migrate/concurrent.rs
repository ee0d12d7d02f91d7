//! An index that is made or dropped while everybody goes on writing: outside a transaction, so what a failed try leaves is cleared away.

use super::script::Statement;
use super::{AppPlan, describe, quote};
use sqlparser::ast::{ObjectName, Statement as Tree};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// How long it may wait for transactions that are older than it. Nobody waits behind it meanwhile, so it may be patient.
const PATIENCE: Duration = Duration::from_secs(600);

/// An index as the database has it.
struct Index {
    table: String,
    unique: bool,
    /// Not so after a try that failed or was interrupted: it costs every write and answers nothing, and a unique one refuses writes.
    valid: bool,
}

/// Runs the only statement of a file as the app's owner. Returns what else is worth a line; the error says what is left.
pub(super) async fn run(client: &Client, app: &AppPlan, statement: &Statement, text: &str) -> Result<Vec<String>, String> {
    let role = format!(
        "SET ROLE {}; SET search_path = {}; SET lock_timeout = {}",
        quote(&app.owner),
        quote(&app.app),
        PATIENCE.as_millis()
    );
    let said = |error: tokio_postgres::Error| describe(&error);
    client.batch_execute(&role).await.map_err(said)?;
    let ran = match &statement.tree {
        Ok(Tree::CreateIndex(index)) => match &index.name {
            Some(name) => create(client, app, &super::check::last(name), &index.table_name, index.unique, text).await,
            None => Err("an index that is made CONCURRENTLY needs a name".to_owned()),
        },
        _ => client.execute(text, &[]).await.map(|_| Vec::new()).map_err(|error| {
            format!("{}; the index may be there still, invalid: repeat the run, it drops what is left", explain(&error))
        }),
    };
    let reset = client.batch_execute("RESET ROLE; RESET search_path; RESET lock_timeout").await;
    let lines = ran?;
    reset.map_err(said)?;
    Ok(lines)
}

async fn create(
    client: &Client,
    app: &AppPlan,
    name: &str,
    table: &ObjectName,
    unique: bool,
    text: &str,
) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    match find(client, app, name).await? {
        Some(index) if !index.valid => {
            drop_index(client, app, name)
                .await
                .map_err(|error| format!("the invalid index `{name}` of an earlier try cannot be dropped: {error}"))?;
            lines.push(format!("dropped the invalid index `{name}` of `{}`, left by an earlier try", app.app));
        }
        // A run may have ended between the index and its record.
        Some(index) if index.table == super::check::last(table) && index.unique == unique => {
            return Ok(vec![format!("kept the index `{name}` of `{}`, which was there already", app.app)]);
        }
        Some(index) => {
            return Err(format!(
                "there is another index `{name}`, on `{}`; give this one another name, or drop that one",
                index.table
            ));
        }
        None => {}
    }
    let Err(error) = client.execute(text, &[]).await else { return Ok(lines) };
    let reason = explain(&error);
    match find(client, app, name).await {
        Ok(Some(index)) if !index.valid => match drop_index(client, app, name).await {
            Ok(()) => Err(format!("{reason}; nothing of it is left, and what runs goes on")),
            Err(error) => Err(format!(
                "{reason}; an invalid index `{name}` is left, which the next run drops: it cannot be dropped now ({error})"
            )),
        },
        Ok(_) => Err(format!("{reason}; nothing of it is left, and what runs goes on")),
        Err(error) => Err(format!("{reason}; an invalid index `{name}` may be left, which the next run drops ({error})")),
    }
}

async fn find(client: &Client, app: &AppPlan, name: &str) -> Result<Option<Index>, String> {
    let query = "SELECT t.relname::text, i.indisunique, i.indisvalid FROM pg_catalog.pg_index i \
                 JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_class t ON t.oid = i.indrelid \
                 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2";
    let row = client.query_opt(query, &[&app.app, &name]).await.map_err(|error| describe(&error))?;
    Ok(row.map(|row| Index { table: row.get(0), unique: row.get(1), valid: row.get(2) }))
}

async fn drop_index(client: &Client, app: &AppPlan, name: &str) -> Result<(), String> {
    let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS {}.{}", quote(&app.app), quote(name));
    client.execute(&drop, &[]).await.map(|_| ()).map_err(|error| explain(&error))
}

fn explain(error: &tokio_postgres::Error) -> String {
    let said = describe(error);
    // The key quotes values of rows, which helps here and is seen by whoever migrates only.
    let detail = error.as_db_error().and_then(|db| db.detail()).map(|detail| format!(" ({detail})")).unwrap_or_default();
    match error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
        true => format!(
            "transactions that began before it did not end within {PATIENCE:?}; end them (pg_stat_activity) and repeat it"
        ),
        false => format!("{said}{detail}"),
    }
}
