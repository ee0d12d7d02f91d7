//! The private server of a test process: its data never reach the disk, and its folder goes with the process.

use crate::embedded::Postgres;
use crate::engine::Cache;
use crate::store::{AppPlan, Consent, MigrationOptions, Migrator};
use anyhow::Context;
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use tokio::sync::Mutex;

/// The login of the host.
const LOGIN: &str = "tidemill_host";

/// The server, and a prepared database for each set of handlers, which the tests get copies of.
pub(super) struct Scratch {
    folder: PathBuf,
    postgres: Mutex<Option<Postgres>>,
    /// By what was applied to them.
    templates: Mutex<HashMap<String, String>>,
    pub(super) cache: Cache,
    /// Held while handlers are compiled: the next test finds the code that this one has compiled.
    pub(super) compiling: Mutex<()>,
}

/// A database of one test.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) name: String,
    /// The host's login.
    pub(super) url: String,
    /// The superuser.
    pub(super) superuser_url: String,
}

impl Scratch {
    pub(super) async fn start(cache: Option<PathBuf>) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("tidemill-test-{}", &uuid::Uuid::new_v4().simple().to_string()[..12]));
        // The server may run under another account, which has to pass through.
        std::fs::DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let postgres = match Postgres::start_scratch(&folder).await {
            Ok(postgres) => postgres,
            Err(error) => {
                let _ = std::fs::remove_dir_all(&folder);
                return Err(error);
            }
        };
        let cache = cache.map_or(Ok(Cache::none()), |folder| Cache::open(&folder))?;
        Ok(Self { folder, postgres: Mutex::new(Some(postgres)), templates: Mutex::default(), cache, compiling: Mutex::default() })
    }

    /// A new database in which these apps are prepared.
    pub(super) async fn database(&self, name: String, apps: &[AppPlan]) -> anyhow::Result<Database> {
        let template = self.template(apps).await?;
        let database = {
            let server = self.postgres.lock().await;
            let server = server.as_ref().context("the host stops")?;
            server.make_database(&name, Some(&template)).await?;
            Database { url: server.url(LOGIN, &name), superuser_url: server.superuser_url(&name), name }
        };
        // Everything is there already but the rights on the database itself, which a copy does not have.
        migrate(&database.superuser_url, &database.url, apps).await?;
        Ok(database)
    }

    async fn template(&self, apps: &[AppPlan]) -> anyhow::Result<String> {
        let mut templates = self.templates.lock().await;
        let key = format!(
            "{:?}",
            apps.iter().map(|app| (app, app.migrations.iter().map(|m| m.checksum).collect::<Vec<_>>())).collect::<Vec<_>>()
        );
        if let Some(name) = templates.get(&key) {
            return Ok(name.clone());
        }
        let name = format!("template_{}", templates.len());
        let (url, superuser_url) = {
            let server = self.postgres.lock().await;
            let server = server.as_ref().context("the host stops")?;
            // One that a failed attempt left.
            server.drop_database(&name).await?;
            server.make_database(&name, None).await?;
            (server.url(LOGIN, &name), server.superuser_url(&name))
        };
        migrate(&superuser_url, &url, apps).await?;
        templates.insert(key, name.clone());
        Ok(name)
    }

    pub(super) async fn remove(&self, database: &str) -> anyhow::Result<()> {
        match self.postgres.lock().await.as_ref() {
            Some(server) => server.drop_database(database).await,
            None => Ok(()),
        }
    }

    /// Stops the server and removes the folder.
    pub(super) async fn stop(&self) -> anyhow::Result<()> {
        let stopped = match self.postgres.lock().await.take() {
            Some(server) => {
                // It may have had to be elsewhere.
                let place = server.folder().to_owned();
                let stopped = server.stop().await;
                let _ = std::fs::remove_dir_all(place);
                stopped
            }
            None => Ok(()),
        };
        let _ = std::fs::remove_dir_all(&self.folder);
        stopped
    }
}

/// As `dev` does it: nothing runs beside what is being written.
async fn migrate(superuser_url: &str, url: &str, apps: &[AppPlan]) -> anyhow::Result<()> {
    let options = MigrationOptions { consent: Consent::in_development(), ..MigrationOptions::default() };
    Migrator::connect(superuser_url).await?.with(options).run(url, apps).await?;
    Ok(())
}
