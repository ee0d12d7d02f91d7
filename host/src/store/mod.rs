//! The only place with the host's SQL: the unit of work, the outbox, the inbox and the host's migrations.
//!
//! Nothing here knows what runs inside a unit: `store` never names wasmtime.

mod error;
mod inbox;
mod migrate;
mod outbox;
mod outcome;
mod pool;
mod slices;
mod unit;
mod waiting;

pub use error::{CommitError, NotReady, StatementError, StatementErrorKind, Unavailable};
pub use inbox::{Identity, Inbox, Scope, bucket_of};
pub use migrate::{AppPlan, HandlerRole, Migration, Migrator};
pub use outbox::{Envelope, key_bucket};
pub use pool::{Lease, Pool, PoolOptions};
pub use slices::{Census, SliceLocks, Slices};
pub use unit::{Param, RawColumn, Rows, StatementText, Unit, UnitContext};
pub use waiting::{Beside, Outbox, OutboxRow, Page};
