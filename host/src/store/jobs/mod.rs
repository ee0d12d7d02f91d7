//! Jobs: events that are published when their time has come (promises 13 and 14).
//!
//! - `columns`: what a unit schedules, as the parameters of one call
//! - `due`: what the trigger does: firing
//! - `times`: `timestamptz` in microseconds, exactly
//!
//! The rules are in SQL functions of the migration: one call each, so a replica that ends in the middle leaves nothing half done.

mod columns;
mod due;
mod times;

pub(super) use columns::{JobColumns, SCHEDULE, SCHEDULE_ONE};
pub(super) use due::{Claimed, FIRE_LOCKED, Round};
pub use due::{Fired, JobsDue, Spoilt};
pub(super) use times::Micros;

use super::outbox::Envelope;
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// SQLSTATE of a name that another handler of the app owns.
pub const TAKEN: &str = "TMJ01";
/// SQLSTATE of a job that the handler may not cancel.
pub const FOREIGN: &str = "TMJ02";

/// Cancels; true for each name that was waiting.
pub(super) const CANCEL: &str = "SELECT tidemill.cancel_jobs($1, $2, $3)";
/// The waiting job of a name.
pub(super) const GET: &str = "\
    SELECT handler, due, repeats, topic, tidemill.job_event_id(app, name, incarnation, due), scheduled_at \
    FROM tidemill.jobs WHERE app = $1 AND name = $2";

/// A job on its way into the table.
#[derive(Debug, Clone)]
pub struct JobRow {
    /// Unique in its app.
    pub name: String,
    /// The first time in microseconds since 1970; none: one period from now, by the database's clock.
    pub due: Option<i64>,
    /// Whether and how it repeats.
    pub repeats: Option<Repeats>,
    /// What it does about missed times, as the table has it.
    pub missed: &'static str,
    /// Whether a waiting job of the name stays as it is.
    pub keep: bool,
    /// What to publish. Its value is the structured event behind `specversion`, `id` and `time`.
    pub event: Envelope,
}

/// How a job repeats, as the table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Repeats {
    /// A period in microseconds.
    Every(i64),
    /// A cron expression in a time zone.
    Cron {
        /// Five fields.
        expression: String,
        /// An IANA name.
        time_zone: String,
    },
}

/// A waiting job. Times in microseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobStatus {
    /// Whose it is.
    pub handler: String,
    /// When it fires next.
    pub due: i64,
    /// Whether it fires again after that.
    pub repeats: bool,
    /// The topic of its event.
    pub topic: String,
    /// The id of its next event.
    pub event_id: Uuid,
    /// When it was scheduled.
    pub scheduled_at: i64,
}

impl JobStatus {
    pub(super) fn read(row: &tokio_postgres::Row) -> Self {
        let (due, scheduled_at): (Micros, Micros) = (row.get(1), row.get(5));
        Self {
            handler: row.get(0),
            due: due.0,
            repeats: row.get(2),
            topic: row.get(3),
            event_id: row.get(4),
            scheduled_at: scheduled_at.0,
        }
    }
}

/// CloudEvents `id` of the event of a job at one scheduled time (microseconds since 1970); the SQL function `tidemill.job_event_id` computes
/// the same.
pub fn job_event_id(app: &str, name: &str, incarnation: Uuid, time: i64) -> Uuid {
    let mut hash = Sha256::new();
    for text in [app, name] {
        hash.update(text.as_bytes());
        hash.update([0]);
    }
    hash.update(incarnation.as_bytes());
    hash.update(time.to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes[..6].copy_from_slice(&time.div_euclid(1_000).to_be_bytes()[2..]);
    bytes[6..].copy_from_slice(&digest[..10]);
    // Version 8; the variant, and two zeroes that the SQL text has behind it.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x0f | 0x80;
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_the_id_of_an_event_is_the_same_for_ever_here_and_in_sql() {
        // As PostgreSQL computed them; consumers have them in their inboxes.
        let incarnation = Uuid::from_u128(1);
        let id = job_event_id("a", "n", incarnation, 1_770_715_800_123_456);
        assert_eq!(id.to_string(), "019c46e2-e23b-83a4-8c85-cac4615caf7c");
        assert_eq!((id.get_version_num(), id.get_variant()), (8, uuid::Variant::RFC4122));
        assert_eq!(job_event_id("a", "n", incarnation, -100).to_string(), "ffffffff-ffff-84e0-8cbc-a35f3c80a47c");
    }

    #[test]
    fn c13_another_job_incarnation_or_time_has_another_id() {
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let ids = [
            job_event_id("a", "bc", one, 0),
            job_event_id("ab", "c", one, 0),
            job_event_id("a", "bc", two, 0),
            job_event_id("a", "bc", one, 1),
        ];
        assert!((1..ids.len()).all(|n| !ids[..n].contains(&ids[n])), "{ids:?}");
    }
}
