//! The circuit breaker of a group: when many distinct keys fail on one revision, the revision is at fault, not the events. The group then pauses
//! with an alarm instead of emptying its topic into dead letters (promise 8), and tries some of its next events without keeping anything, until
//! half of them succeed or another revision is active.

use crate::telemetry::{Board, lock};
use std::collections::hash_map::DefaultHasher;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How many of the last events are looked at.
const WINDOW: usize = 100;
/// So many distinct keys must have failed, and at least half of the events.
const KEYS: usize = 10;
const FIRST_PROBE: Duration = Duration::from_secs(2);
const LONGEST_PROBE: Duration = Duration::from_secs(60);

/// The breaker of one group in this process.
#[derive(Debug)]
pub(super) struct Breaker {
    group: Arc<str>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The revision that the window is about.
    revision: String,
    /// The last events: the hash of a key that failed, or none for one that did not.
    window: VecDeque<Option<u64>>,
    open: Option<Open>,
    /// How many partitions of the group this process works on.
    workers: usize,
}

#[derive(Debug)]
struct Open {
    next_probe: Instant,
    wait: Duration,
    since: String,
    reason: String,
}

/// What somebody who waits at an open breaker may do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is shut: go on.
    Go,
    /// Try some events, and say how they did.
    Probe,
    /// Ask again after this long.
    Wait(Duration),
}

impl Breaker {
    pub(super) fn new(group: Arc<str>) -> Self {
        Self { group, state: Mutex::default() }
    }

    /// A worker of the group begins here.
    pub(super) fn enter(&self) {
        lock(&self.state).workers += 1;
    }

    /// A worker ends. Without one nobody here would try whether events succeed again: what was seen is forgotten, for others to see. Returns the
    /// revision that the group had stopped on here, then.
    pub(super) fn leave(&self, board: &Board) -> Option<String> {
        let mut state = lock(&self.state);
        state.workers -= 1;
        if state.workers > 0 {
            return None;
        }
        board.close_breaker(&self.group);
        let State { revision, open, .. } = std::mem::take(&mut *state);
        open.map(|_| revision)
    }

    /// Events of this revision were handled.
    pub(super) fn succeeded(&self, revision: &str, count: usize) {
        let mut state = self.state(revision);
        for _ in 0..count.min(WINDOW) {
            state.push(None);
        }
    }

    /// An event failed alone. True if the group pauses now: then the failure does not count.
    pub(super) fn failed(&self, revision: &str, key: &[u8], reason: &str) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let mut state = self.state(revision);
        state.push(Some(hasher.finish()));
        if state.open.is_none() && state.broken() {
            let since = jiff::Timestamp::now().to_string();
            tracing::error!(
                group = &*self.group,
                revision,
                reason,
                "many distinct keys fail on this revision: the group pauses instead of giving its events up"
            );
            state.open =
                Some(Open { next_probe: Instant::now() + FIRST_PROBE, wait: FIRST_PROBE, since, reason: reason.to_owned() });
        }
        state.open.is_some()
    }

    /// Whether the group is paused on this revision.
    pub(super) fn is_open(&self, revision: &str) -> bool {
        self.state(revision).open.is_some()
    }

    /// Whose turn it is. One who is told to probe reports with [`Breaker::probed`].
    pub(super) fn turn(&self, revision: &str) -> Turn {
        let mut state = self.state(revision);
        let Some(open) = &mut state.open else { return Turn::Go };
        let now = Instant::now();
        if now < open.next_probe {
            return Turn::Wait((open.next_probe - now).min(Duration::from_millis(500)));
        }
        open.wait = (open.wait * 2).min(LONGEST_PROBE);
        open.next_probe = now + open.wait;
        Turn::Probe
    }

    /// How a probe went: half of the events must succeed for the group to go on. One that tried none gives its turn back, to somebody whose events
    /// would really run.
    pub(super) fn probed(&self, revision: &str, succeeded: usize, tried: usize) {
        let mut state = self.state(revision);
        if let (0, Some(open)) = (tried, &mut state.open) {
            open.wait = (open.wait / 2).max(FIRST_PROBE);
            open.next_probe = Instant::now();
        }
        if tried > 0 && succeeded * 2 >= tried && state.open.take().is_some() {
            state.window.clear();
            tracing::info!(group = &*self.group, revision, "events succeed again: the group goes on");
        }
    }

    /// Says on the board whether the group is paused.
    pub(super) fn show(&self, revision: &str, board: &Board) {
        match &self.state(revision).open {
            None => board.close_breaker(&self.group),
            Some(open) => board.open_breaker(crate::telemetry::OpenBreaker {
                group: self.group.to_string(),
                revision: revision.to_owned(),
                since: open.since.clone(),
                reason: format!(
                    "many distinct keys fail on revision {revision}: {}. The group tries some events now and then and goes on when half of \
                     them succeed, or with another revision; nothing is given up meanwhile",
                    open.reason
                ),
            }),
        }
    }

    fn state(&self, revision: &str) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        if state.revision != revision {
            *state = State { revision: revision.to_owned(), workers: state.workers, ..State::default() };
        }
        state
    }
}

