//! How the trigger of jobs hears of what the units of this process schedule. Times are the jobs' own, microseconds since 1970: they are
//! compared with each other and never with this machine's clock.

use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::Notify;

/// The bell.
#[derive(Debug)]
pub struct JobsBell {
    /// The earliest time that was rung for since the last [`JobsBell::take`].
    earliest: AtomicI64,
    /// The time that the trigger will wake for by itself.
    planned: AtomicI64,
    rung: Notify,
}

impl Default for JobsBell {
    fn default() -> Self {
        Self { earliest: AtomicI64::new(i64::MAX), planned: AtomicI64::new(i64::MAX), rung: Notify::new() }
    }
}

impl JobsBell {
    /// A unit has committed whose earliest job is due at `due`. Wakes the trigger if that is before what it waits for.
    pub fn ring(&self, due: i64) {
        self.earliest.fetch_min(due, Ordering::SeqCst);
        if due < self.planned.load(Ordering::SeqCst) {
            self.rung.notify_one();
        }
    }

    /// The earliest time that was rung for since the last call. From now on every ring wakes, until [`JobsBell::plan`].
    pub fn take(&self) -> Option<i64> {
        self.planned.store(i64::MAX, Ordering::SeqCst);
        Some(self.earliest.swap(i64::MAX, Ordering::SeqCst)).filter(|due| *due < i64::MAX)
    }

    /// The trigger wakes by itself at `due` or before; none: nothing waits.
    pub fn plan(&self, due: Option<i64>) {
        self.planned.store(due.unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Resolves when there is an earlier job than was planned for.
    pub async fn heard(&self) {
        self.rung.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn only_what_is_due_before_the_plan_wakes_and_nothing_is_forgotten() {
        let bell = JobsBell::default();
        let hears = async || tokio::time::timeout(Duration::from_millis(20), bell.heard()).await.is_ok();
        bell.plan(Some(100));
        bell.ring(150);
        assert!(!hears().await, "it is not due before the plan");
        bell.ring(50);
        assert!(hears().await);
        assert_eq!(bell.take(), Some(50));
        assert_eq!(bell.take(), None);
        // Between the look and the plan, any job may be the next.
        bell.ring(900);
        assert!(hears().await);
        bell.plan(Some(100));
        bell.ring(200);
        assert_eq!(bell.take(), Some(200));
    }
}
