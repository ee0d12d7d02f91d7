//! From which time on to look for due jobs, and when to look again.
//!
//! What has fired leaves dead entries at the low end of the index, and while some old snapshot is held, every look from the very beginning
//! steps over all of them. So looks begin where the last one found something left, and if it found nothing due, a little before now. What
//! could be due before that? A job that a unit of this process has scheduled: the bell says so. One that another process has scheduled for
//! the past and did not fire because it ended: a sweep finds it. And one whose unit took long to commit: a look back finds it.

use crate::store::Fired;
use std::time::{Duration, Instant};

/// How far before now a look begins, in microseconds.
const MARGIN: i64 = 5 * 1_000_000;
/// How often a look goes back that far while there is more to do than one batch.
const BACK: Duration = Duration::from_secs(1);
/// How often everything is looked at.
const SWEEP: Duration = Duration::from_secs(30);
/// The longest sleep: other replicas schedule as well, and may end before they fire.
const POLL: Duration = Duration::from_secs(1);
/// The shortest: what is due may be in somebody else's hands for a moment.
const REST: Duration = Duration::from_millis(10);
/// It doubles so often while that goes on: to 160 ms.
const LONGEST_REST: u32 = 4;

/// Where the next look begins. The first one begins at the beginning.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// Microseconds since 1970; none: at the beginning.
    since: Option<i64>,
    /// The database's time at the last look, less the margin.
    back: Option<i64>,
    swept: Option<Instant>,
    looked_back: Option<Instant>,
    /// So many looks in a row found something due in somebody else's hands, and nothing to fire.
    in_vain: u32,
}

impl Look {
    /// The time to look from; `rung` is the earliest one that was scheduled here meanwhile.
    pub(super) fn since(&mut self, now: Instant, rung: Option<i64>) -> Option<i64> {
        let older = |then: Option<Instant>, age| then.is_none_or(|then| now.duration_since(then) >= age);
        if older(self.swept, SWEEP) {
            (self.swept, self.looked_back) = (Some(now), Some(now));
            return None;
        }
        let mut since = self.since?;
        if older(self.looked_back, BACK) {
            self.looked_back = Some(now);
            since = since.min(self.back.unwrap_or(since));
        }
        Some(since.min(rung.unwrap_or(i64::MAX)))
    }

    /// Takes in what a look has found, and says how long to sleep.
    pub(super) fn after(&mut self, fired: &Fired, repeated: bool) -> Duration {
        let back = fired.moment.saturating_sub(MARGIN);
        self.back = Some(back);
        let due = fired.next_single.filter(|next| *next <= fired.moment);
        self.since = Some(due.unwrap_or(back));
        // What is left is not for want of looking: a batch ends where it is large enough.
        if repeated || due.is_some() && !fired.late.is_empty() {
            self.in_vain = 0;
            return Duration::ZERO;
        }
        let next = [fired.next_single, fired.next_repeating].into_iter().flatten().min();
        let wait = next.map_or(POLL, |next| Duration::from_micros(u64::try_from(next - fired.moment).unwrap_or(0)));
        if !wait.is_zero() {
            self.in_vain = 0;
            return wait.clamp(REST, POLL);
        }
        // Somebody else has it: a unit that has changed a job may be open for seconds.
        let rest = REST * 2u32.pow(self.in_vain);
        self.in_vain = (self.in_vain + 1).min(LONGEST_REST);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    fn fired(count: usize, next_single: Option<i64>) -> Fired {
        Fired { late: vec![0.0; count], moment: 100 * SECOND, next_single, next_repeating: None }
    }

    #[test]
    fn c13_a_look_begins_where_something_is_left_and_never_far_ahead_of_now() {
        let (mut look, start) = (Look::default(), Instant::now());
        assert_eq!(look.since(start, None), None, "the first look is a sweep");
        assert_eq!(look.after(&fired(1_000, Some(90 * SECOND)), false), Duration::ZERO, "a full batch, and more is due");
        assert_eq!(look.since(start, None), Some(90 * SECOND));
        assert_eq!(look.since(start, Some(7)), Some(7), "scheduled here, due before");
        look.after(&fired(10, Some(5_000 * SECOND)), false);
        assert_eq!(look.since(start, None), Some(95 * SECOND), "what others schedule for soon is not missed");
        assert_eq!(look.since(start + SWEEP, None), None);
    }

    #[test]
    fn c13_a_look_back_finds_what_a_slow_unit_committed_behind_the_others() {
        let (mut look, start) = (Look::default(), Instant::now());
        look.since(start, None);
        look.after(&fired(1_000, Some(99 * SECOND)), false);
        assert_eq!(look.since(start, None), Some(99 * SECOND));
        assert_eq!(look.since(start + BACK, None), Some(95 * SECOND));
        assert_eq!(look.since(start + BACK, None), Some(99 * SECOND));
    }

    #[test]
    fn c13_the_sleep_ends_with_the_next_job_and_never_spins() {
        let mut look = Look::default();
        assert_eq!(look.after(&fired(0, None), false), POLL);
        assert_eq!(look.after(&fired(0, Some(100 * SECOND + 200_000)), false), Duration::from_millis(200));
        let rests = [10, 20, 40, 80, 160, 160].map(Duration::from_millis);
        assert_eq!(rests.map(|_| look.after(&fired(0, Some(99 * SECOND)), false)), rests, "due, but somebody else has it");
        assert_eq!(look.after(&fired(1, Some(99 * SECOND)), false), Duration::ZERO);
        assert_eq!(look.after(&fired(0, Some(99 * SECOND)), false), REST);
        // Not due yet: nobody has it in hand.
        assert_eq!([1, 2].map(|_| look.after(&fired(0, Some(100 * SECOND + 5_000)), false)), [REST, REST]);
        let repeating = Fired { next_repeating: Some(100 * SECOND + 300_000), ..fired(0, None) };
        assert_eq!(look.after(&repeating, false), Duration::from_millis(300));
    }
}
