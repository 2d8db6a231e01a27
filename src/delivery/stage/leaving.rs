//! Hands the stage over if this instance lacks the configuration for an event, such as a provider that is not enabled on it. While
//! instances are restarted one after the other with a new configuration, another one may have it. The stage is handed over once a
//! minute for each cause, and less often if it lasts; requests under way end first, as in every handover. An instance that takes the stage and has the configuration
//! handles the event at once. If there is none, this instance takes the stage back and continues with the other orders; the event
//! waits until the stage gives it up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Stage, Worker, tenure::StageUnavailable};
use crate::fault_injection::time;

/// How long the stage is not left again for the same cause: a handover delays all orders for a moment. Several times within the time for
/// which an event is left: the instance that could handle it may have been away the first time.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(60);
/// After so many times it is left less often: shorter than the time for which an event is left, so that each of them has a chance.
const OFTEN: u32 = 5;
const LASTING_NOT_AGAIN_FOR: Duration = Duration::from_secs(240);
/// After so long without it a cause is a new one.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);
/// At most this many causes are remembered; with more, the stage is not left.
const MAX_CAUSES: usize = 256;

/// The causes for which a stage was left to other instances, when last, and how often.
#[derive(Debug, Default)]
pub(super) struct Left(Mutex<HashMap<String, (Instant, u32)>>);

impl Left {
    /// Notes this cause. Returns whether the stage is to be left for it now.
    fn is_due(&self, cause: &str, now: Instant) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, (at, _)| now.duration_since(*at) < FORGOTTEN_AFTER);
        let Some((at, times)) = left.get_mut(cause) else {
            let has_room = left.len() < MAX_CAUSES;
            if has_room {
                left.insert(cause.to_owned(), (now, 1));
            }
            return has_room;
        };
        let pause = if *times < OFTEN {
            time("leave_again", NOT_AGAIN_FOR)
        } else {
            LASTING_NOT_AGAIN_FOR
        };
        let is_due = now.duration_since(*at) >= pause;
        if is_due {
            (*at, *times) = (now, *times + 1);
        }
        is_due
    }
}

impl<S: Stage> Worker<S> {
    /// Leaves the stage to other instances for a moment if it was not left for this cause lately.
    ///
    /// # Errors
    /// If it is left.
    pub(super) fn leave_once(&self, sequence: u64, cause: &str) -> anyhow::Result<()> {
        if !self.left.is_due(cause, Instant::now()) {
            return Ok(());
        }
        metrics::counter!("events_left_total", "stage" => S::NAME).increment(1);
        tracing::error!(
            stage = S::NAME,
            sequence,
            cause,
            "events are left to another instance that can handle them; their orders wait"
        );
        Err(StageUnavailable(cause.to_owned()).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_again_and_again_but_seldom() {
        let (left, began) = (Left::default(), Instant::now());
        let due: Vec<_> = (0..=1200)
            .filter(|second| left.is_due("provider", began + Duration::from_secs(*second)))
            .collect();
        assert_eq!(due, [0, 60, 120, 180, 240, 480, 720, 960, 1200]);
        assert!(left.is_due("another", began));
        assert!(
            left.is_due("provider", began + Duration::from_secs(1800)),
            "it is a new one"
        );
        assert!(left.is_due("provider", began + Duration::from_secs(1860)));
    }
}
