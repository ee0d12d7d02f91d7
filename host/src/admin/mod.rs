//! The admin port: health and metrics, open to whoever reaches it, and the API of operators, which wants its token. It never shares the
//! public port.
//!
//! `/readyz` says whether this replica should get requests, and beside that, whatever waits for a person. A paused partition or a stuck row
//! is no reason to take a replica out of service, so the status stays 200 with them.

mod api;

use crate::config::Secret;
use crate::fleet::Deployer;
use crate::store::Pool;
use crate::store::fleet::Pulse;
use crate::telemetry::{Board, GroupLabels, Metrics};
use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the admin port shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The database that requests need.
    pub pool: Pool,
    /// What is paused, stuck or away.
    pub board: Arc<Board>,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// This replica's heartbeat.
    pub pulse: Arc<Pulse>,
    /// Deploys for the API.
    pub deployer: Deployer,
    /// Bytes of a revision at most.
    pub revision_size: u64,
    /// Set until what the host was started with is deployed and loaded.
    pub starting: Arc<AtomicBool>,
    /// Set when the host stops: readiness fails before anything else does.
    pub stopping: Arc<AtomicBool>,
    /// The token of the API; without one it answers nobody.
    pub token: Option<Secret>,
}

impl Admin {
    /// The axum router of the admin port.
    pub fn router(self) -> Router {
        let api = api::router(&self.pool, self.token.as_ref(), self.deployer.clone(), self.revision_size);
        Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
            .nest("/v1", api)
    }
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let mut reasons = Vec::new();
    if admin.stopping.load(Ordering::Relaxed) {
        reasons.push("the host is stopping".to_owned());
    } else if let Err(error) = admin.pool.check().await {
        reasons.push(error.to_string());
    } else if let Err(reason) = admin.pulse.term() {
        reasons.push(reason);
    } else if admin.starting.load(Ordering::Relaxed) {
        reasons.push("the host is starting: its handlers are being deployed".to_owned());
    }
    let (status, word) = match reasons.is_empty() {
        true => (StatusCode::OK, "ready"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
    };
    let body = json!({
        "status": word,
        "reasons": reasons,
        "paused": admin.board.paused(),
        "stopped": admin.board.breakers(),
        "stuck": admin.board.stuck(),
        "notes": admin.board.notes(),
    });
    (status, Json(body)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    // The board knows them; a group that goes on is not on it any more.
    admin.metrics.group_stopped.clear();
    for stopped in admin.board.breakers() {
        admin.metrics.group_stopped.get_or_create(&GroupLabels { group: stopped.group }).set(1);
    }
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.metrics.encode()).into_response()
}
