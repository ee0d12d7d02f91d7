//! Whether this process may work: its heartbeat is in time, and it has loaded what is active.
//!
//! Others go on without a replica whose heartbeat is too old, so one that was frozen or cut off must not finish what it began before: work
//! belongs to a term, and a term ends when the heartbeat was late. Time is measured from the moment at which a heartbeat was *begun*, on this
//! machine's monotonic clock: that is never later than what the database wrote.

use super::OWN_LIMIT;
use crate::telemetry::lock;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// This process's heartbeat, as all of its parts see it.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    /// When the last heartbeat that arrived was begun: milliseconds since `origin`.
    last: AtomicU64,
    /// Whether any has arrived: before that the replica is not known to anybody.
    known: AtomicBool,
    term: AtomicU64,
    serving: AtomicBool,
    /// Taken by who changes the term, or whether it serves.
    turn: Mutex<()>,
    /// Not part of a fleet: always in time.
    steady: bool,
    changed: watch::Sender<()>,
}

/// The time between two losses of the heartbeat; work that began in one ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(u64);

impl Pulse {
    /// Of a replica that has not loaded anything yet.
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            last: AtomicU64::new(0),
            known: AtomicBool::new(false),
            term: AtomicU64::new(0),
            serving: AtomicBool::new(false),
            turn: Mutex::new(()),
            steady: false,
            changed: watch::Sender::new(()),
        }
    }

    /// Of an engine that belongs to no fleet, as in tests of handlers.
    pub fn steady() -> Self {
        Self { steady: true, serving: AtomicBool::new(true), ..Self::new() }
    }

    /// The current term, if work may begin now; else why not.
    pub fn term(&self) -> Result<Term, String> {
        self.in_time()?;
        let term = self.term.load(Ordering::SeqCst);
        match self.serving.load(Ordering::SeqCst) {
            true => Ok(Term(term)),
            false => Err("this replica has not loaded yet what is active".to_owned()),
        }
    }

    /// Whether work that began in `term` may still be kept; else why not.
    pub fn still(&self, term: Term) -> Result<(), String> {
        // The time first: a new heartbeat is noted after the new term is.
        self.in_time()?;
        match self.term.load(Ordering::SeqCst) == term.0 {
            true => Ok(()),
            false => Err("this replica's heartbeat was late while this ran, so others may have gone on without it".to_owned()),
        }
    }

    /// Whether others may have gone on without this replica; it has to register (again) then.
    pub fn is_late(&self) -> bool {
        self.in_time().is_err()
    }

    fn in_time(&self) -> Result<(), String> {
        let late = self.lateness();
        match (self.steady, self.known.load(Ordering::SeqCst)) {
            (true, _) => Ok(()),
            (false, false) => Err("this replica has not written a heartbeat yet".to_owned()),
            (false, true) if late <= OWN_LIMIT => Ok(()),
            _ => Err(format!("this replica could not write its heartbeat for {:.1} s", late.as_secs_f64())),
        }
    }

    fn lateness(&self) -> Duration {
        let now = u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(now.saturating_sub(self.last.load(Ordering::SeqCst)))
    }

    /// A heartbeat has arrived that was begun at `begun`, as a registration or not. True if others may have gone on without this replica before
    /// it: what is active has to be loaded anew.
    pub fn beaten(&self, begun: Instant, registered: bool) -> bool {
        let begun = u64::try_from(begun.saturating_duration_since(self.origin).as_millis()).unwrap_or(u64::MAX);
        let before = self.last.load(Ordering::SeqCst);
        let unknown = !self.known.load(Ordering::SeqCst);
        let lost = unknown || registered || Duration::from_millis(begun.saturating_sub(before)) > OWN_LIMIT;
        {
            let _turn = lock(&self.turn);
            if lost {
                self.serving.store(false, Ordering::SeqCst);
                self.term.fetch_add(1, Ordering::SeqCst);
            }
            self.last.fetch_max(begun, Ordering::SeqCst);
            self.known.store(true, Ordering::SeqCst);
        }
        self.changed.send_replace(());
        lost
    }

    /// The current term, for who begins to load what is active.
    pub fn current(&self) -> Term {
        Term(self.term.load(Ordering::SeqCst))
    }

    /// What is active is loaded, as it was read in this term. False if that is over, or has not begun: it has to be read again.
    pub fn loaded(&self, term: Term) -> bool {
        let holds = {
            let _turn = lock(&self.turn);
            let holds = self.known.load(Ordering::SeqCst) && self.term.load(Ordering::SeqCst) == term.0;
            self.serving.fetch_or(holds, Ordering::SeqCst);
            holds
        };
        self.changed.send_replace(());
        holds
    }

    /// What is active can't be loaded: nothing begins until it is.
    pub fn lose(&self) {
        self.serving.store(false, Ordering::SeqCst);
    }

    /// Waits until work may begin.
    pub async fn alive(&self) {
        let mut changed = self.changed.subscribe();
        while self.term().is_err() {
            // The sender lives as long as the pulse.
            let _ = changed.changed().await;
        }
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pulse whose process is so old.
    fn aged(age: Duration) -> Pulse {
        Pulse { origin: Instant::now().checked_sub(age).unwrap(), ..Pulse::new() }
    }

    #[test]
    fn c18_a_late_heartbeat_ends_the_term_and_nothing_begins_before_loading() {
        let pulse = Pulse::new();
        assert!(pulse.term().is_err() && pulse.is_late(), "young, and without a heartbeat: nobody knows it yet");
        assert!(!pulse.loaded(pulse.current()), "what is read before it is registered does not count");
        let pulse = aged(Duration::from_secs(60));
        assert!(pulse.term().is_err(), "no heartbeat at all");
        assert!(pulse.beaten(Instant::now(), false), "the first one");
        assert!(pulse.term().unwrap_err().contains("not loaded"));
        pulse.loaded(pulse.current());
        let term = pulse.term().unwrap();
        assert!(!pulse.beaten(Instant::now(), false) && !pulse.is_late());
        assert_eq!(pulse.still(term), Ok(()));
        assert!(pulse.beaten(Instant::now(), true), "the others did not count it for a while, whatever its own clock says");
        assert!(pulse.still(term).is_err() && pulse.term().is_err());
        pulse.loaded(pulse.current());
        let term = pulse.term().unwrap();

        let pulse = Pulse { last: AtomicU64::new(50_000), ..pulse };
        assert!(pulse.still(term).unwrap_err().contains("heartbeat"), "late by itself, before anybody notices");
        assert!(pulse.beaten(Instant::now(), false), "the heartbeat comes back");
        assert!(pulse.still(term).is_err(), "what began before is not kept");
        assert!(pulse.term().is_err(), "nothing begins before what is active is loaded");
        assert!(!pulse.loaded(term));
        assert!(pulse.term().is_err(), "what was read in a term that is over is not loaded");
        pulse.loaded(pulse.current());
        assert!(pulse.term().is_ok() && pulse.still(term).is_err());
    }

    #[test]
    fn an_engine_without_a_fleet_is_always_in_time() {
        let pulse = Pulse { origin: Instant::now().checked_sub(Duration::from_secs(60)).unwrap(), ..Pulse::steady() };
        let term = pulse.term().unwrap();
        assert_eq!(pulse.still(term), Ok(()));
    }
}
