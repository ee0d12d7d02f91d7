//! The task API beyond its main path, as a caller meets it.

mod guards;
mod lists;
mod pages;
mod updates;

use serde_json::Value as Json;

use crate::support::{Answer, World};
use crate::todo::path;

/// Changes a task of `alice`.
async fn patch(world: &World, task: &Json, body: &Json) -> Answer {
    let request = world.request("alice", "PATCH", &path(task, "")).json(body);
    Answer::read(request.header("content-type", "application/merge-patch+json").send().await.unwrap()).await
}

/// The wrong fields of an answer, in its order.
fn wrong(answer: &Answer) -> Vec<&str> {
    answer.body["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}
