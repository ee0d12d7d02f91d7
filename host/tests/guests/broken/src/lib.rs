//! A handler that traps whatever it is asked: compiled, linked and instantiated like any other, it fails with its first call.

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wit_bindgen::generate!({
        inline: r#"
            package tidemill:broken@0.1.0;

            world broken {
                export tidemill:http/http@0.1.0;
                export tidemill:events/events@0.1.0;
            }
        "#,
        path: ["../../../../wit/http", "../../../../wit/events"],
        world: "tidemill:broken/broken",
        generate_all,
    });
}

use bindings::exports::tidemill::events::events::{self, Batch, Failure};
use bindings::exports::tidemill::http::http::{self, Request, Response};

struct Broken;

impl http::Guest for Broken {
    fn handle(_request: Request) -> Response {
        std::process::abort()
    }
}

impl events::Guest for Broken {
    fn handle(_batch: Batch) -> Result<(), Failure> {
        std::process::abort()
    }
}

bindings::export!(Broken with_types_in bindings);
