//! One test's host: handlers as `serve` runs them, on a database of their own.

use super::super::{plan::Plan, token};
use super::scratch::{Database, Scratch};
use crate::config::{KafkaAccess, Secret};
use crate::engine::{Engine, HandlerSource, Registry, Slot};
use crate::store::operate::{Actor, JobFilter, JobId, Operator, Order, Via};
use crate::store::{AppPlan, HandlerRole, InboxDays, Inspector, Pool, PoolOptions, Record};
use crate::telemetry::{Board, Metrics};
use crate::triggers::http::{HttpTrigger, Verifier};
use crate::triggers::kafka::{Delivered, Delivery, KafkaTrigger};
use anyhow::Context;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tidemill_test::{Outcome, wire};

/// The installation's name, for the handlers' roles.
const INSTALLATION: &str = "tidemill";

/// Handlers that run.
pub(super) struct World {
    database: Database,
    inspector: Inspector,
    http: Arc<HttpTrigger>,
    delivery: Delivery,
    pool: Pool,
    key: Secret,
}

impl World {
    /// Loads the handlers of these folders, prepares a database and activates them. `number` is no other world's.
    pub(super) async fn open(scratch: &Scratch, folders: &[PathBuf], number: u64) -> anyhow::Result<Self> {
        let plan = Plan::load_all(folders, INSTALLATION)?;
        let mut apps = plan.apps()?;
        for app in &mut apps {
            add_absent_roles(app)?;
        }
        let database = scratch.database(format!("test_{number}"), &apps).await?;
        let pool = Pool::new(&database.url, PoolOptions { connections: 4, ..PoolOptions::default() })?;
        let (metrics, registry) = (Arc::new(Metrics::default()), Arc::new(Registry::default()));
        let engine = Arc::new(Engine::new(pool.clone(), scratch.cache.clone(), metrics.clone(), Duration::from_secs(5))?);
        let compiling = scratch.compiling.lock().await;
        activate(&engine, &registry, &plan).await?;
        drop(compiling);
        let schemas: Vec<&str> = apps.iter().map(|app| app.app.as_str()).collect();
        let key = Secret::new(format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple()));
        let http = HttpTrigger::new(engine.clone(), registry.clone(), Verifier::hs256(&key), 64, metrics.clone());
        let delivery = Delivery::new(KafkaTrigger {
            engine,
            registry,
            kafka: Arc::new(KafkaAccess::plaintext("nowhere")),
            board: Arc::new(Board::default()),
            metrics,
            days: InboxDays::new(pool.clone()),
        });
        let inspector = Inspector::connect(&database.superuser_url, &schemas).await?;
        Ok(Self { database, inspector, http: Arc::new(http), delivery, pool, key })
    }

    pub(super) fn database(&self) -> &str {
        &self.database.name
    }

    pub(super) async fn obey(&self, order: wire::Order) -> anyhow::Result<Value> {
        match order {
            wire::Order::Request { method, path, user, headers, body } => {
                let response = self.request(&method, &path, user.as_deref(), headers, &body).await?;
                Ok(serde_json::to_value(response)?)
            }
            wire::Order::Deliver { handler, topic, records } => {
                let records = records.into_iter().map(record).collect::<anyhow::Result<_>>()?;
                let outcomes = self.delivery.deliver(handler.as_deref(), &topic, records).await.map_err(anyhow::Error::msg)?;
                Ok(serde_json::to_value(outcomes.into_iter().map(outcome).collect::<Vec<_>>())?)
            }
            wire::Order::Rows { sql } => self.inspector.rows(&sql).await.map(Value::Array).map_err(anyhow::Error::msg),
            wire::Order::Execute { sql } => self.inspector.execute(&sql).await.map(|()| Value::Null).map_err(anyhow::Error::msg),
            wire::Order::Published => self.inspector.take_published().await.map(Value::Array).map_err(anyhow::Error::msg),
            wire::Order::Jobs => self.inspector.jobs().await.map(Value::Array).map_err(anyhow::Error::msg),
            wire::Order::Fire { job } => self.fire(&job).await,
            wire::Order::Open { .. } | wire::Order::Close => anyhow::bail!("not for a single host"),
        }
    }

    /// Lets a job fire now, whatever its time.
    async fn fire(&self, job: &str) -> anyhow::Result<Value> {
        let apps = self.inspector.apps_of_job(job).await.map_err(anyhow::Error::msg)?;
        match &apps[..] {
            [] => anyhow::bail!("no job `{job}` waits"),
            [app] => {
                let filter = JobFilter { ids: vec![JobId { app: app.clone(), name: job.to_owned() }], ..JobFilter::default() };
                let order = Order { actor: Actor::new("test-host", Via::Host)?, filter, dry_run: false };
                let report = Operator::new(self.pool.clone()).open().await?.run_jobs(&order).await?;
                anyhow::ensure!(report.changed == 1, "no job `{job}` waits any more");
                Ok(Value::Null)
            }
            _ => anyhow::bail!("a job `{job}` waits in each of the apps {}: start a host for one of them", apps.join(", ")),
        }
    }

    async fn request(
        &self,
        method: &str,
        path: &str,
        user: Option<&str>,
        headers: Vec<(String, String)>,
        body: &str,
    ) -> anyhow::Result<wire::Response> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(user) = user {
            let token = token::token(&self.key, user, Duration::from_secs(3600))?;
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let body = wire::unhex(body).map_err(anyhow::Error::msg)?;
        let request = request.body(Body::from(body)).with_context(|| format!("{method} {path} is no request"))?;
        let (parts, body) = self.http.respond(request).await.into_parts();
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect();
        let body = to_bytes(body, usize::MAX).await?;
        Ok(wire::Response { status: parts.status.as_u16(), headers, body: wire::hex(&body) })
    }
}

