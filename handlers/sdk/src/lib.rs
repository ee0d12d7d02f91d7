//! The guest side of Tidemill: what a handler is written with.
//!
//! A handler is a function. Everything that it does through [`sql`], [`publish()`] and [`jobs`] belongs to one PostgreSQL transaction, which
//! the host commits when the function has returned success and rolls back when it has not.
//!
//! ```
//! use serde::{Deserialize, Serialize};
//! use tidemill_sdk::{EventData, Problem, Request, Response, new_id, params, publish, sql};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Note { text: String }
//!
//! impl EventData for Note {
//!     const TYPE: &'static str = "note.written";
//!     const TOPIC: &'static str = "notes.events";
//!     const SOURCE: &'static str = "notes";
//! }
//!
//! fn handle(request: Request) -> Result<Response, Problem> {
//!     let note: Note = request.json()?;
//!     let id = new_id();
//!     sql::execute("INSERT INTO notes (id, author, text) VALUES ($1, $2, $3)", params![id, request.user()?, note.text])?;
//!     publish(&note)?;
//!     Ok(Response::json(201, &note))
//! }
//!
//! tidemill_sdk::http_handler!(handle);
//! ```
//!
//! The rooms:
//! - [`http`]: [`Request`] and [`Response`]; [`etag`]: what `If-Match` and `If-None-Match` name; [`fields`] reads a body or query field by field and reports all wrong ones at once;
//!   [`problem`] is the answer when something is wrong.
//! - [`events`]: the [`Event`]s of a batch and the [`Failure`] that names those at fault; [`mod@publish`]: [`EventData`], typed events out.
//! - [`jobs`]: events at a later time, once or again and again.
//! - [`sql`]: statements, parameters, rows to and from `serde` types.
//! - [`ids`], [`time`], [`log`], and [`testing`] for unit tests that run natively.
//! - [`bindings`]: the generated ones, for what is not wrapped.

pub mod bindings;
pub mod etag;
pub mod events;
pub mod fields;
pub mod http;
pub mod ids;
pub mod jobs;
mod json;
pub mod log;
pub mod problem;
pub mod publish;
pub mod sql;
pub mod testing;
pub mod time;

pub use etag::EntityTags;
pub use events::{Event, Failure};
pub use fields::Fields;
pub use http::{Request, Response};
pub use ids::{derived_id, new_id};
pub use jobs::Job;
pub use problem::{FieldError, Problem};
pub use publish::{EventData, publish, publish_caused_by};
pub use time::{Timestamp, now};
pub use uuid::Uuid;

/// Makes the component answer HTTP requests with a function `fn(Request) -> Result<Response, Problem>`.
///
/// May stand beside [`event_handler!`] in one component.
#[macro_export]
macro_rules! http_handler {
    ($handle:path) => {
        const _: () = {
            #[allow(dead_code, reason = "exported from components only")]
            struct Component;
            impl $crate::bindings::http::exports::tidemill::http::http::Guest for Component {
                fn handle(
                    request: $crate::bindings::http::exports::tidemill::http::http::Request,
                ) -> $crate::bindings::http::exports::tidemill::http::http::Response {
                    $crate::http::run(request, $handle)
                }
            }
            // The exported names mean something to a component's linker only; natively, unit tests call the functions behind them.
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn($crate::Request) -> ::std::result::Result<$crate::Response, $crate::Problem> = $handle;
            #[cfg(target_arch = "wasm32")]
    $crate::bindings::http::export_http_handler!(Component with_types_in $crate::bindings::http);
        };
    };
}

/// Makes the component consume events with a function `fn(&[Event]) -> Result<(), Failure>`.
///
/// May stand beside [`http_handler!`] in one component.
#[macro_export]
macro_rules! event_handler {
    ($handle:path) => {
        const _: () = {
            #[allow(dead_code, reason = "exported from components only")]
            struct Component;
            impl $crate::bindings::events::exports::tidemill::events::events::Guest for Component {
                fn handle(
                    batch: $crate::bindings::events::exports::tidemill::events::events::Batch,
                ) -> ::std::result::Result<(), $crate::bindings::events::exports::tidemill::events::events::Failure> {
                    $crate::events::run(batch, $handle)
                }
            }
            #[cfg(not(target_arch = "wasm32"))]
            const _: fn(&[$crate::Event]) -> ::std::result::Result<(), $crate::Failure> = $handle;
            #[cfg(target_arch = "wasm32")]
    $crate::bindings::events::export_event_handler!(Component with_types_in $crate::bindings::events);
        };
    };
}
