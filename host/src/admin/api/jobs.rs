//! The calls about jobs. A job is known by its app and name (`APP/NAME`).

use super::form::{self, Asked, invalid, when, whole};
use super::{Answer, Api, answer, auth};
use crate::problem::Problem;
use crate::store::operate::{Detail, Job, JobCursor, JobFilter, JobId, Order, Page, Report};
use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;

/// Conditions, and what changes have beside them.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct JobForm {
    ids: Vec<JobId>,
    app: Option<String>,
    handler: Option<String>,
    prefix: Option<String>,
    due_after: Option<String>,
    due_before: Option<String>,
    state: Option<String>,
    limit: Option<u32>,
    after: Option<String>,
    all: bool,
    dry_run: Option<bool>,
}

type Body = Result<Json<JobForm>, JsonRejection>;

impl Asked for JobForm {
    fn field(name: &str, value: &str) -> Option<Value> {
        match name {
            // A name may have commas.
            "ids" => Some(Value::from(vec![value])),
            "limit" => whole(value),
            _ => Some(Value::from(value)),
        }
    }
}

impl JobForm {
    fn filter(self) -> Result<JobFilter, Problem> {
        if self.dry_run.is_some() {
            return Err(invalid("`dry_run` belongs to changes"));
        }
        let after = self.after.map(|text| text.parse::<JobCursor>().map_err(|error| invalid(format!("after: {error}"))));
        Ok(JobFilter {
            ids: self.ids,
            app: self.app,
            handler: self.handler,
            prefix: self.prefix,
            due_after: when("due_after", self.due_after)?,
            due_before: when("due_before", self.due_before)?,
            state: self.state,
            all: self.all,
            limit: self.limit,
            after: after.transpose()?,
        })
    }
}

/// Out of the body of a `POST`. Without `"dry_run": false` nothing is changed.
fn order(headers: &HeaderMap, body: Body) -> Result<Order<JobFilter>, Problem> {
    let actor = auth::actor(headers)?;
    let Json(mut form) = body.map_err(|error| invalid(error.body_text()))?;
    let dry_run = form.dry_run.take().unwrap_or(true);
    Ok(Order { actor, filter: form.filter()?, dry_run })
}

pub(super) async fn list(State(api): State<Api>, RawQuery(query): RawQuery) -> Answer<Page<Job, JobCursor>> {
    let filter = form::query::<JobForm>(query)?.filter()?;
    answer(api.open().await?.session.jobs(&filter).await)
}

pub(super) async fn show(State(api): State<Api>, Path((app, name)): Path<(String, String)>) -> Answer<Detail<Job>> {
    let id: JobId = format!("{app}/{name}").parse().map_err(|error: String| invalid(error))?;
    answer(api.open().await?.session.job(&id).await)
}

pub(super) async fn cancel(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<Job, JobId>> {
    let order = order(&headers, body)?;
    api.change(async move |mut turn| turn.session.cancel_jobs(&order).await).await
}

pub(super) async fn run_now(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<Job, JobId>> {
    let order = order(&headers, body)?;
    api.change(async move |mut turn| turn.session.run_jobs(&order).await).await
}
