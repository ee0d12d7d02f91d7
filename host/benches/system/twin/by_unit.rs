//! The twin's database on the host's own unit of work, with its round trips.

use super::by_sqlx::EPOCH;
use super::statements::{INSERT_TASK, ROLE};
use super::task::Task;
use crate::load::CONNECTIONS;
use std::sync::Arc;
use std::time::Duration;
use tidemill::store::{Envelope, Param, Pool, PoolOptions, StatementText, Unit, UnitContext};

pub(super) struct Store {
    pool: Pool,
    insert: StatementText,
    role: Arc<str>,
    schema: Arc<str>,
}

impl Store {
    pub(super) fn open(url: &str) -> anyhow::Result<Self> {
        let pool = Pool::new(url, PoolOptions { connections: CONNECTIONS, ..PoolOptions::default() })?;
        let insert = StatementText { text: INSERT_TASK.into(), writes: true };
        Ok(Self { pool, insert, role: ROLE.into(), schema: "todo".into() })
    }

    pub(super) async fn keep(&self, task: &Task, event: Envelope) -> anyhow::Result<()> {
        let context = UnitContext {
            handler: "native".into(),
            role: self.role.clone(),
            schema: self.schema.clone(),
            subject: task.user.clone(),
            scope: 1,
            sql_time: Duration::from_secs(5),
            sql_result: 1 << 20,
            idle: Duration::from_secs(12),
            outcome_patience: Duration::from_secs(5),
        };
        let mut unit = Unit::new(self.pool.clone(), context);
        let prepared = unit.prepare(&self.insert).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        unit.run(&self.insert, &prepared, Ok(params(task))).await.map_err(|error| anyhow::anyhow!("{error}"))?;
        unit.publish(event).map_err(|error| anyhow::anyhow!("{error}"))?;
        unit.commit().await.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
    }
}

fn params(task: &Task) -> Vec<Param> {
    let text = |text: &str| Param::Binary(text.as_bytes().into());
    let optional = |value: &Option<String>| value.clone().map_or(Param::Null, Param::Text);
    let tags: Vec<String> =
        task.tags.iter().map(|tag| format!("\"{}\"", tag.replace('\\', "\\\\").replace('"', "\\\""))).collect();
    let time = || Param::Binary((task.created_at.as_microsecond() - EPOCH).to_be_bytes()[..].into());
    vec![
        Param::Binary(task.id.as_bytes()[..].into()),
        text(&task.user),
        text(&task.title),
        optional(&task.description),
        text(&task.priority),
        Param::Text(format!("{{{}}}", tags.join(","))),
        optional(&task.due_date),
        optional(&task.due_time),
        optional(&task.recurrence),
        time(),
        time(),
        Param::Binary(task.version.to_be_bytes()[..].into()),
    ]
}
