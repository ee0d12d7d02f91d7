//! A handler that does what a test asks for, above all what no handler should do.
//!
//! `POST /probe/{steps}` runs the steps named in the path, `insert-then-trap` for example, each with the same JSON body; the
//! answer of the last one is the response. Events write one row each into `seen`, unless their type asks for something else.

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wit_bindgen::generate!({
        inline: r#"
            package tidemill:probe@0.1.0;

            world probe {
                include tidemill:handler/http-handler@0.1.0;
                include tidemill:handler/event-handler@0.1.0;
            }
        "#,
        path: [
            "../../../../wit/sql",
            "../../../../wit/publish",
            "../../../../wit/jobs",
            "../../../../wit/log",
            "../../../../wit/http",
            "../../../../wit/events",
            "../../../../wit/handler",
        ],
        world: "tidemill:probe/probe",
        generate_all,
    });
}
mod actions;
mod consumer;
mod jobs;
mod values;

use bindings::exports::tidemill::events::events::{self, Batch, Failure};
use bindings::exports::tidemill::http::http::{self, Request, Response};

struct Probe;

impl http::Guest for Probe {
    fn handle(request: Request) -> Response {
        actions::answer(&request)
    }
}

impl events::Guest for Probe {
    fn handle(batch: Batch) -> Result<(), Failure> {
        consumer::handle(&batch)
    }
}

bindings::export!(Probe with_types_in bindings);
