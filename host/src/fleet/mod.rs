//! Deploys, and what every running host does for them (promises 18 and 19).
//!
//! - `bundle`: a handler packed into a revision, and the revision's name
//! - `set`: what is to run together, checked together
//! - `deploy`: the way that every change goes: candidate, agreement, migrations, switch
//! - `rollback`: back to an earlier revision, if its tables are still there
//! - `replica`: a running host: its heartbeat, loading what is active, preparing what is to be
//! - `shelf`: compiled revisions in memory, so that a switch only moves pointers
//! - `report`: what came of a change; `diff`: what differs between two revisions
//!
//! All of them meet in the database and nowhere else: a command deploys whether hosts run or not, and the hosts need not know each other.

mod bundle;
mod deploy;
mod diff;
mod replica;
mod report;
mod rollback;
mod set;
mod shelf;

pub use crate::store::fleet::DeskError as DeployError;
pub use bundle::Bundle;
pub use deploy::{Administration, Deployer, Order};
pub use diff::{Diff, Difference};
pub use replica::Replica;
pub use report::{HandlerOutcome, ReplicaOutcome, Report};
pub use set::{apps, topics};
