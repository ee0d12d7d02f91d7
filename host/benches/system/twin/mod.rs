//! Native twins of `POST /api/tasks` and `GET /open`: axum, the same checks, the same statements, the same answer, no WASM.
//!
//! - `sqlx`: what a Rust service is usually built from. sqlx cannot pipeline, so each statement is a round trip of its own (7)
//! - `unit`: on the host's own unit of work, with the host's round trips (2). What is left between it and the host is WASM

mod by_sqlx;
mod by_unit;
pub(crate) mod statements;
mod task;

use anyhow::{Context, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use std::sync::Arc;
use task::Task;
use tidemill::config::Secret;
use tidemill::store::Envelope;
use tidemill::triggers::http::Verifier;

/// Variables of the twin's environment.
pub(crate) const DATABASE_URL: &str = "BENCH_DATABASE_URL";
/// The key of the tokens.
pub(crate) const KEY: &str = "BENCH_KEY";
/// What `GET /open` answers.
pub(crate) const OPEN: &str = "BENCH_OPEN";

/// How a twin stores a task and its event.
enum Store {
    Sqlx(by_sqlx::Store),
    Unit(by_unit::Store),
}

impl Store {
    async fn keep(&self, task: &Task, event: Envelope) -> anyhow::Result<()> {
        match self {
            Self::Sqlx(store) => store.keep(task, &event).await,
            Self::Unit(store) => store.keep(task, event).await,
        }
    }
}

struct Twin {
    store: Store,
    verifier: Verifier,
    open: Bytes,
}

/// Serves until the process is ended.
pub(crate) async fn serve(kind: &str) -> anyhow::Result<()> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("{name} is not set"));
    let url = variable(DATABASE_URL)?;
    let store = match kind {
        "sqlx" => Store::Sqlx(by_sqlx::Store::open(&url)?),
        "unit" => Store::Unit(by_unit::Store::open(&url)?),
        other => bail!("there is no twin `{other}`"),
    };
    let verifier = Verifier::hs256(&Secret::new(variable(KEY)?));
    let twin = Twin { store, verifier, open: variable(OPEN)?.into() };
    let router = Router::new().route("/api/tasks", post(create)).route("/open", get(open)).with_state(Arc::new(twin));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("ready http=http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, router).await?)
}

async fn open(State(twin): State<Arc<Twin>>) -> Response {
    let id = uuid::Uuid::now_v7().to_string();
    let head = [("content-type", "application/json"), ("x-request-id", &id), ("x-correlation-id", &id)];
    (head, twin.open.clone()).into_response()
}

async fn create(State(twin): State<Arc<Twin>>, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let user = match twin.verifier.verify(authorization) {
        Ok(user) => user,
        Err(error) => return (StatusCode::UNAUTHORIZED, error.to_string()).into_response(),
    };
    let task = match Task::read(&body, user) {
        Ok(task) => task,
        Err(error) => return (StatusCode::UNPROCESSABLE_ENTITY, error.to_string()).into_response(),
    };
    let id = uuid::Uuid::now_v7().to_string();
    let kept = async { twin.store.keep(&task, task.event(&id)?).await };
    match kept.await.and_then(|()| Ok(serde_json::to_vec(&task)?)) {
        Ok(json) => {
            let location = format!("/api/tasks/{}", task.id);
            let head =
                [("content-type", "application/json"), ("location", &location), ("x-request-id", &id), ("x-correlation-id", &id)];
            (StatusCode::CREATED, head, json).into_response()
        }
        Err(error) => {
            eprintln!("{error:#}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
