//! The one `tidemill test-host` of a test process.

use crate::wire::{Call, Hello, Order, PROTOCOL, Reply};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// How many log lines are kept for a test that fails.
const LINES: usize = 60;

/// How often, and how far apart, the log is looked at for lines that are still to come.
const LOOKS: u32 = 10;
const LOOK: Duration = Duration::from_millis(100);

/// What stands in front of them.
pub(crate) const LAST_LINES: &str = "the host's last log lines";

const WAY_OUT: &str =
    "set TIDEMILL_BIN to the program, or put `tidemill` on the search path (in a checkout: `cargo build -p tidemill`)";

type Answered = std::result::Result<Value, String>;

/// The child of this process.
static PROCESS: OnceLock<Result<Process>> = OnceLock::new();

/// A running child. It ends when its standard input does, that is with this process, however this process ends.
#[derive(Debug)]
pub(crate) struct Process {
    program: PathBuf,
    input: Mutex<ChildStdin>,
    shared: Arc<Shared>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits for which reply; nobody any more once the child has ended.
    waiting: Mutex<Option<HashMap<u64, Sender<Answered>>>>,
    log: Mutex<VecDeque<String>>,
}

impl Process {
    /// The child of this process, started at the first call.
    pub(crate) fn shared() -> Result<&'static Self> {
        PROCESS.get_or_init(Self::start).as_ref().map_err(Clone::clone)
    }

    /// The last lines of its log, if there is such a child.
    pub(crate) fn log_of_shared() -> Option<String> {
        PROCESS.get()?.as_ref().ok().map(Self::log)
    }

    fn start() -> Result<Self> {
        let program = program()?;
        let mut command = Command::new(&program);
        command.arg("test-host").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Compiled components, kept between runs where cargo keeps what it makes.
        if let Some(target) = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(3)?.join("tidemill-test"))) {
            command.arg("--cache").arg(target);
        }
        let failed = |error: std::io::Error| Error(format!("can't run `{} test-host`: {error}; {WAY_OUT}", program.display()));
        let mut child = command.spawn().map_err(failed)?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error("the child has no standard streams".to_owned()));
        };
        let shared = Arc::new(Shared { waiting: Mutex::new(Some(HashMap::new())), log: Mutex::default() });
        let keeper = shared.clone();
        let logged = std::thread::spawn(move || keeper.keep_log(errors));
        let mut output = BufReader::new(output);
        let mut line = String::new();
        let _ = output.read_line(&mut line);
        match serde_json::from_str::<Hello>(&line) {
            Ok(hello) if hello.protocol == PROTOCOL => {}
            Ok(hello) => {
                let (path, version) = (program.display(), hello.tidemill);
                let ours = env!("CARGO_PKG_VERSION");
                return Err(Error(format!("{path} is tidemill {version}, which tidemill-test {ours} cannot talk to; {WAY_OUT}")));
            }
            Err(_) => {
                // It says why on the other stream, and ends.
                drop(input);
                let _ = child.wait();
                let _ = logged.join();
                return Err(Error(format!("`{} test-host` did not start: {}", program.display(), shared.log())));
            }
        }
        let router = shared.clone();
        std::thread::spawn(move || {
            router.route(output);
            let _ = child.wait();
        });
        Ok(Self { program, input: Mutex::new(input), shared, next: AtomicU64::new(1) })
    }

    /// Gives an order and waits for what comes of it.
    pub(crate) fn call<T: DeserializeOwned>(&self, host: u64, order: Order) -> Result<T> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = channel();
        match lock(&self.shared.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, answer),
            None => return Err(self.gone()),
        };
        self.write(&Call { id, host, order })?;
        let value = answered.recv().map_err(|_| self.gone())?.map_err(Error)?;
        serde_json::from_value(value).map_err(|error| Error(format!("the host answered something else: {error}")))
    }

    /// Gives an order whose end nobody waits for.
    pub(crate) fn send_only(&self, host: u64, order: Order) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.write(&Call { id, host, order });
    }

    /// The last lines of the child's log. What it wrote before its last answer may still be on its way: it is waited for until nothing more comes.
    pub(crate) fn log(&self) -> String {
        let mut log = self.shared.log();
        for _ in 0..LOOKS {
            std::thread::sleep(LOOK);
            let before = std::mem::replace(&mut log, self.shared.log());
            if log == before && !log.is_empty() {
                break;
            }
        }
        log
    }

    fn write(&self, call: &Call) -> Result<()> {
        let mut line = serde_json::to_vec(call).map_err(|error| Error(error.to_string()))?;
        line.push(b'\n');
        lock(&self.input).write_all(&line).map_err(|_| self.gone())
    }

    fn gone(&self) -> Error {
        Error(format!("`{} test-host` has ended; {LAST_LINES}:\n{}", self.program.display(), self.log()))
    }
}

impl Shared {
    /// Takes replies to whoever waits for them, to the end of the stream; then nobody has to wait any more.
    fn route(&self, output: impl BufRead) {
        for line in output.lines().map_while(std::io::Result::ok) {
            if let Ok(Reply { id, result }) = serde_json::from_str(&line)
                && let Some(answer) = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id))
            {
                let _ = answer.send(result);
            }
        }
        *lock(&self.waiting) = None;
    }

    fn keep_log(&self, errors: impl Read) {
        let mut lines = BufReader::new(errors);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let mut log = lock(&self.log);
            log.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            if log.len() > LINES {
                log.pop_front();
            }
            drop(log);
            line.clear();
        }
    }

    fn log(&self) -> String {
        lock(&self.log).iter().cloned().collect::<Vec<_>>().join("\n")
    }
}

/// `TIDEMILL_BIN`, else the program that cargo has built beside this test, else the one on the search path.
fn program() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("TIDEMILL_BIN").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(Error(format!("TIDEMILL_BIN is {}, and there is no such file", named.display()))),
        };
    }
    // target/debug/deps/test-0123456789abcdef
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.ancestors().nth(2)?.join("tidemill")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = beside.into_iter().chain(std::env::split_paths(&path).map(|folder| folder.join("tidemill")));
    found.into_iter().find(|program| program.is_file()).ok_or_else(|| Error(format!("there is no program `tidemill`: {WAY_OUT}")))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
