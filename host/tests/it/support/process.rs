//! Child processes and the one temporary folder of this test process.
//!
//! Nothing outlives the tests, however they end: every child is started by one thread that lives as long as the process and
//! carries a parent-death signal, and a small watcher waits for the end of its standard input, that is of the test process,
//! then for the servers to be gone, and removes the folder.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};

const WATCH: &str = r#"
trap '' INT TERM HUP
pids=
while read -r pid; do pids="$pids $pid"; done
for pid in $pids; do
    turns=0
    while kill -0 "$pid" 2>/dev/null && [ "$turns" -lt 100 ]; do sleep 0.1; turns=$((turns + 1)); done
done
turns=0
while ! rm -rf "$1" 2>/dev/null && [ "$turns" -lt 50 ]; do sleep 0.1; turns=$((turns + 1)); done
"#;

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

struct House {
    folder: PathBuf,
    watcher: Mutex<ChildStdin>,
    orders: Mutex<mpsc::Sender<Order>>,
}

fn house() -> &'static House {
    static HOUSE: OnceLock<House> = OnceLock::new();
    HOUSE.get_or_init(|| {
        // A socket path ends at 107 bytes, so the folder's name is short.
        let folder = tempfile::Builder::new().prefix("tm-it-").tempdir_in("/tmp").unwrap().keep();
        open_to_all(&folder);
        let mut watch = Command::new("sh");
        watch.args(["-c", WATCH, "watch"]).arg(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::process_group(&mut watch, 0);
        let watcher = watch.spawn().unwrap().stdin.take().unwrap();
        // The parent-death signal is sent when the *thread* ends that started the child, so no test's thread may start one.
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in received {
                let _ = answer.send(command.spawn());
            }
        });
        House { folder, watcher: Mutex::new(watcher), orders: Mutex::new(orders) }
    })
}

/// A new empty folder that is removed when the test process ends; everyone may pass through it.
pub fn folder(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let folder = house().folder.join(format!("{name}{}", NEXT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir(&folder).unwrap();
    open_to_all(&folder);
    folder
}

fn open_to_all(folder: &Path) {
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where a program of the system is.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("there is no program `{name}` on this machine"))
}

/// A command whose process gets `signal` when the test process ends; started by [`spawn`].
pub fn mortal(signal: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    // By its path, since some children get another search path.
    let mut command = Command::new(self::program("setpriv"));
    command.args(["--pdeathsig", signal, "--"]).arg(program);
    command
}

/// Starts a command made by [`mortal`].
pub fn spawn(command: Command) -> std::io::Result<Child> {
    let (answer, child) = mpsc::channel();
    house().orders.lock().unwrap().send((command, answer)).unwrap();
    child.recv().unwrap()
}

/// Makes the watcher wait for a long-lived server before it removes the folder.
pub fn outlives_tests(child: &Child) {
    writeln!(house().watcher.lock().unwrap(), "{}", child.id()).unwrap();
}

/// A free loopback port below those that the system gives to clients, so that it stays free while a server restarts.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(97);
    let mut candidates =
        std::iter::repeat_with(|| 12_000 + (start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % 18_000) as u16);
    candidates.find(|&port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()).unwrap()
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0
}
