//! Tidemill: a host that runs sandboxed WASM components against HTTP requests and Kafka topics, each invocation inside one PostgreSQL
//! transaction.
//!
//! # The rooms
//!
//! Imports go down only:
//!
//! ```text
//! cli → {triggers, relay, admin, embedded} → fleet → engine → capabilities → {bindings, store} →
//!     {config, manifest, telemetry, kafka, problem, calendar}
//! ```
//!
//! - [`cli`]: one file (or folder) per command
//! - [`triggers`]: what starts an invocation: HTTP requests, Kafka topics, due jobs
//! - [`relay`]: outbox → Kafka
//! - [`admin`]: health, metrics and the API of operators
//! - [`embedded`]: development only: a private PostgreSQL, a broker in the process
//! - [`fleet`]: deploys, and what every running host does for them
//! - [`engine`]: running guests; [`engine::Engine::invoke`] is the only way
//! - [`capabilities`]: what guests can import, one WIT interface each
//! - [`bindings`]: generated from `wit/`
//! - [`store`]: all SQL of the host: unit of work, outbox, inbox, jobs, migrations
//! - [`config`], [`manifest`], [`telemetry`]: settings; `handler.toml`; metrics and the board of what waits
//! - [`calendar`]: when repeating jobs are due
//! - [`kafka`]: settings that all Kafka clients share, and topics
//! - [`problem`]: problem details (RFC 9457), the form of errors over HTTP

pub mod admin;
pub mod bindings;
pub mod calendar;
pub mod capabilities;
pub mod cli;
pub mod config;
pub mod embedded;
pub mod engine;
pub mod fleet;
pub mod kafka;
pub mod manifest;
pub mod problem;
pub mod relay;
pub mod store;
pub mod telemetry;
pub mod triggers;
