//! The public port: match the route, verify the token, take a permit, run the handler, send what it answered; of a request that was sent
//! again with its `Idempotency-Key`, what it answered before.
//!
//! Every error is a problem of RFC 9457, every answer carries the request and correlation ids.

pub mod auth;
mod ids;
mod key;
mod upkeep;

pub use crate::problem::Problem;
pub use auth::Verifier;
pub use upkeep::forget;

use crate::bindings::http::Request as GuestRequest;
use crate::engine::{Answer, Call, Engine, Failure, Match, Origin, Pause, Registry, RouteError};
use crate::manifest::Auth;
use crate::telemetry::{HttpLabels, Metrics};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ids::Ids;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;

/// The public port's side of the host.
pub struct HttpTrigger {
    engine: Arc<Engine>,
    registry: Arc<Registry>,
    verifier: Verifier,
    permits: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

impl HttpTrigger {
    /// Requests for the registry's handlers, at most `concurrency` at once.
    pub fn new(
        engine: Arc<Engine>,
        registry: Arc<Registry>,
        verifier: Verifier,
        concurrency: usize,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { engine, registry, verifier, permits: Arc::new(Semaphore::new(concurrency)), metrics }
    }

    /// Answers one request as the public port does.
    pub async fn respond(self: &Arc<Self>, request: Request) -> Response {
        answer(State(self.clone()), request).await
    }

    /// The axum router of the public port.
    pub fn router(self) -> Router {
        Router::new().fallback(answer).with_state(Arc::new(self))
    }
}

async fn answer(State(trigger): State<Arc<HttpTrigger>>, request: Request) -> Response {
    let started = Instant::now();
    let ids = Ids::from_headers(request.headers());
    let (handler, mut response) = match trigger.handle(request, &ids).await {
        Ok((handler, response)) => (handler, response),
        Err((handler, problem)) => (handler, problem.with_instance(&ids.request).into_response()),
    };
    ids.echo(response.headers_mut());
    trigger.metrics.http_requests.get_or_create(&HttpLabels { handler, status: response.status().as_u16() }).inc();
    trigger.metrics.http_seconds.observe(started.elapsed().as_secs_f64());
    response
}

/// The handler's name (empty where none was reached) beside what is answered.
type Answered = Result<(String, Response), (String, Problem)>;

impl HttpTrigger {
    async fn handle(&self, request: Request, ids: &Ids) -> Answered {
        let (parts, body) = request.into_parts();
        // Before the look-up: a body that arrives while others go on without this replica is not for the revision of before.
        let term = self.engine.term().map_err(|failure| (String::new(), out_of_time(failure.to_string())))?;
        let found =
            self.registry.route(parts.method.as_str(), parts.uri.path()).map_err(|error| (String::new(), no_route(error)))?;
        let name = found.handler.name.to_string();
        let blame = |problem| (name.clone(), problem);
        if let Some(pause) = &found.paused {
            return Err(blame(paused(&name, pause, &ids.request)));
        }
        let subject = self.subject(&found, &parts.headers).map_err(blame)?;
        let key = key::given(&parts.method, &parts.headers).map_err(blame)?;
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| blame(overloaded()))?;
        let limit = usize::try_from(found.handler.manifest.limits.body).unwrap_or(usize::MAX);
        // Whoever sends too slowly must not hold a permit for ever.
        let arrived = tokio::time::timeout(found.handler.manifest.limits.wall, read_body(body, limit)).await;
        let body = arrived.unwrap_or_else(|_| Err(too_slow())).map_err(blame)?;
        let key = key.map(|key| key::of_request(key, &parts, &found.route, subject.as_deref(), &body));
        let guest = GuestRequest {
            method: parts.method.to_string(),
            path: parts.uri.path().to_owned(),
            query: parts.uri.query().map(str::to_owned),
            route: found.route.to_string(),
            params: found.params,
            headers: headers(&parts.headers),
            body,
            subject: subject.clone(),
            request_id: ids.request.clone(),
            correlation_id: ids.correlation.clone(),
        };
        let origin = Origin {
            subject: subject.unwrap_or_default(),
            correlation_id: ids.correlation.clone(),
            cause: ids.cause(),
            key,
            rehearse: false,
        };
        // In a task of its own: a caller that goes away must not cut a commit in two.
        let (engine, handler) = (self.engine.clone(), found.handler.clone());
        let invoked = tokio::spawn(async move {
            let answer = engine.invoke(&handler, term, origin, Call::Http(Box::new(guest))).await;
            drop(permit);
            answer
        });
        match invoked.await {
            Ok(Ok(Answer::Http(response))) => to_response(response).map(|response| (name.clone(), response)).map_err(blame),
            Ok(Ok(Answer::Replayed(response))) => {
                to_response(response).map(|response| (name.clone(), replayed(response))).map_err(blame)
            }
            Ok(Ok(Answer::Events { .. })) | Err(_) => Err(blame(Problem::internal())),
            // What callers do, not what a handler did.
            Ok(Err(failure @ (Failure::Outstanding | Failure::KeyReused))) => Err(blame(problem_of(&failure))),
            Ok(Err(failure)) => {
                tracing::warn!(handler = name, revision = %found.handler.revision, kind = failure.kind(), request_id = ids.request,
                    correlation_id = ids.correlation, "{} {} failed: {failure}", parts.method, found.route);
                Err(blame(problem_of(&failure)))
            }
        }
    }

