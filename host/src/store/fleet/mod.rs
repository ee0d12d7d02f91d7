//! What is deployed, and which hosts run: revisions, the pointer of each handler, replicas and what they say of a candidate.
//!
//! - `revisions`: what was ever deployed
//! - `replica`: one running host's part: its heartbeat, what it has to load, its votes
//! - `desk`: one deploy's part: the lock, the candidate, the switch
//! - `pulse`: whether this process's own heartbeat is in time
//! - `view`: what operators are shown

mod desk;
mod pulse;
mod replica;
mod revisions;
mod view;

pub use desk::{Change, Desk, DeskError, Voter};
pub use pulse::{Pulse, Term};
pub use replica::{Candidate, Look, Pointer, ReplicaDesk};
pub use revisions::{NewRevision, Revision, Revisions};
pub use view::{DeployedHandler, FleetView, Replica, RevisionEntry, UnderWay};

use super::error::{Unavailable, describe};
use std::time::Duration;
use tokio_postgres::error::SqlState;

/// How often a replica writes its heartbeat.
pub const BEAT: Duration = Duration::from_secs(1);
/// A replica whose last heartbeat was begun longer ago than this does nothing new and keeps nothing.
pub const OWN_LIMIT: Duration = Duration::from_secs(4);
/// A replica whose last heartbeat is older than this, by the database's clock, is dead to all others: they go on without it. More than
/// [`OWN_LIMIT`] by what a COMMIT may be under way and clocks may drift in that time.
pub const LIMIT: Duration = Duration::from_secs(6);

/// An SQL condition: the replica `r` is alive.
macro_rules! alive {
    () => {
        "r.beat_at > clock_timestamp() - interval '6 s'"
    };
}
use alive;

/// The channel that tells replicas to look.
const LOOK: &str = "tidemill_fleet";
/// The channel that tells a deploy that a replica has said or done something.
const HEARD: &str = "tidemill_votes";

/// A failed statement as a person should read it.
fn failed(error: tokio_postgres::Error) -> Unavailable {
    let unprepared = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE];
    let text = describe(&error);
    Unavailable(match error.code() {
        Some(code) if unprepared.contains(code) => {
            format!("{text}: the database is not prepared for this version; run `tidemill migrate`")
        }
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_judge_later_than_a_replica_itself() {
        assert!(alive!().contains(&format!("interval '{} s'", LIMIT.as_secs())));
        assert!(OWN_LIMIT + BEAT < LIMIT && BEAT * 3 < OWN_LIMIT);
    }
}
