//! The only place with the host's SQL: the unit of work, the outbox, the inbox, what waits or is dead, and the host's migrations.
//!
//! Nothing here knows what runs inside a unit: `store` never names wasmtime.

mod error;
mod inbox;
mod migrate;
pub mod operate;
mod outbox;
mod outcome;
mod pool;
mod record;
mod running;
mod unit;
mod waiting;

pub use error::{CommitError, NotReady, StatementError, StatementErrorKind, Unavailable};
pub use inbox::{Identity, Inbox, Scope, bucket_of};
pub use migrate::{AppPlan, HandlerRole, Migration, Migrator};
pub use outbox::{Envelope, Outbox, OutboxRow, key_bucket};
pub use pool::{Lease, Pool, PoolOptions};
pub use record::Record;
pub use running::{Found, Place, Running};
pub use unit::{Noted, Param, RawColumn, Rows, StatementText, Unit, UnitContext};
pub use waiting::{Attempt, Claim, Consumer, Due, Journal, Outcome, Parked, waiting_bucket};
