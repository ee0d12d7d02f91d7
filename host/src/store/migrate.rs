//! Migrations: the host's own schema `tidemill`, and for each app its schema, roles and numbered list.
//!
//! A migration is applied once, known by its number and checksum; other content under a known number is refused. All of it runs in one
//! transaction under a lock, so a failed run leaves nothing and two runs wait for each other.

use super::error::describe;
use super::target::{Target, parse_url};
pub use crate::manifest::Migration;
use anyhow::{Context, bail, ensure};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use tokio_postgres::{Client, Transaction};

/// The host's own migrations, in order.
const HOST: &[(i32, &str, &str)] = &[
    (1, "outbox", include_str!("../../../migrations/host/0001_outbox.sql")),
    (2, "inbox", include_str!("../../../migrations/host/0002_inbox.sql")),
    (3, "retries", include_str!("../../../migrations/host/0003_retries.sql")),
    (4, "relay_slices", include_str!("../../../migrations/host/0004_relay_slices.sql")),
    (5, "jobs", include_str!("../../../migrations/host/0005_jobs.sql")),
    (6, "idempotency", include_str!("../../../migrations/host/0006_idempotency.sql")),
];

/// A handler and its database role.
#[derive(Debug, Clone)]
pub struct HandlerRole {
    /// The handler's name, as `{{role:NAME}}` names it.
    pub handler: String,
    /// Its role.
    pub role: String,
}

/// What an app needs in the database.
#[derive(Debug, Clone)]
pub struct AppPlan {
    /// The app; its schema has the same name.
    pub app: String,
    /// The NOLOGIN role that owns the app's tables.
    pub owner: String,
    /// Its handlers.
    pub handlers: Vec<HandlerRole>,
    /// Its migrations, by number.
    pub migrations: Vec<Migration>,
}

/// A connection with the rights to change schemas and roles.
pub struct Migrator {
    client: Client,
    database: String,
}

impl Migrator {
    /// Connects with the admin URL.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut target = Target::parse(url, "TIDEMILL_ADMIN_DATABASE_URL")?;
        target.config.application_name("tidemill migrate").connect_timeout(std::time::Duration::from_secs(10));
        let client = target.connect().await.map_err(|error| anyhow::anyhow!(target.trouble(&error)))?;
        let database = client.query_one("SELECT current_database()", &[]).await?.get(0);
        Ok(Self { client, database })
    }

    /// Brings the database to the state that the host and `apps` need; returns one line for each change that was made.
    /// `runtime_url` is the login that the host will use; its role is made if it does not exist.
    pub async fn run(&mut self, runtime_url: &str, apps: &[AppPlan]) -> anyhow::Result<Vec<String>> {
        let (runtime, _) = parse_url(runtime_url, "TIDEMILL_DATABASE_URL")?;
        let login =
            runtime.get_user().context("TIDEMILL_DATABASE_URL names no user; the host needs a login of its own")?.to_owned();
        let mut done = Vec::new();
        let database = self.database.clone();
        let transaction = self.client.transaction().await?;
        transaction.batch_execute("SELECT pg_advisory_xact_lock(7000, 0); SET LOCAL lock_timeout = '30s'").await?;
        make_login(&transaction, &login, runtime.get_password(), &mut done).await?;
        transaction
            .batch_execute(
                "CREATE SCHEMA IF NOT EXISTS tidemill; \
                 CREATE TABLE IF NOT EXISTS tidemill.migrations (\
                    app text NOT NULL, number integer NOT NULL, name text NOT NULL, checksum bytea NOT NULL, \
                    applied_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (app, number))",
            )
            .await
            .map_err(|error| anyhow::anyhow!("{}: the admin login cannot make the schema `tidemill`", describe(&error)))?;
        let (quoted, database) = (quote(&login), quote(&database));
        transaction
            .batch_execute(&format!(
                "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC; GRANT CONNECT ON DATABASE {database} TO {quoted}; \
                 GRANT USAGE ON SCHEMA tidemill TO {quoted}; GRANT SELECT ON tidemill.migrations TO {quoted}"
            ))
            .await?;
        let host: Vec<Migration> = HOST.iter().map(|(number, name, text)| host_migration(*number, name, text)).collect();
        let names = BTreeMap::from([("runtime".to_owned(), quoted.clone())]);
        apply(&transaction, "tidemill", &host, &names, &mut done).await?;
        for app in apps {
            prepare_app(&transaction, app, &quoted, &mut done).await.with_context(|| format!("app `{}`", app.app))?;
        }
        transaction.commit().await?;
        Ok(done)
    }
}

