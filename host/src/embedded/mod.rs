//! For development only: a private PostgreSQL and a broker inside the process. `serve` never touches this room.

pub mod broker;
pub mod postgres;

pub use broker::Broker;
pub use postgres::Postgres;
