//! Where the lease and the flight agree on who may send what: a slice is unlocked only after the flight has let go of it.

use crate::store::Slices;
use crate::telemetry::lock;
use std::sync::Mutex;
use tokio::sync::Notify;

/// The lease wants slices worked on; the flight takes them up and lets go of them when nothing of theirs is on its way.
#[derive(Debug, Default)]
pub(super) struct Desk {
    state: Mutex<State>,
    for_lease: Notify,
    for_flight: Notify,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    wanted: Slices,
    /// What the flight may have on its way.
    active: Slices,
}

impl Desk {
    /// The lease: from now on these are to be worked on, and no others.
    pub(super) fn want(&self, wanted: Slices) {
        let before = std::mem::replace(&mut lock(&self.state).wanted, wanted);
        if before != wanted {
            self.for_flight.notify_one();
        }
    }

    /// What is to be worked on.
    pub(super) fn wanted(&self) -> Slices {
        lock(&self.state).wanted
    }

    /// The flight: takes up what is wanted. Returns that, and what it still has to let go of.
    pub(super) fn take_up(&self) -> (Slices, Slices) {
        let mut state = lock(&self.state);
        state.active = state.active.with(state.wanted);
        (state.wanted, state.active.without(state.wanted))
    }

    /// The flight: nothing of these slices is on its way any more.
    pub(super) fn let_go(&self, slices: Slices) {
        let mut state = lock(&self.state);
        state.active = state.active.without(slices);
        drop(state);
        self.for_lease.notify_one();
    }

    /// The lease: what of these slices may be unlocked.
    pub(super) fn done(&self, slices: Slices) -> Slices {
        let state = lock(&self.state);
        slices.without(state.wanted).without(state.active)
    }

    /// The lease waits here for the flight.
    pub(super) async fn flight_moved(&self) {
        self.for_lease.notified().await;
    }

    /// The flight waits here for the lease.
    pub(super) async fn lease_moved(&self) {
        self.for_flight.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_done_only_after_the_flight_has_let_go() {
        let (desk, two, one) = (Desk::default(), [3, 4].into_iter().collect::<Slices>(), [4].into_iter().collect());
        desk.want(two);
        assert_eq!(desk.take_up(), (two, Slices::default()));
        desk.want(one);
        let leaving = two.without(one);
        assert_eq!(desk.done(two), Slices::default());
        assert_eq!(desk.take_up(), (one, leaving));
        desk.let_go(leaving);
        assert_eq!(desk.done(two), leaving);
        // Wanted again before it was unlocked.
        desk.want(two);
        assert_eq!(desk.done(two), Slices::default());
        assert_eq!(desk.take_up(), (two, Slices::default()));
    }
}
