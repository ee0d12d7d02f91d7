//! Records as the columns of the audit trail, natively.

use anyhow::Context;
use bytes::{BufMut, BytesMut};
use rdkafka::message::{BorrowedMessage, Message};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::SystemTime;
use tidemill::store::bucket_of;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    type_: Cow<'a, str>,
    #[serde(borrow)]
    time: Cow<'a, str>,
    #[serde(borrow)]
    correlationid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Subject {
    task_id: Uuid,
    user_id: String,
}

/// A batch, column by column.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub(super) days: Vec<i32>,
    pub(super) sources: Vec<Cow<'a, str>>,
    pub(super) ids: Vec<Cow<'a, str>>,
    types: Vec<Cow<'a, str>>,
    tasks: Vec<Uuid>,
    users: Vec<String>,
    correlations: Vec<Option<Cow<'a, str>>>,
    data: Vec<Json<'a>>,
    times: Vec<SystemTime>,
}

impl<'a> Columns<'a> {
    /// Reads a batch; a record that is no event of a task is an error.
    pub(super) fn read(batch: &'a [BorrowedMessage<'_>]) -> anyhow::Result<Self> {
        let mut columns = Self::default();
        for message in batch {
            let event: Event<'a> = serde_json::from_slice(message.payload().context("no value")?)?;
            let subject: Subject = serde_json::from_str(event.data.get())?;
            anyhow::ensure!(!subject.user_id.is_empty() && !event.data.get().contains("\\u0000"), "what the table refuses");
            columns.days.push(bucket_of(message.timestamp().to_millis().unwrap_or_default()));
            columns.sources.push(event.source);
            columns.ids.push(event.id);
            columns.types.push(event.type_);
            columns.tasks.push(subject.task_id);
            columns.users.push(subject.user_id);
            columns.correlations.push(event.correlationid);
            columns.data.push(Json(event.data.get()));
            columns.times.push(event.time.parse::<jiff::Timestamp>()?.into());
        }
        Ok(columns)
    }

    /// Leaves out the events that were handled before.
    pub(super) fn keep(&mut self, is_new: impl Fn(&str, &str) -> bool) {
        for n in (0..self.ids.len()).rev().filter(|&n| !is_new(&self.sources[n], &self.ids[n])).collect::<Vec<_>>() {
            self.days.remove(n);
            self.sources.remove(n);
            self.ids.remove(n);
            self.types.remove(n);
            self.tasks.remove(n);
            self.users.remove(n);
            self.correlations.remove(n);
            self.data.remove(n);
            self.times.remove(n);
        }
    }

    /// The parameters of the insert.
    pub(super) fn params(&self) -> [&(dyn ToSql + Sync); 8] {
        [&self.sources, &self.ids, &self.types, &self.tasks, &self.users, &self.correlations, &self.data, &self.times]
    }
}

/// JSON as it was sent, as a `jsonb`.
#[derive(Debug)]
struct Json<'a>(&'a str);

impl ToSql for Json<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        // The version of the format.
        out.put_u8(1);
        out.put_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    to_sql_checked!();
}