impl State {
    fn push(&mut self, event: Option<u64>) {
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(event);
    }

    fn broken(&self) -> bool {
        let failed: Vec<u64> = self.window.iter().flatten().copied().collect();
        failed.len() * 2 >= self.window.len() && failed.iter().collect::<HashSet<_>>().len() >= KEYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Breaker {
        Breaker::new("group".into())
    }

    #[test]
    fn c08_many_distinct_keys_open_it_and_another_revision_starts_anew() {
        let breaker = breaker();
        let opened: Vec<bool> = (0..KEYS).map(|key| breaker.failed("a", &key.to_be_bytes(), "trap")).collect();
        assert_eq!(opened.iter().filter(|open| **open).count(), 1);
        assert!(breaker.is_open("a"));
        assert!(matches!(breaker.turn("a"), Turn::Wait(_)));
        assert_eq!(breaker.turn("b"), Turn::Go);
    }

    #[test]
    fn c08_one_poisoned_key_among_many_does_not_open_it() {
        let breaker = breaker();
        for _ in 0..1_000 {
            assert!(!breaker.failed("a", b"poison", "trap"));
        }
        let breaker = self::breaker();
        for key in 0..1_000_u32 {
            breaker.succeeded("a", 2);
            assert!(!breaker.failed("a", &key.to_be_bytes(), "trap"), "a third of the events fails");
        }
    }

    #[test]
    fn without_a_partition_it_is_shut() {
        let (breaker, board) = (breaker(), Board::default());
        breaker.enter();
        breaker.enter();
        for key in 0..KEYS {
            breaker.failed("a", &key.to_be_bytes(), "trap");
        }
        breaker.show("a", &board);
        assert_eq!(breaker.leave(&board), None);
        assert!(breaker.is_open("a"));
        assert_eq!(board.breakers().len(), 1);
        assert_eq!(breaker.leave(&board), Some("a".to_owned()));
        assert!(!breaker.is_open("a"));
        assert!(board.breakers().is_empty());
    }

    #[test]
    fn half_of_a_probe_must_succeed() {
        let breaker = breaker();
        for key in 0..KEYS {
            breaker.failed("a", &key.to_be_bytes(), "trap");
        }
        breaker.probed("a", 4, 10);
        assert!(breaker.is_open("a"));
        assert!(matches!(breaker.turn("a"), Turn::Wait(_)));
        breaker.probed("a", 0, 0);
        assert!(breaker.is_open("a"));
        assert_eq!(breaker.turn("a"), Turn::Probe, "nothing was tried, so the turn is free again");
        assert!(matches!(breaker.turn("a"), Turn::Wait(_)));
        breaker.probed("a", 5, 10);
        assert!(!breaker.is_open("a"));
    }
}
