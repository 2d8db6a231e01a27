//! Hands the stage over if this instance lacks the configuration for an event, such as a provider that is not enabled on it. While
//! instances are restarted one after the other with a new configuration, another one may have it. The stage is handed over once a
//! minute for each cause; requests under way end first, as in every handover. An instance that takes the stage and has the configuration
//! handles the event at once. If there is none, this instance takes the stage back and continues with the other orders; the event
//! waits until the stage gives it up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::{Stage, Worker, tenure::StageUnavailable};

/// How long the stage is not left again for the same cause: a handover delays all orders for a moment. Several times within the time for
/// which an event is left: the instance that could handle it may have been away the first time.
const NOT_AGAIN_FOR: Duration = Duration::from_secs(60);
/// At most this many causes are remembered; with more, the stage is not left.
const MAX_CAUSES: usize = 256;

/// The causes for which a stage was left to other instances, and when.
#[derive(Debug, Default)]
pub(super) struct Left(Mutex<HashMap<String, Instant>>);

impl Left {
    /// Notes this cause. Returns whether it is new.
    fn is_new(&self, cause: &str) -> bool {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, at| at.elapsed() < NOT_AGAIN_FOR);
        let is_new = !left.contains_key(cause) && left.len() < MAX_CAUSES;
        if is_new {
            left.insert(cause.to_owned(), Instant::now());
        }
        is_new
    }
}

impl<S: Stage> Worker<S> {
    /// Leaves the stage to other instances for a moment if it was not left for this cause before.
    ///
    /// # Errors
    /// If it is left.
    pub(super) fn leave_once(&self, sequence: u64, cause: &str) -> anyhow::Result<()> {
        if !self.left.is_new(cause) {
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
