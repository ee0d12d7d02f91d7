//! What starts an invocation: HTTP requests ([`http`]) and Kafka topics ([`kafka`]). No SQL here, and no guest but through the engine.

pub mod http;
pub mod kafka;
