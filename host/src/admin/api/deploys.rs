//! What is deployed, and changing it: the same as `tidemill ps`, `revisions`, `diff`, `deploy`, `rollback`, `undeploy`, `pause` and `resume`.
//!
//! A deploy is one JSON document with manifest, component (base64) and migrations of each handler. The host has no right to change schemas, so what
//! brings migrations that are not applied yet is refused, by name.

use super::form::{Asked, invalid, query};
use super::{Answer, Api, auth};
use crate::fleet::{Bundle, DeployError, Diff, Order, Report, check_size};
use crate::manifest::Migration;
use crate::problem::Problem;
use crate::store::fleet::{FleetView, RevisionEntry};
use crate::store::operate::Actor;
use axum::Json;
use axum::Router;
use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, RawQuery, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

/// Handlers in one deploy at most.
const HANDLERS: usize = 50;
/// So many times `revision_size` one deploy may be, with its base64.
const BODY: u64 = 8;
/// How long an upload may take to arrive. One that got stuck must not keep others from deploying.
const ARRIVAL: Duration = Duration::from_secs(300);

/// Handlers to deploy together.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Upload {
    handlers: Vec<HandlerUpload>,
    note: Option<String>,
}

/// One of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HandlerUpload {
    manifest: String,
    component_base64: String,
    /// If given, the component is compared with it.
    component_sha256: Option<String>,
    migrations: Option<Vec<MigrationUpload>>,
}

/// One migration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MigrationUpload {
    number: i32,
    name: String,
    text: String,
}

/// What a change of one handler may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    note: Option<String>,
    revision: Option<String>,
}

/// Two revisions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    from: String,
    to: String,
}

impl Asked for Pair {
    fn field(_: &str, value: &str) -> Option<Value> {
        Some(Value::from(value))
    }
}

/// The routes.
pub(super) fn routes(revision_size: u64) -> Router<Api> {
    let most = usize::try_from(revision_size.saturating_mul(BODY)).unwrap_or(usize::MAX);
    Router::new()
        .route("/fleet", get(fleet))
        .route("/revisions", get(all_revisions))
        .route("/diff", get(diff))
        .route("/deploys", post(deploy).layer(DefaultBodyLimit::max(most)))
        .route("/handlers/{handler}/revisions", get(revisions))
        .route("/handlers/{handler}/rollback", post(rollback))
        .route("/handlers/{handler}/undeploy", post(undeploy))
        .route("/handlers/{handler}/pause", post(pause))
        .route("/handlers/{handler}/resume", post(resume))
}

async fn fleet(State(api): State<Api>) -> Answer<FleetView> {
    answer(FleetView::read(&api.pool).await.map_err(DeployError::from))
}

async fn all_revisions(State(api): State<Api>) -> Answer<Vec<RevisionEntry>> {
    answer(RevisionEntry::list(&api.pool, None, "").await.map_err(DeployError::from))
}

async fn revisions(State(api): State<Api>, Path(handler): Path<String>) -> Answer<Vec<RevisionEntry>> {
    answer(RevisionEntry::list(&api.pool, Some(&handler), "").await.map_err(DeployError::from))
}

async fn diff(State(api): State<Api>, RawQuery(text): RawQuery) -> Answer<Diff> {
    let Pair { from, to } = query(text)?;
    answer(Diff::read(&api.pool, &from, &to).await)
}

/// The right to send a deploy, of which there is one: uploads are large, and only one deploy is made at a time anyway. It is asked for before
/// the body is read.
struct Uploading(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl FromRequestParts<Api> for Uploading {
    type Rejection = Problem;

    async fn from_request_parts(_: &mut Parts, api: &Api) -> Result<Self, Problem> {
        api.uploads.clone().try_acquire_owned().map(Self).map_err(|_| {
            Problem::new(StatusCode::CONFLICT, "busy", "Another deploy is under way")
                .detail("this host takes one deploy at a time; `GET /v1/fleet` shows what it does")
                .retry_after(5)
        })
    }
}

async fn deploy(State(api): State<Api>, uploading: Uploading, headers: HeaderMap, request: Request) -> Answer<Report> {
    let actor = auth::actor(&headers)?;
    let body = tokio::time::timeout(ARRIVAL, Json::<Upload>::from_request(request, &())).await.map_err(|_| {
        Problem::new(StatusCode::REQUEST_TIMEOUT, "upload-too-slow", "The upload did not arrive in time")
            .detail(format!("it takes longer than {ARRIVAL:?}; nothing was deployed: send it again, or deploy from nearer by"))
    })?;
    let Json(Upload { handlers, note }) = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "upload-too-large", "The upload is too large")
                .detail("it is more than `revision_size` allows: make the components smaller, or set TIDEMILL_REVISION_SIZE")
        }
        _ => invalid(error.body_text()),
    })?;
    if handlers.is_empty() {
        return Err(invalid("`handlers` is empty: nothing to deploy"));
    }
    if handlers.len() > HANDLERS {
        return Err(invalid(format!("`handlers` has {} entries; one deploy takes at most {HANDLERS}", handlers.len())));
    }
    let read = handlers.into_iter().enumerate().map(|(number, upload)| bundle(number, upload, api.revision_size));
    let bundles = read.collect::<Result<Vec<_>, _>>()?;
    let order = ordered(actor, note)?;
    // In a task of its own: a caller that goes away must not cut a change in two.
    let done = tokio::spawn(async move {
        let _uploading = uploading;
        api.deployer.deploy(&bundles, &order, None).await
    });
    answer(done.await.map_err(|_| Problem::internal())?)
}

