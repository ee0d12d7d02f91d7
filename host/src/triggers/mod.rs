//! What starts an invocation: HTTP requests ([`http`]) and Kafka topics ([`kafka`]); and what publishes due jobs ([`jobs`]). No SQL here, and no guest but through the engine.

pub mod http;
pub mod jobs;
pub mod kafka;
