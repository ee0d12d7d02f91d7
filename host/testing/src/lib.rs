//! Tests of handlers, in the real engine and on a real PostgreSQL, without a broker.
//!
//! ```no_run
//! use serde_json::json;
//! use tidemill_test::{Event, Host, Outcome};
//!
//! # fn main() -> tidemill_test::Result<()> {
//! let host = Host::start(env!("CARGO_MANIFEST_DIR"))?;
//! let answer = host.post("/api/notes").user("alice").json(&json!({"text": "tide tables"})).send()?;
//! assert_eq!(answer.status, 201);
//! assert_eq!(host.rows("SELECT author FROM notes")?, [json!({"author": "alice"})]);
//! assert_eq!(host.published()?[0].event["type"], "note.written");
//! assert_eq!(host.deliver("notes.events", [Event::new("note.written").data(json!({"text": "x"}))])?, [Outcome::Handled]);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Host`] is a database of its own with the handler's migrations, and the handler as `serve` runs it: its role, its grants, its limits,
//! one transaction for each request and each batch. Only two parts are missing: nothing is sent to a broker, so what a handler publishes is
//! there to be [taken](Host::published); and no job fires by itself, so what it schedules is there to be [seen](Host::jobs) and [fired](Host::fire).
//!
//! All hosts of a test process are run by one `tidemill test-host`, a child that is started at the first call and ends with the process. The
//! program is the one that `TIDEMILL_BIN` names, else the one that cargo has built beside the test, else `tidemill` on the search path. It
//! builds the component before the first test (`TIDEMILL_TEST_BUILD=off`: it takes the component as it is).

mod event;
mod process;
mod request;
#[doc(hidden)]
pub mod wire;

pub use event::{Event, Job, Outcome, Published};
pub use request::{Answer, Request};

use process::Process;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};
use wire::{Order, Record};

/// What a test gets, or why it does not.
pub type Result<T> = std::result::Result<T, Error>;

/// Why the host did not do what was asked. A test that ends with it shows the text, and the host's last log lines.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(pub(crate) String);

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text as it is, and the host's last log lines: it is what a failed test shows.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)?;
        match Process::log_of_shared().filter(|log| !log.is_empty() && !self.0.contains(process::LAST_LINES)) {
            Some(log) => write!(f, "\n{}:\n{log}", process::LAST_LINES),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// Handlers that run, on a database of their own. Dropping it ends both; if the test fails, the host's last log lines are shown.
#[derive(Debug)]
pub struct Host {
    process: &'static Process,
    id: u64,
}

impl Host {
    /// Builds and runs the handler of a folder: `Host::start(env!("CARGO_MANIFEST_DIR"))`.
    ///
    /// Roles of other handlers that the app's migrations name are made, so a handler can be tested without the rest of its app.
    pub fn start(folder: impl AsRef<Path>) -> Result<Self> {
        Self::start_all([folder])
    }

    /// Builds and runs the handlers of several folders together.
    pub fn start_all<P: AsRef<Path>>(folders: impl IntoIterator<Item = P>) -> Result<Self> {
        let folders: Vec<PathBuf> = folders.into_iter().map(|folder| folder.as_ref().to_owned()).collect();
        let process = Process::shared()?;
        let build = std::env::var_os("TIDEMILL_TEST_BUILD").is_none_or(|value| value != "off");
        let id = process.call(0, Order::Open { folders, build })?;
        Ok(Self { process, id })
    }

    /// Starts a request.
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request::new(self, method, path)
    }

    /// Starts a `GET`.
    pub fn get(&self, path: &str) -> Request<'_> {
        self.request("GET", path)
    }

    /// Starts a `POST`.
    pub fn post(&self, path: &str) -> Request<'_> {
        self.request("POST", path)
    }

    /// Hands the one handler that reads `topic` these events as one batch of a partition, as a consumer would: the inbox leaves out what it
    /// knows, and a batch that fails is cut until the event at fault stands alone. One outcome for each event.
    ///
    /// Of an event that failed nothing is kept, not even its wait: deliver it again to see its next attempt.
    pub fn deliver(&self, topic: &str, events: impl IntoIterator<Item = Event>) -> Result<Vec<Outcome>> {
        self.deliver_records(None, topic, events.into_iter().map(Event::record).collect())
    }

    /// The same where several handlers read the topic.
    pub fn deliver_to(&self, handler: &str, topic: &str, events: impl IntoIterator<Item = Event>) -> Result<Vec<Outcome>> {
        self.deliver_records(Some(handler), topic, events.into_iter().map(Event::record).collect())
    }

    /// Hands over records of any bytes, in the form of an event or not.
    pub fn deliver_bytes(&self, topic: &str, values: &[&[u8]]) -> Result<Vec<Outcome>> {
        let records = values.iter().map(|value| Record { key: None, headers: Vec::new(), value: wire::hex(value) });
        self.deliver_records(None, topic, records.collect())
    }

    fn deliver_records(&self, handler: Option<&str>, topic: &str, records: Vec<Record>) -> Result<Vec<Outcome>> {
        self.call(Order::Deliver { handler: handler.map(str::to_owned), topic: topic.to_owned(), records })
    }

    /// The rows of a statement, each as a JSON object; also of an `INSERT … RETURNING`. It runs with all rights, no row is hidden, and the
    /// handlers' schemas are searched first.
    pub fn rows(&self, sql: &str) -> Result<Vec<Value>> {
        self.call(Order::Rows { sql: sql.to_owned() })
    }

    /// Runs statements, for what a test needs to be there before.
    pub fn execute(&self, sql: &str) -> Result<()> {
        self.call(Order::Execute { sql: sql.to_owned() })
    }

    /// What has been published since the last call, in the order in which it would be sent.
    pub fn published(&self) -> Result<Vec<Published>> {
        self.call(Order::Published)
    }

    /// The jobs that wait, by the time at which they are due.
    pub fn jobs(&self) -> Result<Vec<Job>> {
        self.call(Order::Jobs)
    }

    /// Lets a job fire now, whatever its time: its event is [published](Host::published) as if the time had come. One that repeats waits for its
    /// next time.
    pub fn fire(&self, job: &str) -> Result<()> {
        self.call(Order::Fire { job: job.to_owned() })
    }

    pub(crate) fn call<T: DeserializeOwned>(&self, order: Order) -> Result<T> {
        self.process.call(self.id, order)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}:\n{}", process::LAST_LINES, self.process.log());
        }
        self.process.send_only(self.id, Order::Close);
    }
}
