//! Deploys, and what every running host does for them (promises 18 and 19).
//!
//! - `bundle`: a handler packed into a revision, and the revision's name
//! - `set`: what is to run together, checked together
//! - `standing`: what is active; `plan`: what a proposal needs in the database
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
mod plan;
mod replica;
mod report;
mod rollback;
mod set;
mod shelf;
mod standing;

pub use crate::store::fleet::DeskError as DeployError;
pub use bundle::{Bundle, check_size};
pub use deploy::{Administration, Deployer, Order};
pub use diff::{Diff, Difference};
pub use replica::Replica;
pub use report::{HandlerOutcome, ReplicaOutcome, Report};
pub use set::{apps, topics};