fn bundle(number: usize, upload: HandlerUpload, most: u64) -> Result<Bundle, Problem> {
    let HandlerUpload { manifest, component_base64, component_sha256, migrations } = upload;
    let refused =
        |text: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "refused", "This cannot be deployed").detail(text);
    // Before it is in memory twice. Up to two of the bytes may be padding.
    let least = (component_base64.len() as u64 / 4 * 3).saturating_sub(2);
    check_size(&format!("handlers[{number}]"), least, most).map_err(|error| refused(error.to_string()))?;
    let component = BASE64
        .decode(component_base64)
        .map_err(|error| invalid(format!("`handlers[{number}].component_base64` is no base64, or was cut off: {error}")))?;
    let hex: String = Sha256::digest(&component).iter().map(|byte| format!("{byte:02x}")).collect();
    if component_sha256.is_some_and(|wanted| !wanted.eq_ignore_ascii_case(&hex)) {
        return Err(invalid(format!(
            "`handlers[{number}].component_base64` has another SHA-256 than was given: it may have been cut off"
        )));
    }
    let mut list: Option<Vec<Migration>> =
        migrations.map(|list| list.into_iter().map(|one| Migration::new(one.number, one.name, one.text)).collect());
    if let Some(list) = &mut list {
        list.sort_by_key(|one| one.number);
        if list.iter().any(|one| !(1..=9_999).contains(&one.number)) || list.windows(2).any(|two| two[0].number == two[1].number)
        {
            return Err(invalid(format!("`handlers[{number}].migrations`: numbers go from 1 to 9999, each once")));
        }
    }
    Bundle::new(format!("handlers[{number}]"), manifest, component, list, most).map_err(|error| refused(format!("{error:#}")))
}

type Change = Result<Json<Words>, JsonRejection>;

async fn rollback(State(api): State<Api>, Path(handler): Path<String>, headers: HeaderMap, body: Change) -> Answer<Report> {
    let (order, revision) = words(&headers, body)?;
    let done = tokio::spawn(async move { api.deployer.rollback(&handler, revision.as_deref(), &order).await });
    answer(done.await.map_err(|_| Problem::internal())?)
}

async fn undeploy(State(api): State<Api>, Path(handler): Path<String>, headers: HeaderMap, body: Change) -> Answer<Report> {
    let order = plain(&headers, body)?;
    let done = tokio::spawn(async move { api.deployer.undeploy(&handler, &order).await });
    answer(done.await.map_err(|_| Problem::internal())?)
}

async fn pause(State(api): State<Api>, Path(handler): Path<String>, headers: HeaderMap, body: Change) -> Answer<Report> {
    let order = plain(&headers, body)?;
    let done = tokio::spawn(async move { api.deployer.pause(&handler, &order).await });
    answer(done.await.map_err(|_| Problem::internal())?)
}

async fn resume(State(api): State<Api>, Path(handler): Path<String>, headers: HeaderMap, body: Change) -> Answer<Report> {
    let order = plain(&headers, body)?;
    let done = tokio::spawn(async move { api.deployer.resume(&handler, &order).await });
    answer(done.await.map_err(|_| Problem::internal())?)
}

fn words(headers: &HeaderMap, body: Change) -> Result<(Order, Option<String>), Problem> {
    let actor = auth::actor(headers)?;
    let Json(Words { note, revision }) = body.map_err(|error| invalid(error.body_text()))?;
    Ok((ordered(actor, note)?, revision))
}

fn plain(headers: &HeaderMap, body: Change) -> Result<Order, Problem> {
    match words(headers, body)? {
        (order, None) => Ok(order),
        (_, Some(_)) => Err(invalid("`revision` belongs to a rollback")),
    }
}

fn ordered(actor: Actor, note: Option<String>) -> Result<Order, Problem> {
    answer(Order::new(actor, note)).map(|Json(order)| order)
}

fn answer<T>(done: Result<T, DeployError>) -> Answer<T> {
    done.map(Json).map_err(|error| {
        let (status, slug, title) = match error {
            DeployError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid-request", "The request makes no sense"),
            DeployError::Missing(_) => (StatusCode::NOT_FOUND, "not-deployed", "There is no such handler or revision"),
            DeployError::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "refused", "This cannot be deployed"),
            DeployError::Busy(_) | DeployError::Moved => {
                (StatusCode::CONFLICT, "deploy-under-way", "Another deploy is under way")
            }
            DeployError::GivenUp(_) => (StatusCode::CONFLICT, "given-up", "It was given up"),
            DeployError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "The database did not do it"),
        };
        Problem::new(status, slug, title).detail(error.to_string())
    })
}
