//! Leaves events of providers that are not enabled on this instance to other instances. While instances are restarted one after the other
//! with a new configuration, the provider may already be enabled on another one.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{fault_injection, retry::Failure};

/// How long an event of such a provider is left to other instances: longer than a rolling restart takes. After that it is a
/// dead letter.
const LEFT_FOR: Duration = Duration::from_secs(300);
/// Interval of the checks whether that time is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Minimal time for which such a provider is remembered after its latest event.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// At most this many providers are remembered. The log has only providers that were enabled on some instance.
const MAX_PROVIDERS: usize = 256;

/// The providers that are not enabled here, and since when their events have come.
#[derive(Debug)]
pub struct NotEnabled {
    left_for: Duration,
    /// By provider: the first and the latest time.
    met: Mutex<HashMap<String, (Instant, Instant)>>,
}

impl Default for NotEnabled {
    fn default() -> Self {
        Self {
            left_for: fault_injection::time("left_for", LEFT_FOR),
            met: Mutex::default(),
        }
    }
}

impl NotEnabled {
    /// Leaves an event of this provider to another instance; none if no other has taken it for that long.
    pub fn leave(&self, provider: &str) -> Option<Failure> {
        self.is_left(provider, Instant::now()).then(|| Failure::Elsewhere {
            cause: format!("provider {provider} is not enabled on this instance, or has no credentials here"),
            pause: LOOK_EVERY,
        })
    }

    fn is_left(&self, provider: &str, now: Instant) -> bool {
        // No code panics while holding this lock.
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        // A provider without events for that long may be about to be enabled.
        let remembered_for = self.left_for.max(REMEMBERED_FOR);
        met.retain(|_, (_, latest)| now.duration_since(*latest) <= remembered_for);
        if !met.contains_key(provider) && met.len() >= MAX_PROVIDERS {
            return false;
        }
        let (first, latest) = met.entry(provider.to_owned()).or_insert((now, now));
        *latest = now;
        now.duration_since(*first) < self.left_for
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn left_for_a_while_and_again_after_a_pause() {
        let (not_enabled, began) = (NotEnabled::default(), Instant::now());
        let is_left = |after: u64| not_enabled.is_left("talabat", began + Duration::from_secs(after));
        assert!(is_left(0) && is_left(299));
        assert!(
            !is_left(300) && !is_left(590),
            "each later event of it is given up at once"
        );
        assert!(not_enabled.is_left("careem", began + Duration::from_secs(590)));
        assert!(is_left(900), "after longer without any it may be about to be enabled");
    }
}
