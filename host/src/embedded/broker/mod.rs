//! A Kafka broker in one process, for development: one node, no replicas, no security, bound to loopback.
//!
//! It speaks enough of the Kafka protocol for ordinary clients to create topics, produce (also idempotently), consume, and
//! form consumer groups, and it keeps all of that in one folder. `docs/embedded-broker.md` says what it promises.
//!
//! - `connection`: one task per client: frames in, answers out, in order
//! - `wire`: frames, headers and bodies; `api`: which APIs and versions there are, and who answers them
//! - `produce`, `fetch`, `cluster`, `admin`, `describe`: the answers; `groups/`: consumer groups and their offsets
//! - `topics`, `configs`: the catalogue; `log`, `segment`, `batch`, `producers`: one partition's records
//!
//! Locks are taken in the order catalogue, groups, offsets; a log's lock is taken last; none is held across an await.

mod admin;
mod api;
mod batch;
mod cluster;
mod configs;
mod connection;
mod describe;
mod fetch;
mod groups;
mod log;
mod produce;
mod producers;
mod segment;
mod state;
mod topics;
mod wire;

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use kafka_protocol::protocol::StrBytes;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use groups::Groups;
use state::State;
use topics::Topics;

/// The only node's id, which leads every partition and coordinates every group.
const NODE_ID: i32 = 1;

/// How long an acknowledged write may stay in the operating system's memory before it is synced to the disk.
const SYNC_EVERY: Duration = Duration::from_millis(200);

/// How long after a sync that failed the next is tried.
const SYNC_AGAIN: Duration = Duration::from_secs(1);

/// How often what is too old is looked for (`log.retention.check.interval.ms`, five minutes in Kafka; a person is watching here).
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often groups look for members that are overdue.
const GROUP_TICK: Duration = Duration::from_millis(100);

/// The broker with its folder open, not yet serving.
#[derive(Debug)]
pub struct Broker {
    shared: Shared,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    topics: Topics,
    groups: Groups,
    state: State,
    /// Held, never read: a lock of the operating system that ends with the process.
    _lock: File,
}

/// Where clients reach the broker, as Metadata and FindCoordinator tell them.
#[derive(Debug, Clone)]
struct Node {
    host: StrBytes,
    port: i32,
}

impl Broker {
    /// Opens the folder `dir`, creates it if need be, and recovers topics, records and committed offsets from it.
    ///
    /// All records are read once to check them, on a thread for blocking work.
    ///
    /// # Errors
    /// Another process uses the folder, the folder cannot be read or written, or a file in it is not what it should be.
    /// A log that ends in the middle of a batch is no error: the incomplete batch was never acknowledged and is cut off.
    pub async fn open(dir: &Path) -> anyhow::Result<Broker> {
        let dir = dir.to_owned();
        let shared = tokio::task::spawn_blocking(move || Shared::open(&dir)).await.context("open the broker's folder")??;
        Ok(Broker { shared })
    }

    /// Serves clients on `listener` until `shutdown` completes, then closes their connections and syncs everything.
    ///
    /// Clients are told the listener's own address.
    ///
    /// # Errors
    /// The listener is not bound to a loopback address (the broker has no security), or the last sync failed.
    pub async fn serve(self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send + 'static) -> anyhow::Result<()> {
        let address = listener.local_addr().context("the listener's address")?;
        anyhow::ensure!(
            address.ip().is_loopback(),
            "the embedded broker has no security and serves loopback addresses only, not {address}; listen on 127.0.0.1"
        );
        let node = Node { host: StrBytes::from_string(address.ip().to_string()), port: i32::from(address.port()) };
        let shared = Arc::new(self.shared);
        let mut tasks = JoinSet::new();
        tasks.spawn(sync_often(Arc::clone(&shared)));
        tasks.spawn(sweep_often(Arc::clone(&shared)));
        tasks.spawn(tick_groups(Arc::clone(&shared)));
        tracing::info!(%address, "the embedded broker listens");
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(ended) = tasks.join_next() => if let Err(error) = ended {
                    tracing::error!(%error, "a task of the embedded broker failed");
                },
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        tasks.spawn(connection::serve(Arc::clone(&shared), node.clone(), stream, peer));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        tasks.shutdown().await;
        shared.sync().context("write the broker's files to the disk")?;
        tracing::info!(%address, "the embedded broker has stopped");
        Ok(())
    }
}

impl Shared {
    fn open(dir: &Path) -> anyhow::Result<Shared> {
        fs::create_dir_all(dir).with_context(|| format!("create the broker's folder {}", dir.display()))?;
        let lock = File::create(dir.join("lock")).context("create the broker's lock file")?;
        lock.try_lock().with_context(|| format!("{} is in use by another broker", dir.display()))?;
        let state = State::open(dir).context("read broker.json")?;
        let topics = Topics::open(dir).context("open the broker's topics")?;
        let groups = Groups::open(dir).context("open the committed offsets")?;
        Ok(Shared { topics, groups, state, _lock: lock })
    }

    fn sync(&self) -> io::Result<()> {
        let topics = self.topics.sync();
        self.groups.sync().and(topics)
    }

    fn sweep(&self, now: i64) {
        self.topics.sweep(now);
        self.groups.expire(now);
    }
}

async fn sync_often(shared: Arc<Shared>) {
    let mut failing = false;
    loop {
        tokio::time::sleep(if failing { SYNC_AGAIN } else { SYNC_EVERY }).await;
        let shared = Arc::clone(&shared);
        match tokio::task::spawn_blocking(move || shared.sync()).await {
            Ok(Err(error)) => {
                failing = true;
                tracing::error!(
                    %error,
                    "acknowledged records could not be synced to the disk: a crash of the machine would lose them; trying again"
                );
            }
            Ok(Ok(())) if std::mem::take(&mut failing) => tracing::info!("acknowledged records are synced to the disk again"),
            _ => {}
        }
    }
}

async fn sweep_often(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let shared = Arc::clone(&shared);
        let _ = tokio::task::spawn_blocking(move || shared.sweep(now())).await;
    }
}

async fn tick_groups(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(GROUP_TICK).await;
        shared.groups.tick(Instant::now());
    }
}

/// Locks a mutex whose former owner may have panicked: every change under our locks is complete or not begun.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds since 1970, as the protocol counts them.
fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

fn now() -> i64 {
    millis(SystemTime::now())
}

/// Replaces a small file so that a reader finds the old or the new text, whatever happens in between. Returns the new file.
fn replace_file(path: &Path, text: &[u8]) -> io::Result<File> {
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(text)?;
    file.sync_data()?;
    fs::rename(next, path)?;
    // The new name must not be lost either.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())?;
    Ok(file)
}
