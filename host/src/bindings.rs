//! The only place that generates host bindings from `wit/`.
//!
//! Imports are asynchronous on the host's side (the guest sees plain calls) and may trap, which is for faults of the host: what a guest
//! may handle is in the WIT error types.

#[expect(missing_docs, reason = "the documentation is in wit/")]
mod generated {
    wasmtime::component::bindgen!({
        inline: "
            package tidemill:host@0.1.0;
            world everything {
                include tidemill:handler/imports@0.1.0;
                export tidemill:http/http@0.1.0;
            }
        ",
        path: ["../wit/sql", "../wit/publish", "../wit/jobs", "../wit/events", "../wit/http", "../wit/log", "../wit/handler"],
        world: "tidemill:host/everything",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

/// What guests get of a batch is borrowed from its records.
#[expect(missing_docs, reason = "the documentation is in wit/")]
mod borrowed {
    wasmtime::component::bindgen!({
        inline: "
            package tidemill:host@0.1.0;
            world consumer {
                export tidemill:events/events@0.1.0;
            }
        ",
        path: "../wit/events",
        world: "tidemill:host/consumer",
        ownership: Borrowing { duplicate_if_necessary: false },
        exports: { default: async },
    });
}

/// `tidemill:events`, exported by guests.
pub use borrowed::exports::tidemill::events::events;
/// `tidemill:http`, exported by guests.
pub use generated::exports::tidemill::http::http;
/// `tidemill:jobs`.
pub use generated::tidemill::jobs::jobs;
/// `tidemill:log`.
pub use generated::tidemill::log::log;
/// `tidemill:publish`.
pub use generated::tidemill::publish::publish;
/// `tidemill:sql`.
pub use generated::tidemill::sql::sql;
