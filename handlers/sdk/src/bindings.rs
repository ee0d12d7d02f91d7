//! What `wit-bindgen` makes of the packages under `wit/`; everything else in this crate is built on it.
//!
//! The imports are generated once and shared by both worlds, so that a component may be an HTTP handler, an event handler or both.
//! `pub_export_macro` puts a world's exports into the section that only the expansion of its `export_*!` macro emits: what a
//! component does not export, it is not asked for.
#![allow(missing_docs, unreachable_pub, reason = "generated; the WIT texts document it")]

/// SQL, as one of the interfaces that every handler may import. What a statement of a batch carries is borrowed from where it is.
pub mod sql {
    wit_bindgen::generate!({
        inline: "
            package tidemill:sdk@0.1.0;
            world sql {
                import tidemill:sql/sql@0.1.0;
            }
        ",
        path: ["../../wit/sql"],
        world: "tidemill:sdk/sql",
        ownership: Borrowing { duplicate_if_necessary: true },
        generate_all,
        additional_derives: [PartialEq],
    });
}

/// The interfaces that every handler may import.
pub mod imports {
    wit_bindgen::generate!({
        path: [
            "../../wit/sql", "../../wit/publish", "../../wit/jobs", "../../wit/log", "../../wit/http", "../../wit/events",
            "../../wit/handler",
        ],
        world: "tidemill:handler/imports",
        with: {
            "tidemill:sql/sql@0.1.0": crate::bindings::sql::tidemill::sql::sql,
        },
        generate_all,
        additional_derives: [PartialEq],
    });
}

/// The world of a component that answers HTTP requests.
pub mod http {
    wit_bindgen::generate!({
        path: [
            "../../wit/sql", "../../wit/publish", "../../wit/jobs", "../../wit/log", "../../wit/http", "../../wit/events",
            "../../wit/handler",
        ],
        world: "tidemill:handler/http-handler",
        with: {
            "tidemill:sql/sql@0.1.0": crate::bindings::sql::tidemill::sql::sql,
            "tidemill:publish/publish@0.1.0": crate::bindings::imports::tidemill::publish::publish,
            "tidemill:jobs/jobs@0.1.0": crate::bindings::imports::tidemill::jobs::jobs,
            "tidemill:log/log@0.1.0": crate::bindings::imports::tidemill::log::log,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_http_handler",
    });
}

/// The world of a component that consumes events.
pub mod events {
    wit_bindgen::generate!({
        path: [
            "../../wit/sql", "../../wit/publish", "../../wit/jobs", "../../wit/log", "../../wit/http", "../../wit/events",
            "../../wit/handler",
        ],
        world: "tidemill:handler/event-handler",
        with: {
            "tidemill:sql/sql@0.1.0": crate::bindings::sql::tidemill::sql::sql,
            "tidemill:publish/publish@0.1.0": crate::bindings::imports::tidemill::publish::publish,
            "tidemill:jobs/jobs@0.1.0": crate::bindings::imports::tidemill::jobs::jobs,
            "tidemill:log/log@0.1.0": crate::bindings::imports::tidemill::log::log,
        },
        generate_all,
        pub_export_macro: true,
        export_macro_name: "export_event_handler",
    });
}
