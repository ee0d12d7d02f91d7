//! A wrong clock for one process.

use std::path::PathBuf;
use std::process::Command;

use super::host::Run;
use super::process;

impl Run {
    /// The same with a wall clock that is wrong by so many seconds; timeouts last as long as they should.
    pub fn with_wrong_clock(self, seconds: i64) -> Self {
        self.env("LD_PRELOAD", library().display().to_string()).env("CLOCK_OFFSET", seconds.to_string())
    }
}

/// What is put between a program and the system's clock.
fn library() -> PathBuf {
    let library = process::folder("clock").join("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/support/clock.c");
    let made = Command::new("gcc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    library
}
