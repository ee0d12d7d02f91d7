//! Keys and topics whose first row the broker refuses. Their rows wait; the first one is tried alone, with a growing delay.

use super::sender::Refusal;
use crate::store::{Beside, OutboxRow, Slices};
use crate::telemetry::{Board, Metrics, StuckRow};
use std::collections::HashMap;
use std::time::{Duration, Instant};

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// What waits together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    /// All rows of a topic.
    Topic(String),
    /// The rows of a key of a topic.
    Key(String, Vec<u8>),
    /// A row without a key: no other depends on it.
    Row(String, i64),
}

impl Target {
    pub(super) fn topic(&self) -> &str {
        match self {
            Self::Topic(topic) | Self::Key(topic, _) | Self::Row(topic, _) => topic,
        }
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        match self {
            Self::Key(_, key) => Some(key),
            _ => None,
        }
    }

    pub(super) fn row(&self) -> Option<i64> {
        match self {
            Self::Row(_, id) => Some(*id),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct State {
    /// Of the row that was refused last.
    slice: i16,
    failures: u32,
    next: Instant,
    /// The row that is on its way alone.
    probing: Option<i64>,
    /// The row on the board.
    shown: Option<i64>,
    since: String,
}

/// All that is blocked.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    targets: HashMap<Target, State>,
}

impl Blocked {
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    /// Blocks the row's key (or topic, or the row). `alone`: it was tried alone, so it is stuck and shown.
    pub(super) fn refused(&mut self, row: &OutboxRow, refusal: &Refusal, alone: bool, board: &Board, metrics: &Metrics) {
        self.again(row);
        let target = match (refusal.whole_topic, &row.key) {
            (true, _) => Target::Topic(row.topic.clone()),
            (false, Some(key)) => Target::Key(row.topic.clone(), key.clone()),
            (false, None) => Target::Row(row.topic.clone(), row.id),
        };
        if alone && !refusal.whole_topic {
            // The topic itself has answered: only this key is at fault.
            self.gone(&Target::Topic(row.topic.clone()), board, metrics);
        }
        let reason = refusal.reason.clone();
        let state = self.targets.entry(target).or_insert_with(|| State {
            slice: row.slice,
            failures: 0,
            next: Instant::now(),
            probing: None,
            shown: None,
            since: format!("{:.3}", jiff::Timestamp::now()),
        });
        (state.probing, state.slice) = (None, row.slice);
        if !alone {
            return;
        }
        state.failures += 1;
        let delay = (FIRST_DELAY * 2u32.saturating_pow(state.failures - 1)).min(LONGEST_DELAY);
        state.next = Instant::now() + delay;
        if state.failures == 1 {
            tracing::error!(
                id = row.id,
                topic = row.topic,
                reason,
                "an outbox row is stuck; the later ones of its key wait behind it"
            );
        }
        if let Some(last) = state.shown.replace(row.id).filter(|last| *last != row.id) {
            board.unstick(last);
        }
        board.stick(StuckRow {
            id: row.id,
            topic: row.topic.clone(),
            reason,
            since: state.since.clone(),
            failures: state.failures,
            retry_in_ms: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        });
        self.gauge(metrics);
    }

    /// The target whose first row is to be tried now, if nothing is being tried. A blocked topic speaks for its keys.
    pub(super) fn due(&self) -> Option<Target> {
        if self.targets.values().any(|state| state.probing.is_some()) {
            return None;
        }
        let now = Instant::now();
        let topic_blocked = |t: &Target| self.targets.contains_key(&Target::Topic(t.topic().to_owned()));
        let due = self.targets.iter().filter(|(t, s)| s.next <= now && (matches!(t, Target::Topic(_)) || !topic_blocked(t)));
        due.min_by_key(|(_, state)| state.next).map(|(target, _)| target.clone())
    }

    pub(super) fn probing(&mut self, target: &Target, id: i64) {
        if let Some(state) = self.targets.get_mut(target) {
            state.probing = Some(id);
        }
    }

    /// The row's try ended without a verdict.
    pub(super) fn again(&mut self, row: &OutboxRow) {
        for state in self.targets.values_mut().filter(|s| s.probing == Some(row.id)) {
            state.probing = None;
        }
    }

    /// The row has left: what waited behind it goes on.
    pub(super) fn left(&mut self, row: &OutboxRow, board: &Board, metrics: &Metrics) {
        self.release(|state| state.probing == Some(row.id), board, metrics);
    }

    /// Nothing of the target waits any more.
    pub(super) fn gone(&mut self, target: &Target, board: &Board, metrics: &Metrics) {
        if let Some(State { shown: Some(id), .. }) = self.targets.remove(target) {
            board.unstick(id);
        }
        self.gauge(metrics);
    }

    /// These slices are another relay's now; it finds out anew.
    pub(super) fn forget(&mut self, slices: Slices, board: &Board, metrics: &Metrics) {
        self.release(|state| slices.contains(state.slice), board, metrics);
    }

    /// The stuck rows.
    pub(super) fn shown(&self) -> Vec<i64> {
        self.targets.values().filter_map(|state| state.shown).collect()
    }

    /// A person has dealt with these stuck rows: what waits behind them is tried at once, and has its patience back.
    pub(super) fn dealt_with(&mut self, dealt: impl Fn(i64) -> bool) {
        for state in self.targets.values_mut().filter(|state| state.shown.is_some_and(&dealt)) {
            (state.failures, state.next) = (0, Instant::now());
        }
    }

    fn release(&mut self, which: impl Fn(&State) -> bool, board: &Board, metrics: &Metrics) {
        self.targets.retain(|_, state| {
            let leaves = which(state);
            if let (true, Some(id)) = (leaves, state.shown) {
                board.unstick(id);
            }
            !leaves
        });
        self.gauge(metrics);
    }

    fn gauge(&self, metrics: &Metrics) {
        metrics.outbox_stuck.set(self.targets.values().filter(|s| s.shown.is_some()).count() as i64);
    }

    /// Topics and keys that the flow leaves out.
    pub(super) fn beside(&self) -> Beside<'_> {
        let topics = self.targets.keys().filter(|t| matches!(t, Target::Topic(_))).map(Target::topic).collect();
        let (key_topics, keys) = self.targets.keys().filter_map(|t| Some((t.topic(), t.key()?))).unzip();
        Beside { topics, key_topics, keys }
    }

    /// The rows without a key that the flow leaves out.
    pub(super) fn rows(&self) -> impl Iterator<Item = i64> + '_ {
        self.targets.keys().filter_map(Target::row)
    }
}
