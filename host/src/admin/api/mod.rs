//! The API of operators under `/v1`: the same as `tidemill waiting`, `dlq`, `outbox`, `jobs` and `actions`, and as the commands about deploys, over HTTP.
//!
//! - `auth`: the bearer token, and who acts
//! - `form`: which rows, out of a query or a JSON body
//! - `jobs`: the calls about jobs, whose rows have names
//! - `deploys`: what is deployed, and changing it
//!
//! A change is a `POST` with a JSON body and says in the body that it is no dry run. Every error is a problem of RFC 9457.

mod auth;
mod deploys;
mod form;
mod jobs;

use crate::config::Secret;
use crate::fleet::Deployer;
use crate::problem::Problem;
use crate::store::Pool;
use crate::store::operate::{
    Action, ActionFilter, DeadLetter, DeadLetterNow, Detail, OperateError, Operator, OutboxDiscard, OutboxEntry, Page, Report,
    Session, WaitingEvent,
};
use auth::Token;
use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware;
use axum::routing::{get, post};
use form::{ActionForm, Change, Form};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls at once: each has a database connection of its own.
const CALLS: usize = 4;
/// How long a call waits for the others.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the calls share.
#[derive(Clone)]
struct Api {
    operator: Operator,
    calls: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    token: Arc<Option<Token>>,
    pool: Pool,
    deployer: Deployer,
    revision_size: u64,
}

type Answer<T> = Result<Json<T>, Problem>;
type Body = Result<Json<Form>, JsonRejection>;

/// The routes below `/v1`. Also what is no route is answered only with the token.
pub(super) fn router(pool: &Pool, token: Option<&Secret>, deployer: Deployer, revision_size: u64) -> Router {
    let api = Api {
        pool: pool.clone(),
        deployer,
        revision_size,
        operator: Operator::new(pool.clone()),
        calls: Arc::new(Semaphore::new(CALLS)),
        uploads: Arc::new(Semaphore::new(1)),
        token: Arc::new(token.map(Token::new)),
    };
    Router::new()
        .route("/waiting", get(waiting))
        .route("/waiting/{id}", get(waiting_event))
        .route("/waiting/retry", post(retry_waiting))
        .route("/waiting/dead-letter", post(dead_letter_waiting))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{id}", get(dead_letter))
        .route("/dead-letters/replay", post(replay_dead_letters))
        .route("/dead-letters/discard", post(discard_dead_letters))
        .route("/outbox", get(outbox))
        .route("/outbox/{id}", get(outbox_entry))
        .route("/outbox/retry", post(retry_outbox))
        .route("/outbox/discard", post(discard_outbox))
        .route("/jobs", get(jobs::list))
        .route("/jobs/cancel", post(jobs::cancel))
        .route("/jobs/run-now", post(jobs::run_now))
        .route("/jobs/{app}/{*name}", get(jobs::show))
        .route("/actions", get(actions))
        .merge(deploys::routes(revision_size))
        .fallback(async || no_route())
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This path has other methods")
        })
        .layer(middleware::from_fn_with_state(api.token.clone(), auth::check))
        .with_state(api)
}

fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-route", "The admin API has no such path")
        .detail("see docs/operations.md for its paths")
}

async fn waiting(State(api): State<Api>, RawQuery(query): RawQuery) -> Answer<Page<WaitingEvent>> {
    let filter = form::query::<Form>(query)?.filter()?;
    answer(api.open().await?.session.waiting(&filter).await)
}

async fn waiting_event(State(api): State<Api>, Path(id): Path<String>) -> Answer<Detail<WaitingEvent>> {
    answer(api.open().await?.session.waiting_event(number(&id)?).await)
}

async fn retry_waiting(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<WaitingEvent>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&[])?;
    api.change(async move |mut turn| turn.session.retry_waiting(&change.order).await).await
}

