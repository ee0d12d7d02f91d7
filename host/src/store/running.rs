//! Who works which partition, so that the next one knows when a process has ended in the middle of it (promise 8, `host-crash`).

use super::error::{Unavailable, describe};
use super::inbox::{self, Identity};
use super::presence::gone;
use super::{Pool, Scope};
use std::collections::HashSet;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};
use uuid::Uuid;

/// A partition of a group.
#[derive(Debug, Clone)]
pub struct Place {
    /// The group's inbox scope.
    pub scope: Scope,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
}

/// What a process finds when it takes a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It was left in order, or never worked before.
    Order,
    /// Its last owner's process has ended without a word; it may have run anything that is not done.
    Left,
    /// Its last owner ended while it ran the record at this offset, as so many processes had before it in the end.
    LeftAt(i64, i32),
}

/// The table of partitions under work.
#[derive(Debug, Clone)]
pub struct Running {
    pool: Pool,
    owner: Uuid,
}

impl Running {
    /// The table as one process writes it.
    pub fn new(pool: Pool, owner: Uuid) -> Self {
        Self { pool, owner }
    }

    /// Takes a partition and says how its last owner left it.
    pub async fn take(&self, place: &Place) -> Result<Found, Unavailable> {
        let sql = concat!(
            "WITH old AS (SELECT owner <> $4 AND ",
            gone!("owner"),
            " AS is_left, record_offset, deaths FROM tidemill.running WHERE scope = $1 AND topic = $2 AND partition = $3), \
                  new AS (INSERT INTO tidemill.running AS r (scope, topic, partition, owner) VALUES ($1, $2, $3, $4) \
                          ON CONFLICT (scope, topic, partition) DO UPDATE SET owner = excluded.owner, since = clock_timestamp()) \
             SELECT is_left, record_offset, deaths FROM old"
        );
        let row = self.query(sql, place, &[&self.owner]).await?;
        Ok(match row {
            Some(row) if row.get(0) => match row.get::<_, Option<i64>>(1) {
                Some(offset) => Found::LeftAt(offset, row.get(2)),
                None => Found::Left,
            },
            _ => Found::Order,
        })
    }

    /// The positions of the events that are done, or wait in the database.
    pub async fn done(&self, place: &Place, identities: &[&Identity]) -> Result<HashSet<usize>, Unavailable> {
        let buckets: Vec<i32> = identities.iter().map(|identity| identity.bucket).collect();
        let sources: Vec<&str> = identities.iter().map(|identity| &*identity.source).collect();
        let ids: Vec<&str> = identities.iter().map(|identity| &*identity.id).collect();
        let params: [&(dyn ToSql + Sync); 4] = [&place.scope.0, &buckets, &sources, &ids];
        let rows = self.ask(async |client| client.query(inbox::KNOWN, &params).await).await?;
        Ok(rows.iter().filter_map(|row| usize::try_from(row.get::<_, i64>(0) - 1).ok()).collect())
    }

    /// Announces that one record is about to run, as the end of so many processes.
    pub async fn announce(&self, place: &Place, offset: i64, deaths: i32) -> Result<(), Unavailable> {
        let sql = "UPDATE tidemill.running SET record_offset = $5, deaths = $6 \
                   WHERE scope = $1 AND topic = $2 AND partition = $3 AND owner = $4 RETURNING 1";
        self.query(sql, place, &[&self.owner, &offset, &deaths]).await.map(drop)
    }

    /// The records that a dead process may have run are done.
    pub async fn recovered(&self, place: &Place) -> Result<(), Unavailable> {
        let sql = "UPDATE tidemill.running SET record_offset = NULL, deaths = 0 \
                   WHERE scope = $1 AND topic = $2 AND partition = $3 AND owner = $4 RETURNING 1";
        self.query(sql, place, &[&self.owner]).await.map(drop)
    }

    /// Leaves a partition in order.
    pub async fn leave(&self, place: &Place) -> Result<(), Unavailable> {
        let sql = "DELETE FROM tidemill.running WHERE scope = $1 AND topic = $2 AND partition = $3 AND owner = $4 RETURNING 1";
        self.query(sql, place, &[&self.owner]).await.map(drop)
    }

    async fn query(&self, sql: &str, place: &Place, more: &[&(dyn ToSql + Sync)]) -> Result<Option<Row>, Unavailable> {
        let mut params: Vec<&(dyn ToSql + Sync)> = vec![&place.scope.0, &place.topic, &place.partition];
        params.extend(more);
        self.ask(async |client| client.query_opt(sql, &params).await).await
    }

    async fn ask<T>(&self, asks: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>) -> Result<T, Unavailable> {
        let mut lease = self.pool.lend().await?;
        let patience = self.pool.patience();
        let asked = tokio::time::timeout(patience, asks(lease.client())).await;
        let asked = asked.map_err(|_| Unavailable(format!("the database did not answer within {patience:?}")))?;
        let answer = asked.map_err(|error| Unavailable(describe(&error)))?;
        lease.give_back();
        Ok(answer)
    }
}
