//! The only place with the host's SQL: the unit of work, the outbox, the inbox and the host's migrations.
//!
//! Nothing here knows what runs inside a unit: `store` never names wasmtime.

mod error;
mod inbox;
mod inbox_days;
mod migrate;
mod outbox;
mod outcome;
mod pool;
mod scopes;
mod unit;

pub use error::{CommitError, NotReady, StatementError, StatementErrorKind, Unavailable};
pub use inbox::{Identity, Scope, bucket_of};
pub use inbox_days::{InboxDays, InboxSpan};
pub use migrate::{AppPlan, HandlerRole, Migration, Migrator};
pub use outbox::{Envelope, Outbox, OutboxRow, key_bucket};
pub use pool::{Lease, Pool, PoolOptions};
pub use scopes::{Generation, GenerationState, Order, Scopes, Target, TopicPartition};
pub use unit::{Param, RawColumn, Rows, StatementText, Unit, UnitContext};
