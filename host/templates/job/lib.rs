//! Does its work again and again, as often as it is told: a request schedules a job, the job publishes an event at its times, and the event
//! starts the work. Whatever is killed meanwhile, each time is worked once. Every user has a job of their own.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use tidemill_sdk::jobs::{self, Cancelled, Job};
use tidemill_sdk::{Event, EventData, Failure, Problem, Request, Response, params, sql};

/// Names are unique in an app, so everybody's job has its own: nobody else's request moves or cancels it.
fn job(user: &str) -> String {
    format!("@NAME@/{user}")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    every_seconds: u32,
}

/// What the job publishes. The event's `time` is the one that it was scheduled for.
#[derive(Serialize, Deserialize)]
struct Due {
    /// Whose job it is.
    user: String,
}

impl EventData for Due {
    const TYPE: &'static str = "@NAME@.due";
    const TOPIC: &'static str = "@NAME@.due";
    const SOURCE: &'static str = "@NAME@";
}

fn handle(request: Request) -> Result<Response, Problem> {
    let user = request.user()?;
    match request.method() {
        "PUT" => {
            let plan: Plan = request.json()?;
            if plan.every_seconds == 0 {
                return Err(Problem::new(422).detail("every_seconds must be at least 1"));
            }
            // In the place of an earlier one, if there is one. `Job::cron` repeats by the calendar, `Job::at` fires once.
            let due = Due { user: user.to_owned() };
            Job::every(job(user), Duration::from_secs(plan.every_seconds.into()), None, &due)?.schedule()?;
            Ok(Response::empty(204))
        }
        _ => match jobs::cancel(&job(user))? {
            Cancelled::Cancelled => Ok(Response::empty(204)),
            Cancelled::NotPending => Err(Problem::not_found()),
        },
    }
}

const RUN: &str = "INSERT INTO runs (event_id, for_user, due) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

fn work(events: &[Event]) -> Result<(), Failure> {
    for event in events {
        let Due { user } = event.data()?;
        sql::execute(RUN, params![event.id(), &user, event.time()])?;
    }
    Ok(())
}

tidemill_sdk::http_handler!(handle);
tidemill_sdk::event_handler!(work);