/// Compiles all handlers and makes them the active ones; every one that cannot be used is named.
async fn activate(engine: &Arc<Engine>, registry: &Registry, plan: &Plan) -> anyhow::Result<()> {
    let compiling = plan.bundles(u64::MAX)?.into_iter().map(|bundle| {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || {
            engine.prepare(HandlerSource {
                role: crate::manifest::role(INSTALLATION, &bundle.manifest.name).map_err(anyhow::Error::msg)?,
                manifest: bundle.manifest,
                revision: bundle.revision,
                digest: bundle.digest,
                component: Some(bundle.component),
            })
        })
    });
    let (mut slots, mut refused) = (Vec::new(), Vec::new());
    for handler in compiling.collect::<Vec<_>>() {
        match handler.await? {
            Ok(handler) => slots.push(Slot { handler: Arc::new(handler), paused: None }),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    anyhow::ensure!(refused.is_empty(), "{}", refused.join("\n"));
    registry.activate(slots)
}

/// Roles of handlers that are not here but in the migrations of the app: a handler can be tested without the others.
fn add_absent_roles(app: &mut AppPlan) -> anyhow::Result<()> {
    let named = app.migrations.iter().flat_map(|migration| migration.text.split("{{role:").skip(1));
    let named: BTreeSet<String> = named.filter_map(|rest| Some(rest.split_once("}}")?.0.to_owned())).collect();
    for handler in named {
        if !app.handlers.iter().any(|known| known.handler == handler) {
            let role = crate::manifest::role(INSTALLATION, &handler).map_err(anyhow::Error::msg)?;
            app.handlers.push(HandlerRole { handler, role });
        }
    }
    Ok(())
}

fn record(record: wire::Record) -> anyhow::Result<Record> {
    let headers = record.headers.into_iter().map(|(name, value)| (name.into(), Some(value.into_bytes().into()))).collect();
    let value = wire::unhex(&record.value).map_err(anyhow::Error::msg)?;
    Ok(Record { key: record.key.map(|key| key.into_bytes().into()), value: Some(value.into()), headers, ..Record::default() })
}

fn outcome(delivered: Delivered) -> Outcome {
    match delivered {
        Delivered::Handled => Outcome::Handled,
        Delivered::Duplicate => Outcome::Duplicate,
        Delivered::Skipped => Outcome::Skipped,
        Delivered::Waiting => Outcome::Waiting,
        Delivered::Failed { reason, again: true } => Outcome::Retry { reason },
        Delivered::Failed { reason, again: false } => Outcome::Rejected { reason },
    }
}
