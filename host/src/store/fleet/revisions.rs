//! The table of revisions: everything that was ever deployed.

use super::super::Pool;
use super::super::error::Unavailable;
use super::super::operate::Time;
use super::{DeskError, failed};
use crate::manifest::Migration;
use sha2::{Digest, Sha256};
use std::time::SystemTime;
use tokio_postgres::{Client, Row};

/// A revision on its way into the table.
#[derive(Debug)]
pub struct NewRevision<'a> {
    /// Its name: 64 hex digits.
    pub revision: &'a str,
    /// The handler.
    pub handler: &'a str,
    /// Its app.
    pub app: &'a str,
    /// `handler.toml` as it was written.
    pub manifest: &'a str,
    /// SHA-256 of the component.
    pub digest: [u8; 32],
    /// The component.
    pub component: &'a [u8],
    /// The app's migrations, if the handler gives them.
    pub migrations: Option<&'a [Migration]>,
    /// Bytes of all of it.
    pub size: u64,
    /// What its author says of it.
    pub note: Option<&'a str>,
    /// Who deploys it.
    pub by: &'a str,
}

/// A revision without its component.
#[derive(Debug, Clone)]
pub struct Revision {
    /// Its name: 64 hex digits.
    pub revision: String,
    /// The handler.
    pub handler: String,
    /// `handler.toml` as it was written.
    pub manifest: String,
    /// SHA-256 of the component.
    pub digest: [u8; 32],
    /// Bytes of the component.
    pub component_size: i64,
    /// The app's migrations, if the handler gives them.
    pub migrations: Option<Vec<Migration>>,
    /// What its author said of it.
    pub note: Option<String>,
    /// When it was first deployed.
    pub created_at: Time,
    /// By whom.
    pub created_by: String,
}

/// The columns of [`Revision::read`], of the table `v`.
pub(super) const COLUMNS: &str = "v.revision, v.handler, v.manifest, v.digest, octet_length(v.component)::int8 AS component_size, \
     v.migration_numbers, v.migration_names, v.migration_texts, v.note, v.created_at, v.created_by";

impl Revision {
    pub(super) fn read(row: &Row) -> Self {
        Self {
            revision: row.get("revision"),
            handler: row.get("handler"),
            manifest: row.get("manifest"),
            digest: row.get::<_, &[u8]>("digest").try_into().unwrap_or_default(),
            component_size: row.get("component_size"),
            migrations: migrations(row),
            note: row.get("note"),
            created_at: Time::from_column(row.get::<_, SystemTime>("created_at")),
            created_by: row.get("created_by"),
        }
    }
}

fn migrations(row: &Row) -> Option<Vec<Migration>> {
    let numbers: Vec<i32> = row.get::<_, Option<_>>("migration_numbers")?;
    let (names, texts): (Vec<String>, Vec<String>) = (row.get("migration_names"), row.get("migration_texts"));
    let all = numbers.into_iter().zip(names).zip(texts);
    Some(all.map(|((number, name), text)| Migration::new(number, name, text)).collect())
}

/// Adds a revision; one that is there stays as it is.
pub(super) async fn save(client: &Client, new: &NewRevision<'_>) -> Result<(), Unavailable> {
    let sql = "INSERT INTO tidemill.revisions (revision, handler, app, manifest, digest, component, migration_numbers, migration_names, \
                   migration_texts, size, note, created_by) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (revision) DO NOTHING";
    let numbers: Option<Vec<i32>> = new.migrations.map(|list| list.iter().map(|one| one.number).collect());
    let names: Option<Vec<&str>> = new.migrations.map(|list| list.iter().map(|one| one.name.as_str()).collect());
    let texts: Option<Vec<&str>> = new.migrations.map(|list| list.iter().map(|one| one.text.as_str()).collect());
    let size = i64::try_from(new.size).unwrap_or(i64::MAX);
    let NewRevision { revision, handler, app, manifest, digest, component, note, by, .. } = new;
    let digest = &digest[..];
    client
        .execute(sql, &[revision, handler, app, manifest, &digest, component, &numbers, &names, &texts, &size, note, by])
        .await
        .map(drop)
        .map_err(failed)
}

/// Reads revisions.
#[derive(Debug, Clone)]
pub struct Revisions {
    pool: Pool,
}

impl Revisions {
    /// Those of the pool's database.
    pub fn new(pool: Pool) -> Self {
        Self { pool }
    }

    /// These revisions, in any order.
    pub async fn these(&self, revisions: &[&str]) -> Result<Vec<Revision>, Unavailable> {
        let client = self.pool.dedicated("SET statement_timeout = '30s'").await?;
        let sql = format!("SELECT {COLUMNS} FROM tidemill.revisions v WHERE v.revision = ANY($1)");
        Ok(client.query(&sql, &[&revisions]).await.map_err(failed)?.iter().map(Revision::read).collect())
    }

    /// The component of a revision, checked against its digest.
    pub async fn component(&self, revision: &str) -> Result<Vec<u8>, DeskError> {
        let client = self.pool.dedicated("SET statement_timeout = '120s'").await?;
        let sql = "SELECT component, digest FROM tidemill.revisions WHERE revision = $1";
        let row = client.query_opt(sql, &[&revision]).await.map_err(failed)?;
        let row = row.ok_or_else(|| DeskError::Refused(format!("the database has no revision {revision}")))?;
        let component: Vec<u8> = row.get(0);
        match Sha256::digest(&component).as_slice() == row.get::<_, &[u8]>(1) {
            true => Ok(component),
            false => Err(DeskError::Refused(format!(
                "the component of revision {revision} in the database is damaged; a revision never changes, so deploy the handler with \
                 another manifest (a comment is enough)"
            ))),
        }
    }
}