    fn subject(&self, found: &Match, headers: &HeaderMap) -> Result<Option<String>, Problem> {
        match found.auth {
            Auth::None => Ok(None),
            Auth::Jwt => {
                let authorization = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
                self.verifier.verify(authorization).map(Some).map_err(|error| {
                    Problem::new(StatusCode::UNAUTHORIZED, "invalid-token", "The token is missing or not valid")
                        .detail(error.to_string())
                        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
                })
            }
        }
    }
}

fn no_route(error: RouteError) -> Problem {
    match error {
        RouteError::NotFound => Problem::new(StatusCode::NOT_FOUND, "not-found", "No such resource"),
        RouteError::MethodNotAllowed { allow } => {
            let problem =
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "This resource does not have that method")
                    .detail(format!("it has {allow}"));
            match HeaderValue::from_str(&allow) {
                Ok(allow) => problem.header(header::ALLOW, allow),
                Err(_) => problem,
            }
        }
    }
}

/// The same as when the database can't be reached, for that is why a heartbeat is late.
fn out_of_time(reason: String) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "database-unavailable", "The database cannot be reached; nothing was kept")
        .detail(reason)
        .retry_after(1)
}

/// Who asks is not known yet, so names are for the log alone.
fn paused(handler: &str, pause: &Pause, request_id: &str) -> Problem {
    tracing::debug!(handler, by = pause.by, since = pause.since, request_id, "a request of a paused handler");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "handler-paused", "This resource rests for a while")
        .detail("this resource is paused; try again later")
        .retry_after(10)
}

fn overloaded() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Too many requests at once").retry_after(1)
}

fn too_slow() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "body-too-slow", "The body did not arrive in time")
}

async fn read_body(body: Body, limit: usize) -> Result<Vec<u8>, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", "The body is too large")
                .detail(format!("the limit is {limit} bytes")))
        }
        Err(error) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, "body-incomplete", "The body did not arrive whole")
                .detail(error.to_string()))
        }
    }
}

/// What the guest sees of the headers: no credentials.
fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let readable = headers.iter().filter(|(name, _)| **name != header::AUTHORIZATION);
    readable
        .filter_map(|(name, value)| Some((name.as_str().to_owned(), std::str::from_utf8(value.as_bytes()).ok()?.to_owned())))
        .collect()
}

/// Headers about the connection are the host's, and so is the word that an answer is one of before.
const HOSTS_OWN: [HeaderName; 6] =
    [header::CONTENT_LENGTH, header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TRAILER, key::REPLAYED];

fn to_response(answer: crate::bindings::http::Response) -> Result<Response, Problem> {
    let status = StatusCode::from_u16(answer.status).map_err(|_| Problem::internal())?;
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    for (name, value) in answer.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name.as_str()), HeaderValue::try_from(value.as_str())) else {
            tracing::warn!(name, "a handler's response header is not valid and was left out");
            continue;
        };
        if !HOSTS_OWN.contains(&name) {
            response.headers_mut().append(name, value);
        }
    }
    Ok(response)
}

fn replayed(mut response: Response) -> Response {
    response.headers_mut().insert(key::REPLAYED, HeaderValue::from_static("true"));
    response
}

/// What a caller may know of a failure. The rest is in the log, under the same request id.
fn problem_of(failure: &Failure) -> Problem {
    let failed = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "handler-failed", "The handler failed; nothing was kept");
    match failure {
        Failure::Trap(_)
        | Failure::Doomed(_)
        | Failure::Response(_)
        | Failure::Returned { .. }
        | Failure::Alone { .. }
        | Failure::Overflow { .. } => failed(),
        Failure::Outstanding => key::outstanding(),
        Failure::KeyReused => key::reused(),
        Failure::Unkeepable { .. } => key::unkeepable(failure.to_string()),
        // Which one is in the log: its text may hold a statement.
        Failure::Limit(_) | Failure::Cpu(_) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "limit-exceeded", "The handler exceeded a limit; nothing was kept")
        }
        Failure::Timeout(_) => {
            Problem::new(StatusCode::GATEWAY_TIMEOUT, "handler-timeout", "The handler took too long; nothing was kept")
                .detail(failure.to_string())
        }
        Failure::Refused(_) => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "commit-failed", "The database refused the change; nothing was kept")
        }
        Failure::Unavailable(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "database-unavailable",
            "The database cannot be reached; nothing was kept",
        )
        .retry_after(1),
        Failure::Unknown(_) => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "outcome-unknown",
            "The connection to the database broke at the commit; the change may or may not have been made",
        )
        .detail(
            "repeat the request with the same Idempotency-Key to learn its outcome; if it had none, look before you repeat it",
        ),
    }
}
