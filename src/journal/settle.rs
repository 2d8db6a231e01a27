//! What becomes of a message after a stage has handled it. Pure: no clock, no I/O.

use std::time::Duration;

use crate::event::NewEvent;

/// How a stage could not handle an event.
#[derive(Debug)]
pub enum Failure {
    /// It may work later; counts as an attempt.
    Retry {
        /// Not before this long from now, where somebody asked for that (`Retry-After`).
        after: Option<Duration>,
        /// What went wrong, for the log.
        cause: String,
        /// What is to be recorded about this attempt.
        record: Vec<NewEvent>,
    },
    /// Not the event's fault and no attempt: the breaker is open, the set-up is wrong, the hub is going down.
    Hold {
        /// Why.
        cause: String,
    },
}

/// What the runner does with the message, after the events are on the log.
#[derive(Debug)]
pub enum Settlement {
    /// Its outcome is recorded: acknowledge it.
    Done(Vec<NewEvent>),
    /// Try again after this long; later events of the same order wait meanwhile, and nothing else does.
    Again(Vec<NewEvent>, Duration),
    /// Try again when the stage is ready.
    Hold,
}

/// Pauses before the quick attempts.
const QUICK: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// Longest pause between two attempts, for the event is held in memory meanwhile.
pub const MAX_PAUSE: Duration = Duration::from_secs(10);

/// The pause after an attempt that failed, the first being 1.
pub fn pause(attempt: u32, asked_for: Option<Duration>) -> Duration {
    let index = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    let regular = QUICK.get(index).copied().unwrap_or(MAX_PAUSE);
    regular.max(asked_for.unwrap_or_default()).min(MAX_PAUSE)
}

/// Decides.
pub fn settle(attempt: u32, result: Result<Vec<NewEvent>, Failure>) -> Settlement {
    match result {
        Ok(events) => Settlement::Done(events),
        Err(Failure::Retry { after, record, .. }) => Settlement::Again(record, pause(attempt, after)),
        Err(Failure::Hold { .. }) => Settlement::Hold,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quick_attempts_come_first() {
        let pauses: Vec<_> = (1..=5).map(|attempt| pause(attempt, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 10, 10]);
    }

    #[test]
    fn holding_burns_no_time() {
        let held = settle(
            3,
            Err(Failure::Hold {
                cause: "breaker open".into(),
            }),
        );
        assert!(matches!(held, Settlement::Hold));
    }

    proptest! {
        #[test]
        fn retry_after_lengthens_within_bounds(attempt in 0u32..100, asked in 0u64..100_000) {
            let asked_for = Duration::from_secs(asked);
            let with = pause(attempt, Some(asked_for));
            prop_assert!(with >= pause(attempt, None));
            prop_assert!(with <= MAX_PAUSE);
            prop_assert!(with >= asked_for.min(MAX_PAUSE));
        }
    }
}
