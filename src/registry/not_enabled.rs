//! Leaves events of providers that are not enabled on this instance to other instances. While instances are restarted one after the other
//! with a new configuration, the provider may already be enabled on another one.
//!
//! Each event is left for the same time, however long the provider has been met: an instance on which it is enabled may come at any
//! time, and must not find its orders given up.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::Utc;

use crate::{
    event::{
        EventId, Recorded,
        outcome::{ErrorReport, ErrorType},
    },
    fault_injection,
    retry::Failure,
};

/// How long an event of such a provider is left to other instances: longer than a rolling restart takes. After that it is a
/// dead letter.
const LEFT_FOR: Duration = Duration::from_secs(300);
/// Longest pause between two checks of an event.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long an event is remembered after its last check. By then another instance has it.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// At most this many events are remembered; of more the age counts.
const MAX_EVENTS: usize = 10_000;

/// Code of an event that no instance with its provider enabled has taken.
const PROVIDER_NOT_ENABLED: &str = "PROVIDER_NOT_ENABLED";

/// The events of providers that are not enabled here, and since when they have been left.
#[derive(Debug)]
pub struct NotEnabled {
    left_for: Duration,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Met {
    /// By event, or by the request to retry it: the first and the latest time.
    events: HashMap<EventId, (Instant, Instant)>,
    tidied: Option<Instant>,
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
    /// Leaves an event to another instance; none if no other has taken it for that long.
    pub fn leave(&self, event: &Recorded) -> Option<Failure> {
        let age = (Utc::now() - event.envelope.time).to_std().unwrap_or_default();
        let left = self.left(event.run_id(), age, Instant::now())?;
        let provider = &event.envelope.provider;
        Some(Failure::Elsewhere {
            cause: format!("provider {provider} is not enabled on this instance, or has no credentials here"),
            pause: left.min(LOOK_EVERY),
        })
    }

    /// The error of an event that was left for long enough.
    pub fn error(provider: &str) -> ErrorReport {
        let message = format!(
            "provider {provider} is not enabled on the hub that took this event; enable it and retry the dead letter"
        );
        ErrorReport::new(ErrorType::Configuration, PROVIDER_NOT_ENABLED, message)
    }

    /// How much longer an event is left; none if the time is over.
    fn left(&self, event: EventId, age: Duration, now: Instant) -> Option<Duration> {
        // No code panics while holding this lock.
        let mut met = self.met.lock().unwrap_or_else(PoisonError::into_inner);
        let remembered_for = self.left_for.max(REMEMBERED_FOR);
        if met.tidied.is_none_or(|at| now.duration_since(at) >= LOOK_EVERY) {
            met.tidied = Some(now);
            met.events
                .retain(|_, (_, latest)| now.duration_since(*latest) <= remembered_for);
        }
        let waited = if met.events.len() >= MAX_EVENTS && !met.events.contains_key(&event) {
            age
        } else {
            let (first, latest) = met.events.entry(event).or_insert((now, now));
            *latest = now;
            now.duration_since(*first)
        };
        let left = self.left_for.checked_sub(waited).filter(|left| !left.is_zero());
        if left.is_none() {
            met.events.remove(&event);
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_left_for_as_long() {
        let (not_enabled, began) = (NotEnabled::default(), Instant::now());
        let left = |event: u64, after: u64| {
            let (event, now) = (EventId::of_unreadable(event), began + Duration::from_secs(after));
            not_enabled.left(event, Duration::ZERO, now).map(|left| left.as_secs())
        };
        assert_eq!((left(1, 0), left(1, 299)), (Some(300), Some(1)));
        assert_eq!(left(2, 299), Some(300), "a later one has its own time");
        assert_eq!(left(1, 300), None);
        assert_eq!(left(3, 598), Some(300));
        assert_eq!(left(2, 598), Some(1), "it was looked at before");
        assert_eq!(left(1, 1000), Some(300), "it was forgotten meanwhile");
    }

    #[test]
    fn of_too_many_the_age_counts() {
        let (not_enabled, now) = (NotEnabled::default(), Instant::now());
        let left = |event: usize, age: u64| {
            let event = EventId::of_unreadable(event as u64);
            not_enabled.left(event, Duration::from_secs(age), now)
        };
        (0..MAX_EVENTS).for_each(|event| assert!(left(event, 1000).is_some()));
        assert_eq!(left(MAX_EVENTS, 300), None);
        assert_eq!(left(MAX_EVENTS, 299), Some(Duration::from_secs(1)));
    }
}