/// The runtime login: no superuser, and NOINHERIT, so that being a member of the handlers' roles gives it nothing until it assumes one.
async fn make_login(
    transaction: &Transaction<'_>,
    login: &str,
    password: Option<&[u8]>,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    let known = transaction.query_opt("SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = $1", &[&login]).await?;
    if let Some(row) = known {
        let (superuser, bypass): (bool, bool) = (row.get(0), row.get(1));
        ensure!(
            !superuser && !bypass,
            "TIDEMILL_DATABASE_URL logs in as `{login}`, which is a superuser or bypasses row-level security: guests could do anything. \
             Name another user there; `tidemill migrate` makes it"
        );
        let admin: String = transaction.query_one("SELECT current_user::text", &[]).await?.get(0);
        ensure!(
            admin != login,
            "TIDEMILL_DATABASE_URL and TIDEMILL_ADMIN_DATABASE_URL log in as the same user `{login}`, which would own the tables that guests \
             are walled off from; give the host a user of its own"
        );
        return Ok(());
    }
    // The server gets the SCRAM verifier, not the password, so that the password is in no log of the server.
    let secret = match password {
        Some(password) => format!("PASSWORD {}", literal(&postgres_protocol::password::scram_sha_256(password))),
        None => String::new(),
    };
    let sql = format!("CREATE ROLE {} LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE {secret}", quote(login));
    transaction
        .batch_execute(&sql)
        .await
        .map_err(|error| anyhow::anyhow!("cannot make the login `{login}`: {}", describe(&error)))?;
    done.push(format!("made the login `{login}`"));
    Ok(())
}

async fn make_role(transaction: &Transaction<'_>, role: &str, done: &mut Vec<String>) -> anyhow::Result<()> {
    if transaction.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role]).await?.is_none() {
        transaction.batch_execute(&format!("CREATE ROLE {} NOLOGIN", quote(role))).await?;
        done.push(format!("made the role `{role}`"));
    }
    Ok(())
}

async fn prepare_app(transaction: &Transaction<'_>, app: &AppPlan, login: &str, done: &mut Vec<String>) -> anyhow::Result<()> {
    let (schema, owner) = (quote(&app.app), quote(&app.owner));
    make_role(transaction, &app.owner, done).await?;
    // Before PostgreSQL 16 a role that makes another is no member of it; changing into the owner needs that.
    let setup = format!(
        "GRANT {owner} TO CURRENT_USER; CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}; REVOKE ALL ON SCHEMA {schema} FROM PUBLIC"
    );
    transaction.batch_execute(&setup).await?;
    let mut names = BTreeMap::new();
    for HandlerRole { handler, role } in &app.handlers {
        make_role(transaction, role, done).await?;
        let role = quote(role);
        transaction.batch_execute(&format!("GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT {role} TO {login}")).await?;
        names.insert(format!("role:{handler}"), role);
    }
    transaction.batch_execute(&format!("SET LOCAL ROLE {owner}; SET LOCAL search_path = {schema}")).await?;
    let applied = apply(transaction, &app.app, &app.migrations, &names, done).await;
    transaction.batch_execute("RESET ROLE; SET LOCAL search_path = pg_catalog").await.ok();
    applied
}

