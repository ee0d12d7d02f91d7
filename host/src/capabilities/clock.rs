//! How long a guest has computed. Counted in ticks of the engine's epoch, and not while it waits for the host: a guest with many slow
//! statements has not computed for long.

use std::time::{Duration, Instant};

/// The time that one guest has computed.
#[derive(Debug)]
pub struct GuestClock {
    tick: Duration,
    since: Instant,
    /// What short stretches between calls add up to.
    rest: Duration,
    ticks: u64,
}

impl GuestClock {
    /// A clock that runs, with the length of a tick.
    pub fn new(tick: Duration) -> Self {
        Self { tick, since: Instant::now(), rest: Duration::ZERO, ticks: 0 }
    }

    /// An epoch has passed while the guest computed. One that came back from the host a moment ago has computed for that moment only.
    pub fn tick(&mut self) {
        if self.since.elapsed() >= self.tick / 2 {
            self.ticks += 1;
            self.since = Instant::now();
        }
    }

    /// The guest waits for the host from now on.
    pub fn pause(&mut self) {
        // Longer stretches are counted by their ticks.
        self.rest += self.since.elapsed().min(self.tick);
        if self.rest >= self.tick {
            self.rest -= self.tick;
            self.ticks += 1;
        }
    }

    /// The guest computes again.
    pub fn resume(&mut self) {
        self.since = Instant::now();
    }

    /// The ticks that it has computed.
    pub fn ticks(&self) -> u64 {
        self.ticks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c16_waiting_for_the_host_is_not_computing_and_short_stretches_add_up() {
        let mut clock = GuestClock::new(Duration::from_secs(3_600));
        for _ in 0..1_000 {
            clock.pause();
            clock.resume();
            // The epoch that passed while the host worked.
            clock.tick();
        }
        assert_eq!(clock.ticks(), 0, "{clock:?}");
        let mut clock = GuestClock::new(Duration::from_millis(2));
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            clock.pause();
            clock.resume();
        }
        assert!(clock.ticks() >= 9, "{clock:?}");
    }
}
