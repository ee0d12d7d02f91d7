//! The only place with the host's SQL: the unit of work, the outbox, the inbox, what waits or is dead, jobs, answers kept
//! under an `Idempotency-Key`, what is deployed, and the host's migrations.
//!
//! Nothing here knows what runs inside a unit: `store` never names wasmtime.

mod backlog;
mod error;
pub mod fleet;
mod functions;
mod idempotency;
mod inbox;
mod inbox_days;
mod inspect;
mod jobs;
mod migrate;
pub mod operate;
mod outbox;
mod outcome;
mod pool;
mod presence;
mod record;
mod running;
mod scopes;
mod slices;
mod target;
mod unit;
mod waiting;

pub use backlog::{Beside, Outbox, OutboxRow, Page};
pub use error::{CommitError, NotReady, StatementError, StatementErrorKind, Unavailable};
pub use functions::is_harmless;
pub use idempotency::{Claimed, KeptAnswers, KeptResponse, RequestKey, digest};
pub use inbox::{Identity, Scope, bucket_of};
pub use inbox_days::{InboxDays, InboxSpan};
pub use inspect::Inspector;
pub use jobs::{FOREIGN, Fired, JobRow, JobStatus, JobsDue, Repeats, Spoilt, TAKEN, job_event_id};
pub use migrate::{AppPlan, HandlerRole, Migration, Migrator};
pub use migrate::{Consent, MigrationOptions, Rule, tables_made};
pub use outbox::{Envelope, key_bucket};
pub use pool::{Lease, Pool, PoolOptions};
pub use presence::Presence;
pub use record::Record;
pub use running::{Found, Place, Running};
pub use scopes::{Generation, GenerationState, Order, Scopes, Target, TopicPartition};
pub use slices::{Census, SliceLocks, Slices};
pub use unit::{Kept, Noted, Param, RawColumn, Resumed, Rows, StatementText, Unit, UnitContext};
pub use waiting::{Attempt, Claim, Consumer, Due, Journal, Outcome, Parked, waiting_bucket};
