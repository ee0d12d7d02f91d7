//! Topics as code: what manifests declare, against what the cluster has.
//!
//! - `wanted`: declarations, and the dead-letter topics that follow from what is read
//! - `cluster`: what the brokers say of their topics; `settings`: changing one setting of one topic
//! - `plan`: the difference, as steps; `apply`: making them
//! - `check`: what endangers a promise while the host runs, and the note about it
//!
//! Nothing here deletes a topic, a partition or a setting.

mod apply;
mod check;
mod cluster;
mod plan;
mod settings;
#[cfg(test)]
mod tests;
mod wanted;

pub use apply::{Applied, Outcome};
pub use check::{Finding, findings, watch};
pub use cluster::{Cluster, Found, FoundTopic};
pub use plan::{Plan, Step};
pub use wanted::{DEAD_LETTER_HEADROOM, DEAD_LETTER_RETENTION, DEAD_LETTER_SUFFIX, LONGEST_SEGMENT, Size, Topics, Wanted};
