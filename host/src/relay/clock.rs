//! How long the lease still holds, by the relay's own clocks.

use crate::store::Unavailable;
use crate::telemetry::lock;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// After this long without a beat the holder stops; the server gives the locks up after 10 s (`idle_session_timeout`).
pub(super) const LATE: Duration = Duration::from_millis(6500);

/// A moment on both clocks: the first stands still while the machine is suspended, the second does not, but costs a system call or two.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    monotonic: Instant,
    boot: Option<Duration>,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { monotonic: Instant::now(), boot: since_boot() }
    }

    /// The longer of both times since then.
    fn elapsed(&self) -> Duration {
        let boot = self.boot.zip(since_boot()).map(|(then, now)| now.saturating_sub(then));
        self.monotonic.elapsed().max(boot.unwrap_or_default())
    }
}

/// Seconds since the machine was started, suspension included.
fn since_boot() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_whitespace().next()?.parse().ok()?).ok()
}

/// The last beat.
#[derive(Debug)]
pub(super) struct Clock(Mutex<Moment>);

impl Clock {
    pub(super) fn new(opened: Moment) -> Self {
        Self(Mutex::new(opened))
    }

    /// The server has answered what was sent at this moment.
    pub(super) fn beat(&self, sent: Moment) {
        *lock(&self.0) = sent;
    }

    /// How long the holder may wait for an answer.
    pub(super) fn left(&self) -> Duration {
        LATE.saturating_sub(lock(&self.0).elapsed())
    }

    /// An error once the beat is late. For every page and every wake-up.
    pub(super) fn check(&self) -> Result<(), Unavailable> {
        if self.left().is_zero() { Err(late()) } else { Ok(()) }
    }

    /// The same by the cheap clock alone. For every row.
    pub(super) fn check_quickly(&self) -> Result<(), Unavailable> {
        if lock(&self.0).monotonic.elapsed() < LATE { Ok(()) } else { Err(late()) }
    }
}

pub(super) fn late() -> Unavailable {
    Unavailable(format!("no answer from PostgreSQL for {LATE:?}; the relay stops before others take over what it holds"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ago(monotonic: Duration, boot: Duration) -> Clock {
        let now = Moment::now();
        Clock::new(Moment {
            monotonic: now.monotonic.checked_sub(monotonic).unwrap(),
            boot: now.boot.map(|now| now.saturating_sub(boot)),
        })
    }

    #[test]
    fn the_beat_is_late_by_either_clock() {
        let (short, long) = (Duration::from_secs(1), LATE);
        assert!(since_boot().is_some(), "this machine has no /proc/uptime");
        assert!(ago(short, short).check().is_ok() && ago(short, short).check_quickly().is_ok());
        assert!(ago(long, short).check().is_err() && ago(long, short).check_quickly().is_err());
        assert!(ago(short, long).check().is_err(), "the machine was suspended");
    }
}