async fn dead_letter_waiting(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<WaitingEvent>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&["reason"])?;
    let how = DeadLetterNow { reason: change.reason };
    api.change(async move |mut turn| turn.session.dead_letter_waiting(&change.order, &how).await).await
}

async fn dead_letters(State(api): State<Api>, RawQuery(query): RawQuery) -> Answer<Page<DeadLetter>> {
    let filter = form::query::<Form>(query)?.filter()?;
    answer(api.open().await?.session.dead_letters(&filter).await)
}

async fn dead_letter(State(api): State<Api>, Path(id): Path<String>) -> Answer<Detail<DeadLetter>> {
    answer(api.open().await?.session.dead_letter(number(&id)?).await)
}

async fn replay_dead_letters(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<DeadLetter>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&[])?;
    api.change(async move |mut turn| turn.session.replay_dead_letters(&change.order).await).await
}

async fn discard_dead_letters(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<DeadLetter>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&[])?;
    api.change(async move |mut turn| turn.session.discard_dead_letters(&change.order).await).await
}

async fn outbox(State(api): State<Api>, RawQuery(query): RawQuery) -> Answer<Page<OutboxEntry>> {
    let filter = form::query::<Form>(query)?.filter()?;
    answer(api.open().await?.session.outbox(&filter).await)
}

async fn outbox_entry(State(api): State<Api>, Path(id): Path<String>) -> Answer<Detail<OutboxEntry>> {
    answer(api.open().await?.session.outbox_entry(number(&id)?).await)
}

async fn retry_outbox(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<OutboxEntry>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&[])?;
    api.change(async move |mut turn| turn.session.retry_outbox(&change.order).await).await
}

async fn discard_outbox(State(api): State<Api>, headers: HeaderMap, body: Body) -> Answer<Report<OutboxEntry>> {
    let change = Change::read(&headers, body)?;
    change.refuse_others(&["not_stuck"])?;
    let how = OutboxDiscard { not_stuck: change.not_stuck };
    api.change(async move |mut turn| turn.session.discard_outbox(&change.order, how).await).await
}

async fn actions(State(api): State<Api>, RawQuery(query): RawQuery) -> Answer<Page<Action>> {
    let filter: ActionFilter = form::query::<ActionForm>(query)?.into();
    answer(api.open().await?.session.actions(&filter).await)
}

/// A session and its place among the calls.
struct Turn {
    session: Session,
    _permit: OwnedSemaphorePermit,
}

impl Api {
    async fn open(&self) -> Result<Turn, Problem> {
        let permit = match tokio::time::timeout(PATIENCE, self.calls.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => {
                let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many calls of the admin API at once");
                return Err(busy.retry_after(1));
            }
        };
        Ok(Turn { session: self.operator.open().await.map_err(problem)?, _permit: permit })
    }

    /// In a task of its own: a caller that goes away must not cut a change in two.
    async fn change<T, F, C>(&self, change: C) -> Answer<T>
    where
        T: Send + 'static,
        C: FnOnce(Turn) -> F,
        F: Future<Output = Result<T, OperateError>> + Send + 'static,
    {
        let turn = self.open().await?;
        match tokio::spawn(change(turn)).await {
            Ok(done) => answer(done),
            Err(_) => Err(Problem::internal()),
        }
    }
}

fn answer<T>(done: Result<T, OperateError>) -> Answer<T> {
    done.map(Json).map_err(problem)
}

fn number(id: &str) -> Result<i64, Problem> {
    id.parse().map_err(|_| no_route())
}

fn problem(error: OperateError) -> Problem {
    let text = error.to_string();
    match error {
        OperateError::Invalid(_) => {
            Problem::new(StatusCode::BAD_REQUEST, "invalid-request", "The request makes no sense").detail(text)
        }
        OperateError::Missing(_) => Problem::new(StatusCode::NOT_FOUND, "no-such-row", "There is no such row").detail(text),
        OperateError::Unavailable(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The database did not do it").detail(text).retry_after(1)
        }
    }
}
