//! How live relays share the slices: by their places, without a word to each other.

use crate::store::{Census, Slices};

/// What a relay does about its slices now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Locked ones to work on; the others are given up.
    pub(super) keep: Slices,
    /// Free ones to try for.
    pub(super) take: Slices,
}

/// The share of the relay in place `rank` of `relays`: alike but for one, all of them together exactly everything.
pub(super) fn share(relays: usize, rank: usize) -> usize {
    let relays = relays.max(1);
    Slices::COUNT / relays + usize::from(rank < Slices::COUNT % relays)
}

/// Keeps what is worked on already, as far as the share goes, and tries for what is missing.
pub(super) fn plan(census: &Census, wanted: Slices, share: usize) -> Plan {
    let at_work = census.mine.iter().filter(|slice| wanted.contains(*slice));
    let leaving = census.mine.without(wanted);
    let keep: Slices = at_work.chain(leaving.iter()).take(share).collect();
    // Beginning in different places, relays seldom try for the same one.
    let begin = census.rank * Slices::COUNT / census.relays.max(1);
    let (before, behind): (Vec<i16>, Vec<i16>) = census.free.iter().partition(|slice| (*slice as usize) < begin);
    let take = behind.into_iter().chain(before).take(share.saturating_sub(keep.len())).collect();
    Plan { keep, take }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_alike_and_add_up() {
        for relays in 1..=12 {
            let shares: Vec<usize> = (0..relays).map(|rank| share(relays, rank)).collect();
            assert_eq!(shares.iter().sum::<usize>(), Slices::COUNT, "{shares:?}");
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
    }

    /// Relays that look around in turn, each after what the ones before it did; what is given up is free at once.
    fn round(holds: &mut [Slices]) {
        for rank in 0..holds.len() {
            let locked = holds.iter().fold(Slices::default(), |all, one| all.with(*one));
            let census = Census { relays: holds.len(), rank, mine: holds[rank], free: Slices::ALL.without(locked) };
            let plan = plan(&census, holds[rank], share(holds.len(), rank));
            assert!(plan.take.without(census.free).is_empty() && plan.keep.without(census.mine).is_empty());
            holds[rank] = plan.keep.with(plan.take);
        }
    }

    #[test]
    fn relays_that_come_and_go_end_at_even_shares_in_two_rounds() {
        let mut holds = vec![Slices::default()];
        for relays in [1, 2, 3, 5, 9, 4, 3, 1, 8, 2] {
            holds.resize(relays, Slices::default());
            round(&mut holds);
            round(&mut holds);
            let shares: Vec<usize> = holds.iter().map(|own| own.len()).collect();
            let expected: Vec<usize> = (0..relays).map(|rank| share(relays, rank)).collect();
            assert_eq!(shares, expected);
        }
    }

    #[test]
    fn what_is_worked_on_is_kept_first() {
        let mine: Slices = [0, 1, 2, 3].into_iter().collect();
        let wanted: Slices = [2, 3].into_iter().collect();
        let census = Census { relays: 4, rank: 0, mine, free: Slices::default() };
        assert_eq!(plan(&census, wanted, 2), Plan { keep: wanted, take: Slices::default() });
    }
}
