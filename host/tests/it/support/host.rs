//! The host's program as a child process.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::process;

/// Environment and arguments of one run of the program.
#[derive(Clone, Default)]
pub struct Run {
    /// Arguments.
    pub args: Vec<String>,
    /// Environment; of the tests' own environment only `PATH` and `HOME` are passed on.
    pub env: BTreeMap<String, String>,
    /// Programs to put in front, each with its arguments; they have to replace themselves (`exec`).
    pub wrapper: Vec<String>,
}

/// How a run ended.
pub struct Ended {
    /// Its exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// A run with arguments.
    pub fn new(args: &[&str]) -> Self {
        Self { args: args.iter().map(|&arg| arg.to_owned()).collect(), ..Self::default() }
    }

    /// Sets one variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.insert(name.to_owned(), value.into());
        self
    }

    fn start(&self) -> Child {
        let program = [&self.wrapper[..], &[env!("CARGO_BIN_EXE_tidemill").to_owned()]].concat();
        let mut command = process::mortal("KILL", &program[0]);
        command.args(&program[1..]).args(&self.args).env_clear().envs(&self.env);
        for name in ["PATH", "HOME"] {
            if let (false, Some(value)) = (self.env.contains_key(name), std::env::var_os(name)) {
                command.env(name, value);
            }
        }
        command.env("RUST_BACKTRACE", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        process::spawn(command).unwrap()
    }

    /// Runs to the end; kills what does not end in time.
    pub async fn finish(&self) -> Ended {
        let mut child = self.start();
        let ended = tokio::task::spawn_blocking(move || {
            let stdout = collect(child.stdout.take().unwrap());
            let stderr = collect(child.stderr.take().unwrap());
            let status = wait(&mut child, super::PATIENCE).unwrap_or_else(|| {
                child.kill().unwrap();
                child.wait().unwrap()
            });
            Ended { status, stdout: stdout.whole(), stderr: stderr.whole() }
        });
        ended.await.unwrap()
    }

    /// Starts a serving command and waits for its ready line.
    pub async fn serve(&self) -> Host {
        self.begin().ready().await
    }

    /// Starts a serving command.
    pub fn begin(&self) -> Host {
        let mut child = self.start();
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Host { child, stdout, stderr, http: String::new(), admin: String::new(), kafka: None }
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// A running host; killed when dropped.
pub struct Host {
    child: Child,
    stdout: Output,
    stderr: Output,
    /// Where the public port is: `http://127.0.0.1:PORT`.
    pub http: String,
    /// Where the admin port is.
    pub admin: String,
    /// Where the embedded broker is, in `dev`.
    pub kafka: Option<String>,
}

impl Host {
    /// Waits for its ready line, which says where it is.
    pub async fn ready(mut self) -> Self {
        let stdout = self.stdout.clone();
        let ready = tokio::task::spawn_blocking(move || stdout.line("ready ", super::PATIENCE)).await.unwrap();
        let Some(ready) = ready else {
            let _ = self.child.kill();
            panic!("the host did not get ready");
        };
        let part = |name: &str| ready.split_whitespace().find_map(|word| word.strip_prefix(name)).map(str::to_owned);
        self.http = part("http=").expect("the ready line names http=");
        self.admin = part("admin=").expect("the ready line names admin=");
        self.kafka = part("kafka=");
        self
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.stderr.so_far()
    }

    /// What it has printed so far, on either stream.
    pub fn shown(&self) -> String {
        self.stdout.so_far() + &self.stderr.so_far()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a power cut would.
    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end and waits until it has.
    pub async fn sigterm(&mut self) -> ExitStatus {
        let asked = std::process::Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.unwrap().success());
        super::eventually("the host ends after SIGTERM", async || self.child.try_wait().unwrap()).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            eprintln!("--- the host's log ---\n{}----------------------", self.stderr.whole());
        }
    }
}

/// Output of a child as it comes.
#[derive(Clone, Default)]
struct Output(Arc<(Mutex<(String, bool)>, Condvar)>);

fn collect(stream: impl Read + Send + 'static) -> Output {
    let output = Output::default();
    let kept = output.clone();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stream);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            kept.0.0.lock().unwrap().0.push_str(&String::from_utf8_lossy(&line));
            kept.0.1.notify_all();
            line.clear();
        }
        kept.0.0.lock().unwrap().1 = true;
        kept.0.1.notify_all();
    });
    output
}

impl Output {
    fn so_far(&self) -> String {
        self.0.0.lock().unwrap().0.clone()
    }

    /// Everything, once the child has closed the stream (or after some seconds, should a grandchild keep it open).
    fn whole(&self) -> String {
        let (state, changed) = &*self.0;
        changed.wait_timeout_while(state.lock().unwrap(), Duration::from_secs(5), |state| !state.1).unwrap().0.0.clone()
    }

    /// The first line that begins so; nothing when the stream ends or the time is over before.
    fn line(&self, beginning: &str, limit: Duration) -> Option<String> {
        let (state, changed) = &*self.0;
        let deadline = Instant::now() + limit;
        let mut seen = state.lock().unwrap();
        loop {
            let whole_lines = seen.0.rsplit_once('\n').map_or("", |(lines, _)| lines);
            if let Some(line) = whole_lines.lines().find(|line| line.starts_with(beginning)) {
                return Some(line.to_owned());
            }
            if seen.1 || Instant::now() > deadline {
                return None;
            }
            seen = changed.wait_timeout(seen, Duration::from_millis(200)).unwrap().0;
        }
    }
}

/// Fails the test when a command failed.
pub fn succeeded(ended: Ended) -> Ended {
    assert!(ended.status.success(), "{}: {}{}", ended.status, ended.stdout, ended.stderr);
    ended
}

/// A run that must fail, without a panic, with all of these words in its message.
pub fn fails_naming(ended: &Ended, words: &[&str]) {
    assert!(!ended.status.success(), "it should have failed: {}{}", ended.stdout, ended.stderr);
    assert!(ended.status.code().is_some(), "it was killed: {}", ended.stderr);
    assert!(!ended.stderr.contains("panicked at"), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` is missing in: {}", ended.stderr);
    }
}
