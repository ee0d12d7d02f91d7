//! Answers that were kept for an `Idempotency-Key` are forgotten when nobody gets them any more.

use crate::store::KeptAnswers;
use std::time::Duration;
use tokio::sync::watch;

/// How often this process looks.
const ROUND: Duration = Duration::from_secs(600);
/// How soon again if units were in the way, or the database is away.
const AGAIN: Duration = Duration::from_secs(20);

/// Forgets old answers until stopped.
pub async fn forget(answers: KeptAnswers, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        let wait = match answers.forget().await {
            Ok(forgot) => {
                if forgot {
                    tracing::info!("the answers of the day before yesterday, kept for their Idempotency-Key, are forgotten");
                }
                ROUND
            }
            Err(error) => {
                tracing::debug!(%error, "old answers are not forgotten yet");
                AGAIN
            }
        };
        let _ = tokio::time::timeout(wait, stop.changed()).await;
    }
}
