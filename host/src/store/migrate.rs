//! Migrations: the host's own schema `tidemill`, and for each app its schema, roles and numbered list.
//!
//! - `script`: a file's text as statements
//! - `check`: whether an app's files only expand, before anything is changed
//! - `roles`: the login, the owners, the handlers' roles
//! - `apply`: one file, one transaction; `concurrent`: an index that has to be made outside of one
//! - `host`: the host's own schema
//!
//! A migration is applied once, known by its number and checksum; other content under a known number is refused. Two runs wait for each other.

mod apply;
mod check;
mod concurrent;
mod host;
mod roles;
mod script;

use super::error::describe;
use super::target::{Target, parse_url};
pub use crate::manifest::Migration;
use anyhow::{Context, bail};
use apply::Applied;
use check::Finding;
pub use check::{Consent, Rule, tables_made};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio_postgres::Client;

/// The host's own migrations, in order.
const HOST: &[(i32, &str, &str)] = &[
    (1, "outbox", include_str!("../../../migrations/host/0001_outbox.sql")),
    (2, "inbox", include_str!("../../../migrations/host/0002_inbox.sql")),
    (3, "retries", include_str!("../../../migrations/host/0003_retries.sql")),
    (4, "relay_slices", include_str!("../../../migrations/host/0004_relay_slices.sql")),
    (5, "jobs", include_str!("../../../migrations/host/0005_jobs.sql")),
    (6, "idempotency", include_str!("../../../migrations/host/0006_idempotency.sql")),
    (7, "revisions", include_str!("../../../migrations/host/0007_revisions.sql")),
    (8, "schedule_one", include_str!("../../../migrations/host/0008_schedule_one.sql")),
    (9, "jobs_by_bytes", include_str!("../../../migrations/host/0009_jobs_by_bytes.sql")),
    (10, "claims_of_the_dead", include_str!("../../../migrations/host/0010_claims_of_the_dead.sql")),
    (11, "identities_bytewise", include_str!("../../../migrations/host/0011_identities_bytewise.sql")),
    (12, "stopped_groups", include_str!("../../../migrations/host/0012_stopped_groups.sql")),
];

/// How often a run asks whether the one before it has ended.
const TURN: Duration = Duration::from_millis(200);

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

impl AppPlan {
    /// What the placeholders of its migrations stand for.
    fn names(&self) -> BTreeMap<String, String> {
        self.handlers.iter().map(|HandlerRole { handler, role }| (format!("role:{handler}"), quote(role))).collect()
    }
}

/// How migrations are run.
#[derive(Debug, Clone)]
pub struct MigrationOptions {
    /// What is let through although it may harm what runs.
    pub consent: Consent,
    /// How long a statement may wait for a lock, and with it everybody who comes after it.
    pub lock_timeout: Duration,
}

impl Default for MigrationOptions {
    fn default() -> Self {
        Self { consent: Consent::default(), lock_timeout: Duration::from_secs(5) }
    }
}

/// A connection with the rights to change schemas and roles.
pub struct Migrator {
    client: Client,
    database: String,
    options: MigrationOptions,
}

/// The migrations of an app that are not applied yet.
struct Pending<'a> {
    app: &'a AppPlan,
    names: BTreeMap<String, String>,
    files: Vec<Migration>,
}

