//! Compilers that end with whoever waits for them.

use crate::telemetry::lock;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

/// What a build's compilers run on, one after the other.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct Leash(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The process group of the compiler that runs.
    group: Option<Pid>,
    cut: bool,
}

/// Whoever waits for the build. Dropped, it ends the compiler that runs, with all that it has started, and no other begins.
#[derive(Debug)]
pub(in crate::cli) struct Hand(Leash);

impl Leash {
    /// The other end of it.
    pub(in crate::cli) fn hand(&self) -> Hand {
        Hand(self.clone())
    }

    /// Starts a compiler in a process group of its own.
    pub(super) fn spawn(&self, process: &mut Command) -> Result<Child> {
        let mut state = lock(&self.0);
        if state.cut {
            return Err(Error::new(ErrorKind::Interrupted, "the build was given up"));
        }
        let child = process.process_group(0).spawn()?;
        state.group = Some(Pid::from_child(&child));
        Ok(child)
    }

    /// The compiler has ended.
    pub(super) fn ended(&self) {
        lock(&self.0).group = None;
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut state = lock(&self.0.0);
        state.cut = true;
        if let Some(group) = state.group.take() {
            let _ = kill_process_group(group, Signal::TERM);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn a_compiler_ends_with_all_it_started_when_nobody_waits_any_more() {
        let leash = Leash::default();
        let hand = leash.hand();
        let folder = tempfile::tempdir().unwrap();
        // Whoever has it open keeps the reader of the other end waiting: the inner one is gone when the stream ends.
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & wait"]).current_dir(folder.path()).stdout(std::process::Stdio::piped());
        let child = leash.spawn(&mut command).unwrap();
        drop(hand);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.signal(), Some(15));
        assert!(leash.spawn(&mut command).is_err(), "no other one begins");
    }
}
