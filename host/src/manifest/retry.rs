//! What happens to an event that a handler fails.

use super::reader::Section;
use crate::config::units::parse_duration;
use std::time::Duration;

/// `[retry]` of a manifest: when an event that failed runs again, and how many may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// `retries`: attempts after the first, 0 to 100. Then the event is a dead letter.
    pub retries: u32,
    /// `delay`: the wait before the first of them.
    pub delay: Duration,
    /// `factor`: how much longer each further wait is, 1 to 10.
    pub factor: u32,
    /// `max_delay`: the longest wait.
    pub max_delay: Duration,
    /// `jitter`: how much of a wait is random on top, in percent, 0 to 100.
    pub jitter: u32,
    /// `waiting_per_key`: how many events of one key may wait. What comes beyond is a dead letter of the class `waiting-cap`.
    pub waiting_per_key: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            retries: 3,
            delay: Duration::from_secs(1),
            factor: 2,
            max_delay: Duration::from_secs(600),
            jitter: 10,
            waiting_per_key: 10_000,
        }
    }
}

impl Retry {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let d = Self::default();
        let mut time = |key| section.text(key, parse_duration);
        let (delay, max_delay) = (time("delay").unwrap_or(d.delay), time("max_delay"));
        let mut count =
            |key, range, default| section.number(key, range).and_then(|number| u32::try_from(number).ok()).unwrap_or(default);
        let retry = Self {
            retries: count("retries", 0..=100, d.retries),
            factor: count("factor", 1..=10, d.factor),
            jitter: count("jitter", 0..=100, d.jitter),
            waiting_per_key: section.number("waiting_per_key", 1..=1_000_000).unwrap_or(d.waiting_per_key),
            delay,
            max_delay: max_delay.unwrap_or(d.max_delay.max(delay)),
        };
        if retry.max_delay < retry.delay {
            section.problem(format!("[retry]: `max_delay` ({:?}) is shorter than `delay` ({:?})", retry.max_delay, retry.delay));
        }
        retry
    }

    /// The wait after the failed attempt with this number (from 1), without jitter; `None` if there is no further attempt.
    pub fn wait(&self, attempt: u32) -> Option<Duration> {
        if attempt > self.retries {
            return None;
        }
        let factor = u64::from(self.factor).saturating_pow(attempt.saturating_sub(1));
        let wait = self.delay.checked_mul(u32::try_from(factor).unwrap_or(u32::MAX));
        Some(wait.unwrap_or(self.max_delay).min(self.max_delay))
    }

    /// The same with jitter on top; `random` is evenly distributed over all of u64.
    pub fn jittered(&self, attempt: u32, random: u64) -> Option<Duration> {
        let wait = self.wait(attempt)?;
        let share = (random as f64 / u64::MAX as f64) * f64::from(self.jitter) / 100.0;
        Some(wait + wait.mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c08_the_default_waits_are_one_two_and_four_seconds_with_up_to_a_tenth_on_top() {
        let retry = Retry::default();
        let waits: Vec<_> = (1..=5).map(|attempt| retry.wait(attempt).map(|wait| wait.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(4), None, None]);
        assert_eq!(retry.jittered(3, 0), Some(Duration::from_secs(4)));
        assert_eq!(retry.jittered(3, u64::MAX), Some(Duration::from_millis(4_400)));
    }

    #[test]
    fn a_wait_never_exceeds_the_longest() {
        let retry = Retry { retries: 100, factor: 10, ..Retry::default() };
        assert_eq!(retry.wait(100), Some(retry.max_delay));
    }
}
