//! The steps of `POST /probe/{steps}`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::bindings::exports::tidemill::http::http::{Request, Response};
use crate::bindings::tidemill::{log::log, publish::publish, sql::sql};
use crate::{jobs, values};

/// How often this instance was asked to count: more than once means that an instance outlived its invocation.
static COUNTED: AtomicU64 = AtomicU64::new(0);

/// What the tests replace in the component to make another revision of it.
pub(crate) const COUNT: &str = "SELECT count(*) FROM rows";

/// Counts in this instance.
pub(crate) fn counted() -> u64 {
    COUNTED.fetch_add(1, Ordering::SeqCst) + 1
}

/// Runs the steps of the request in order and stops at the first whose status is 400 or above.
pub(crate) fn answer(request: &Request) -> Response {
    let body: Json = serde_json::from_slice(&request.body).unwrap_or(Json::Null);
    let steps = request.params.iter().find(|(name, _)| name == "action").map_or("ok", |(_, steps)| steps);
    let mut response = respond(200, &json!({}));
    for step in steps.split("-then-") {
        response = run(step, &body, request);
        if response.status >= 400 {
            break;
        }
    }
    response
}

fn run(step: &str, body: &Json, request: &Request) -> Response {
    if let Some(ignored) = step.strip_prefix("ignore-") {
        run(ignored, body, request);
        return respond(200, &json!({ "ignored": ignored }));
    }
    match step {
        "ok" => respond(200, &seen_request(request)),
        "insert" => insert(body),
        "status" => status(body),
        "swallow" => swallow(),
        "query" => query(COUNT, &[]),
        "sql" => sql_from(body),
        "sql2" => query(body["sql2"].as_str().unwrap_or_default(), &[]),
        "trap" => panic!("trapped as asked"),
        "spin" => spin(),
        "sleep" => sleep(body),
        "alloc" => alloc(body),
        "publish" => publish_from(body),
        "schedule" => jobs::schedule(body),
        "cancel" => jobs::cancel(body),
        "job" => jobs::get(body),
        "deferred" => query("INSERT INTO pairs (id, partner) VALUES ($1, 'nobody')", &[body["id"].clone()]),
        "print" => print(body),
        "log" => write_log(body),
        "count" => respond(200, &json!({ "counted": counted() })),
        unknown => respond(404, &json!({ "unknown-step": unknown })),
    }
}

pub(crate) fn respond(status: u16, body: &Json) -> Response {
    Response { status, headers: vec![("content-type".into(), "application/json".into())], body: body.to_string().into_bytes() }
}

/// The status that was asked for, with headers and as many bytes if those were asked for as well.
fn status(body: &Json) -> Response {
    let status = body["status"].as_u64().and_then(|status| status.try_into().ok()).unwrap_or(400);
    let mut response = respond(status, &json!({ "asked": true }));
    for (name, value) in body["headers"].as_object().into_iter().flatten() {
        response.headers.push((name.clone(), value.as_str().unwrap_or_default().to_owned()));
    }
    if let Some(bytes) = body["bytes"].as_u64() {
        response.body = (0..bytes).map(|n| (n % 256) as u8).collect();
    }
    response
}

/// What the host said about the request, and what the sandbox lets the guest see of the world.
fn seen_request(request: &Request) -> Json {
    json!({
        "method": request.method,
        "path": request.path,
        "query": request.query,
        "route": request.route,
        "subject": request.subject,
        "request_id": request.request_id,
        "correlation_id": request.correlation_id,
        "headers": request.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "environment": std::env::vars().count(),
    })
}

fn insert(body: &Json) -> Response {
    query("INSERT INTO rows (id, note) VALUES ($1, $2)", &[body["id"].clone(), json!(body["note"].as_str().unwrap_or_default())])
}

/// Fails a statement and goes on as if nothing were.
fn swallow() -> Response {
    match sql::execute("INSERT INTO rows (id) VALUES (NULL)", &[]) {
        Ok(_) => respond(500, &json!({ "error": "a row without an id was accepted" })),
        Err(_) => respond(200, &json!({ "swallowed": true })),
    }
}

fn sql_from(body: &Json) -> Response {
    let params = body["params"].as_array().cloned().unwrap_or_default();
    query(body["sql"].as_str().unwrap_or_default(), &params)
}

fn query(statement: &str, params: &[Json]) -> Response {
    let params: Vec<sql::Value> = params.iter().map(values::from_json).collect();
    match sql::query(statement, &params) {
        Ok(rows) => respond(200, &values::rows_to_json(&rows)),
        Err(error) => respond(409, &values::error_to_json(&error)),
    }
}

fn spin() -> ! {
    let mut turns = 0u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn sleep(body: &Json) -> Response {
    std::thread::sleep(Duration::from_millis(body["ms"].as_u64().unwrap_or(300)));
    respond(200, &json!({ "slept": true }))
}

/// Takes memory, page after page, up to `mib` or without an end.
fn alloc(body: &Json) -> Response {
    let most = body["mib"].as_u64().unwrap_or(u64::MAX);
    let mut kept = Vec::new();
    while (kept.len() as u64) < most {
        kept.push(std::hint::black_box(vec![1u8; 1 << 20]));
    }
    respond(200, &json!({ "mib": kept.len() }))
}

fn publish_from(body: &Json) -> Response {
    let mut ids = Vec::new();
    for number in 0..body["count"].as_u64().unwrap_or(1) {
        let data = if body["data"].is_null() { json!({ "n": number }) } else { body["data"].clone() };
        let event = publish::Event {
            topic: body["topic"].as_str().unwrap_or_default().into(),
            key: body["key"].as_str().map(|key| key.as_bytes().to_vec()),
            id: body["event_id"].as_str().map(str::to_owned),
            source: body["source"].as_str().unwrap_or("probe").into(),
            type_: body["type"].as_str().unwrap_or("probe.published").into(),
            time: None,
            subject: None,
            datacontenttype: None,
            dataschema: None,
            extensions: Vec::new(),
            data: Some(data.to_string().into_bytes()),
        };
        match publish::publish(&event, None) {
            Ok(id) => ids.push(id),
            Err(error) => {
                let kind = format!("{:?}", error.kind);
                return respond(409, &json!({ "kind": kind.rsplit("::").next(), "message": error.message }));
            }
        }
    }
    respond(200, &json!({ "ids": ids }))
}

fn print(body: &Json) -> Response {
    for line in 0..body["lines"].as_u64().unwrap_or(1) {
        println!("printed {} {line}", body["text"].as_str().unwrap_or_default());
        eprintln!("complained {} {line}", body["text"].as_str().unwrap_or_default());
    }
    respond(200, &json!({}))
}

fn write_log(body: &Json) -> Response {
    for line in 0..body["lines"].as_u64().unwrap_or(1) {
        let message = format!("logged {} {line}", body["text"].as_str().unwrap_or_default());
        log::log(log::Level::Info, &message, &[("colour".into(), "green".into())]);
    }
    respond(200, &json!({}))
}
