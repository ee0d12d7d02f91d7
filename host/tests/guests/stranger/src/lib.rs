//! A handler that imports `example:unknown/thing`: the host must refuse it and name that interface.

mod bindings {
    #![allow(missing_docs, unreachable_pub, reason = "generated")]
    wit_bindgen::generate!({
        inline: r#"
            package example:unknown@1.0.0;

            interface thing {
                ask: func() -> string;
            }

            world stranger {
                import thing;
                export tidemill:http/http@0.1.0;
            }
        "#,
        path: ["../../../../wit/http"],
        world: "example:unknown/stranger",
        generate_all,
    });
}

use bindings::exports::tidemill::http::http::{Guest, Request, Response};

struct Stranger;

impl Guest for Stranger {
    fn handle(_request: Request) -> Response {
        Response { status: 200, headers: Vec::new(), body: bindings::example::unknown::thing::ask().into_bytes() }
    }
}

bindings::export!(Stranger with_types_in bindings);