async fn apply(
    transaction: &Transaction<'_>,
    app: &str,
    migrations: &[Migration],
    names: &BTreeMap<String, String>,
    done: &mut Vec<String>,
) -> anyhow::Result<()> {
    for migration in migrations {
        let file = format!("{:04}_{}.sql", migration.number, migration.name);
        // The bookkeeping belongs to the admin login, the statements of an app to its owner.
        let known = "SELECT checksum FROM tidemill.migrations WHERE app = $1 AND number = $2";
        if let Some(row) = as_admin(transaction, known, &[&app, &migration.number]).await?.first() {
            let checksum: &[u8] = row.get(0);
            if checksum != migration.checksum {
                bail!(
                    "migration {file} of `{app}` was changed after it was applied; put its old text back and add a new one with a higher number"
                );
            }
            continue;
        }
        let text = expand(&migration.text, names).with_context(|| format!("migration {file} of `{app}`"))?;
        transaction.batch_execute(&text).await.map_err(|error| {
            let position = error.as_db_error().and_then(|db| match db.position() {
                Some(tokio_postgres::error::ErrorPosition::Original(at)) => Some(line_of(&text, *at)),
                _ => None,
            });
            let place = position.map(|line| format!(" (line {line})")).unwrap_or_default();
            anyhow::anyhow!("migration {file} of `{app}`{place}: {}; nothing was changed", describe(&error))
        })?;
        let insert = "INSERT INTO tidemill.migrations (app, number, name, checksum) VALUES ($1, $2, $3, $4)";
        as_admin(transaction, insert, &[&app, &migration.number, &migration.name, &&migration.checksum[..]]).await?;
        done.push(format!("applied {file} of `{app}`"));
    }
    Ok(())
}

/// Runs one statement as the login that connected, whatever role the transaction has assumed, and goes back to that role.
async fn as_admin(
    transaction: &Transaction<'_>,
    sql: &str,
    params: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> anyhow::Result<Vec<tokio_postgres::Row>> {
    let role: String = transaction.query_one("SELECT current_setting('role')", &[]).await?.get(0);
    transaction.batch_execute("RESET ROLE").await?;
    let rows = transaction.query(sql, params).await?;
    if role != "none" {
        transaction.batch_execute(&format!("SET LOCAL ROLE {}", quote(&role))).await?;
    }
    Ok(rows)
}

/// Replaces `{{name}}` by what it stands for.
fn expand(text: &str, names: &BTreeMap<String, String>) -> anyhow::Result<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, tail) = after.split_once("}}").context("`{{` without `}}`")?;
        let value = names.get(name).with_context(|| {
            let known: Vec<_> = names.keys().map(|k| format!("{{{{{k}}}}}")).collect();
            format!("`{{{{{name}}}}}` stands for nothing here; known are {}", known.join(", "))
        })?;
        out.push_str(before);
        out.push_str(value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn line_of(text: &str, position: u32) -> usize {
    let position = usize::try_from(position).unwrap_or(usize::MAX);
    text.chars().take(position.saturating_sub(1)).filter(|c| *c == '\n').count() + 1
}

fn host_migration(number: i32, name: &str, text: &str) -> Migration {
    Migration { number, name: name.to_owned(), text: text.to_owned(), checksum: Sha256::digest(text.as_bytes()).into() }
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl std::fmt::Debug for Migrator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migrator").field("database", &self.database).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_expand_and_unknown_ones_are_named() {
        let names = BTreeMap::from([("role:orders".to_owned(), "\"x_h_orders\"".to_owned())]);
        assert_eq!(expand("GRANT {{role:orders}};", &names).unwrap(), "GRANT \"x_h_orders\";");
        let error = expand("GRANT {{role:order}};", &names).unwrap_err().to_string();
        assert!(error.contains("{{role:order}}") && error.contains("{{role:orders}}"), "{error}");
    }

    #[test]
    fn the_hosts_migrations_are_numbered_without_gaps() {
        for (i, (number, _, _)) in HOST.iter().enumerate() {
            assert_eq!(*number as usize, i + 1);
        }
    }
}
