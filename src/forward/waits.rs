//! Failures that say that an event waits, and nothing of the event.

use std::time::Duration;

use crate::{
    event::Recorded,
    retry::{Failure, spread},
};

/// How long an event waits where the log does not say what was before it.
const LOG_AWAY: Duration = Duration::from_secs(1);
/// How long an event is parked at least while the trials of its branch are under way, or its requests hang.
const TRIALS_TAKE: Duration = Duration::from_secs(5);

/// The branch that the backend may fail for alone.
pub(super) fn branch_of(event: &Recorded) -> &str {
    event.envelope.branch_or_provider()
}

/// The backend fails for the event's branch: its requests wait so long, or for the end of those that are under way.
pub(super) fn of_branch(event: &Recorded, wait: Duration) -> Failure {
    let parked = wait.max(TRIALS_TAKE);
    Failure::OfBranch {
        after: wait,
        // What is parked comes back over time.
        parked: parked + spread(parked, 1, event.run_id()),
    }
}

pub(super) fn cannot_see(error: &anyhow::Error) -> Failure {
    tracing::warn!(
        error = format!("{error:#}"),
        "cannot read the earlier events of an order, trying again"
    );
    later(LOG_AWAY)
}

/// Nothing was tried; it is looked at again after so long.
const fn later(after: Duration) -> Failure {
    Failure::Later {
        after,
        for_creation: false,
    }
}
