//! What the operator sees: metrics for `/metrics`, and the board of things that wait for a person (`/readyz`).
//!
//! This room is at the bottom: everything may write to it, it reads nothing.

mod board;
mod metrics;

pub use board::{Board, OpenBreaker, PausedPartition, StuckRow};
pub use metrics::{FailureLabels, GroupLabels, HandlerLabels, HttpLabels, Metrics, OutcomeLabels, PartitionLabels, TopicLabels};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex whose data stays valid even if a holder panicked.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
