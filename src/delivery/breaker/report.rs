//! What an instance tells of its breaker.

use std::{sync::Arc, time::Duration};

use super::BreakerState;

/// The state as one instance reports it to another. It holds the time that is left, not a time of day, so that no two
/// clocks are compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerReport {
    /// The state.
    pub state: BreakerState,
    /// Why it is not closed.
    pub reason: Option<String>,
    /// How long it stays open; zero in the other states.
    pub remaining: Duration,
    /// Open, and only for the first of the failing branches: others may try.
    pub is_of_one: bool,
    /// Branches with requests that wait: [`super::MAX_REPORTED`] at most, those that most events wait for.
    pub failing: Vec<FailingBranch>,
    /// How many there are in all.
    pub failing_in_all: usize,
}

impl BreakerReport {
    /// That all is well.
    pub const fn closed() -> Self {
        Self {
            state: BreakerState::Closed,
            reason: None,
            remaining: Duration::ZERO,
            is_of_one: false,
            failing: Vec::new(),
            failing_in_all: 0,
        }
    }
}

/// A branch that the backend fails for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailingBranch {
    /// Its id.
    pub branch: Arc<str>,
    /// How long its requests wait.
    pub remaining: Duration,
    /// How long ago it began.
    pub since: Duration,
    /// How many of its events wait, in memory and parked, when they were counted last.
    pub waiting: u64,
    /// The code of the last failure, such as `BACKEND_500`. None if an instance of an earlier version reported the branch.
    pub code: Option<Arc<str>>,
}