impl Migrator {
    /// Connects with the admin URL.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let mut target = Target::parse(url, "TIDEMILL_ADMIN_DATABASE_URL")?;
        target.config.application_name("tidemill migrate").connect_timeout(Duration::from_secs(10));
        let client = target.connect().await.map_err(|error| anyhow::anyhow!(target.trouble(&error)))?;
        let database = client.query_one("SELECT current_database()", &[]).await?.get(0);
        Ok(Self { client, database, options: MigrationOptions::default() })
    }

    /// The same with other options than the default ones.
    pub fn with(self, options: MigrationOptions) -> Self {
        Self { options, ..self }
    }

    /// Brings the database to the state that the host and `apps` need; returns one line for each change that was made.
    /// `runtime_url` is the login that the host will use; its role is made if it does not exist.
    ///
    /// Everything is checked before anything is changed. Then each file commits on its own: one that fails leaves nothing, those before it stay.
    pub async fn run(&mut self, runtime_url: &str, apps: &[AppPlan]) -> anyhow::Result<Vec<String>> {
        self.take_turn().await?;
        let done = self.run_alone(runtime_url, apps).await;
        // Closing the connection would give the turn back, too.
        self.client.batch_execute("SELECT pg_advisory_unlock(7000, 0)").await.ok();
        done
    }

    /// What [`Migrator::run`] would apply, a line each, and what is worth a note; refuses what it would refuse, and changes nothing.
    pub async fn check(&self, apps: &[AppPlan]) -> anyhow::Result<Vec<String>> {
        let applied = Applied::read(&self.client).await?;
        let mut lines = Vec::new();
        let pending = self.pending(&applied, apps, &mut lines)?;
        let files = pending.iter().flat_map(|Pending { app, files, .. }| files.iter().map(move |file| (app, file)));
        lines.extend(files.map(|(app, file)| format!("would apply {} of `{}`", file.file(), app.app)));
        Ok(lines)
    }

    /// Waits until no other run is under way. Asks again and again: a statement that waited would keep CREATE INDEX CONCURRENTLY of the other run
    /// waiting for its snapshot, and each would wait for the other.
    async fn take_turn(&self) -> anyhow::Result<()> {
        let mut waits = false;
        while !self.client.query_one("SELECT pg_try_advisory_lock(7000, 0)", &[]).await?.get::<_, bool>(0) {
            if !std::mem::replace(&mut waits, true) {
                tracing::info!("other migrations are under way in this database; waiting for them to end");
            }
            tokio::time::sleep(TURN).await;
        }
        Ok(())
    }

    async fn run_alone(&mut self, runtime_url: &str, apps: &[AppPlan]) -> anyhow::Result<Vec<String>> {
        let (runtime, _) = parse_url(runtime_url, "TIDEMILL_DATABASE_URL")?;
        let login =
            runtime.get_user().context("TIDEMILL_DATABASE_URL names no user; the host needs a login of its own")?.to_owned();
        let applied = Applied::read(&self.client).await?;
        let mut done = Vec::new();
        let pending = self.pending(&applied, apps, &mut done)?;
        let kept = done.len();
        self.prepare(&login, runtime.get_password(), apps, &mut done).await?;
        for Pending { app, names, files } in pending {
            for file in files {
                let applied = apply::apply(&mut self.client, app, &names, &file, self.options.lock_timeout).await;
                let lines = applied.map_err(|error| match done.get(kept..) {
                    Some(lines) if !lines.is_empty() => {
                        anyhow::anyhow!("{error:#}\nkept, since it was done before: {}", lines.join("; "))
                    }
                    _ => error,
                })?;
                done.extend(lines);
            }
        }
        Ok(done)
    }

    /// What is to be applied, if all of it may be.
    fn pending<'a>(&self, applied: &Applied, apps: &'a [AppPlan], notes: &mut Vec<String>) -> anyhow::Result<Vec<Pending<'a>>> {
        let mut refused = Vec::new();
        let mut pending = Vec::new();
        for app in apps {
            let (earlier, files) = applied.split(app)?;
            let names = app.names();
            for finding in check::check(&app.app, &earlier, &files, &self.options.consent) {
                // Where nothing of the app runs, nothing can break; but it will where the file comes to a database that is in use.
                let harmless = applied.is_new(app) && finding.rule().is_some_and(Rule::is_about_what_runs);
                match finding.rule() {
                    Some(rule) if finding.is_allowed(&self.options.consent) => {
                        notes.push(format!("allowed {rule} in {} of `{}`, line {}", finding.file, app.app, finding.line));
                    }
                    Some(rule) if harmless => {
                        let (file, line) = (&finding.file, finding.line);
                        notes.push(format!(
                            "note: {rule} in {file} of `{}`, line {line}, needs --allow {rule} where the app is in use",
                            app.app
                        ));
                    }
                    _ => refused.push((app, finding)),
                }
            }
            for file in &files {
                let place = || format!("migration {} of `{}`", file.file(), app.app);
                for statement in script::statements(&file.text).iter().flatten() {
                    statement.expanded(&names).with_context(place)?;
                }
            }
            pending.push(Pending { app, names, files });
        }
        if !refused.is_empty() {
            bail!("{}", refusal(&refused));
        }
        Ok(pending)
    }

    /// The host's own schema, and for each app its schema and roles, in one transaction.
    async fn prepare(
        &mut self,
        login: &str,
        password: Option<&[u8]>,
        apps: &[AppPlan],
        done: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let database = quote(&self.database);
        let limit = self.options.lock_timeout;
        let transaction = self.client.transaction().await?;
        transaction.batch_execute(&format!("SET LOCAL lock_timeout = {}", limit.as_millis())).await?;
        roles::make_login(&transaction, login, password, done).await?;
        host::apply(&transaction, &quote(login), &database, limit, done).await?;
        for app in apps {
            roles::prepare_app(&transaction, app, &quote(login), done).await.with_context(|| format!("app `{}`", app.app))?;
        }
        transaction.commit().await?;
        Ok(())
    }
}

fn refusal(refused: &[(&AppPlan, Finding)]) -> String {
    let mut text = "migrations are refused; nothing was changed. See docs/migrations.md".to_owned();
    for (app, finding) in refused {
        text += &format!("\n  `{}` {finding}", app.app);
    }
    text
}

/// What PostgreSQL said, and where in the text that it was sent: lines from 1.
fn place_of(text: &str, error: &tokio_postgres::Error) -> Option<usize> {
    match error.as_db_error()?.position()? {
        tokio_postgres::error::ErrorPosition::Original(at) => {
            let before = usize::try_from(*at).unwrap_or(usize::MAX).saturating_sub(1);
            Some(text.chars().take(before).filter(|c| *c == '\n').count() + 1)
        }
        tokio_postgres::error::ErrorPosition::Internal { .. } => None,
    }
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
    fn the_hosts_migrations_are_numbered_without_gaps() {
        for (i, (number, _, _)) in HOST.iter().enumerate() {
            assert_eq!(*number as usize, i + 1);
        }
    }
}
