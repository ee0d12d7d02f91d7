//! The twin's database on sqlx.

use super::statements::{ASSUME, INSERT_EVENT, INSERT_TASK, KEY_LOCKS, PATH, RESUME, ROLE};
use super::task::Task;
use crate::load::CONNECTIONS;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgPool, PgPoolOptions, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};
use tidemill::store::{Envelope, key_bucket};

pub(super) struct Store(PgPool);

impl Store {
    pub(super) fn open(url: &str) -> anyhow::Result<Self> {
        let connections = u32::try_from(CONNECTIONS)?;
        // Asking each connection whether it lives, at each use, would be one trip more.
        let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false).connect_lazy(url)?;
        Ok(Self(pool))
    }

    pub(super) async fn keep(&self, task: &Task, event: &Envelope) -> anyhow::Result<()> {
        let mut unit = self.0.begin().await?;
        sqlx::query(ASSUME).bind(ROLE).bind(PATH).bind(&task.user).bind("5000").execute(&mut *unit).await?;
        let time = Time(task.created_at.as_microsecond());
        sqlx::query(INSERT_TASK)
            .bind(Id(task.id))
            .bind(&task.user)
            .bind(&task.title)
            .bind(&task.description)
            .bind(&task.priority)
            .bind(&task.tags)
            .bind(&task.due_date)
            .bind(&task.due_time)
            .bind(&task.recurrence)
            .bind(time)
            .bind(time)
            .bind(task.version)
            .execute(&mut *unit)
            .await?;
        sqlx::query(RESUME).execute(&mut *unit).await?;
        let bucket = key_bucket(&event.topic, event.key.as_deref());
        sqlx::query(KEY_LOCKS).bind(vec![i32::from(bucket)]).execute(&mut *unit).await?;
        sqlx::query(INSERT_EVENT)
            .bind(vec![bucket])
            .bind(vec![event.topic.as_str()])
            .bind(vec![event.key.as_deref()])
            .bind(vec![event.value.as_slice()])
            .bind(vec![event.content_type])
            .bind(vec![event.event_id.as_str()])
            .bind(vec![event.correlation_id.as_deref()])
            .bind(vec![event.traceparent.as_deref()])
            .execute(&mut *unit)
            .await?;
        Ok(unit.commit().await?)
    }
}

/// A uuid, without a feature of sqlx that nothing else needs.
struct Id(uuid::Uuid);

impl Type<Postgres> for Id {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(2950))
    }
}

impl Encode<'_, Postgres> for Id {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

/// Microseconds since 1970 as a `timestamptz`.
#[derive(Clone, Copy)]
struct Time(i64);

/// PostgreSQL counts from 2000.
pub(super) const EPOCH: i64 = 946_684_800_000_000;

impl Type<Postgres> for Time {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1184))
    }
}

impl Encode<'_, Postgres> for Time {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&(self.0 - EPOCH).to_be_bytes());
        Ok(IsNull::No)
    }
}
