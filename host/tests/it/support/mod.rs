//! What the tests stand on: real servers, real processes, and ways to break them.

pub mod apache;
pub mod broker;
pub mod certs;
pub mod clock;
pub mod events;
pub mod fleet;
pub mod frames;
pub mod handlers;
pub mod host;
pub mod http;
pub mod jobs;
pub mod ledger;
pub mod outbox;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod records;
pub mod schemas;
pub mod secure;
pub mod world;

use std::time::{Duration, Instant};

pub use broker::{Broker, Kind};
pub use host::Host;
pub use http::Answer;
pub use proxy::{Cut, Fault, Proxy};
pub use world::World;

/// How long anything may take that has to happen in the end. After `kill -9` a consumer group waits for the dead member's session.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Asks until there is an answer, and fails the test with `what` when there is none in time.
pub async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes two tests of a function over a kind of broker: `name::embedded` and `name::apache`.
macro_rules! on_both_brokers {
    ($($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::support::Kind;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn embedded() {
                super::$name(Kind::Embedded).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn apache() {
                super::$name(Kind::Apache).await;
            }
        }
    )+};
}
pub(crate) use on_both_brokers;
