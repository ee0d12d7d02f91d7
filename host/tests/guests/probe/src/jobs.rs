//! The steps about jobs.

use serde_json::{Value as Json, json};

use crate::actions::respond;
use crate::bindings::exports::tidemill::http::http::Response;
use crate::bindings::tidemill::jobs::jobs::{self, Cron, Error, Every, Existing, Job, Missed, Outcome, When};
use crate::bindings::tidemill::publish::publish::Event;

/// Schedules a job for each of `names`, or the one called `name`.
pub(crate) fn schedule(body: &Json) -> Response {
    let names = body["names"].as_array().cloned().unwrap_or_else(|| vec![body["name"].clone()]);
    for name in names {
        if let Err(error) = jobs::schedule(&job(name.as_str().unwrap_or_default(), body), None) {
            return failed(&error);
        }
    }
    respond(200, &json!({}))
}

/// Cancels `names`.
pub(crate) fn cancel(body: &Json) -> Response {
    let names: Vec<String> =
        body["names"].as_array().into_iter().flatten().filter_map(|name| Some(name.as_str()?.into())).collect();
    match jobs::cancel(&names) {
        Ok(outcomes) => {
            respond(200, &json!({ "cancelled": outcomes.iter().map(|o| *o == Outcome::Cancelled).collect::<Vec<_>>() }))
        }
        Err(error) => failed(&error),
    }
}

/// Looks at `name`.
pub(crate) fn get(body: &Json) -> Response {
    match jobs::get(body["name"].as_str().unwrap_or_default()) {
        Ok(Some(job)) => respond(
            200,
            &json!({ "name": job.name, "handler": job.handler, "due": job.due, "repeats": job.repeats, "topic": job.topic,
                     "event_id": job.event_id, "scheduled_at": job.scheduled_at }),
        ),
        Ok(None) => respond(200, &Json::Null),
        Err(error) => failed(&error),
    }
}

/// The job that the body describes: `at`, or `period` (and `first`), or `cron` and `zone`.
pub(crate) fn job(name: &str, body: &Json) -> Job {
    let text = |field: &str| body[field].as_str().map(str::to_owned);
    let when = match (body["period"].as_u64(), text("cron")) {
        (Some(period), _) => When::Every(Every { period, first: body["first"].as_i64() }),
        (None, Some(expression)) => When::Cron(Cron { expression, time_zone: text("zone").unwrap_or_else(|| "UTC".into()) }),
        (None, None) => When::At(body["at"].as_i64().unwrap_or_default()),
    };
    let missed = match body["missed"].as_str() {
        Some("skip") => Missed::Skip,
        Some("all") => Missed::All,
        _ => Missed::Once,
    };
    let data = if body["data"].is_null() { json!({ "job": name }) } else { body["data"].clone() };
    let event = Event {
        topic: text("topic").unwrap_or_default(),
        key: text("key").map(String::into_bytes),
        id: text("event_id"),
        source: "probe".into(),
        type_: text("type").unwrap_or_else(|| "probe.fired".into()),
        time: body["event_time"].as_i64(),
        subject: None,
        datacontenttype: None,
        dataschema: None,
        extensions: Vec::new(),
        data: Some(data.to_string().into_bytes()),
    };
    let existing = if body["keep"] == true { Existing::Keep } else { Existing::Replace };
    Job { name: name.into(), when, missed, event, existing }
}

fn failed(error: &Error) -> Response {
    let kind = format!("{:?}", error.kind);
    respond(409, &json!({ "kind": kind.rsplit("::").next(), "message": error.message }))
}
