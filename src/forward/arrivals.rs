//! Which events the backend cannot have: no request of theirs can have reached it.
//!
//! A log without a request does not prove that none was made: the instance that made it may have died before it recorded that. So this
//! is known only of events that no instance was handed before this one took the stage.

use std::{
    num::NonZeroUsize,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use lru::LruCache;

use crate::event::Recorded;

/// Most events that are remembered: far more than are requested and not ended at a time, because the breaker opens before. If a
/// counted request is forgotten, the backend may have the event.
const MAX_REQUESTED: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// See the module.
pub(super) struct Arrivals {
    /// The last event that may have been handed to another instance.
    handed_out: AtomicU64,
    /// Events without an end with requests, and whether one of these can have reached the backend.
    requested: Mutex<LruCache<u64, bool>>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            handed_out: AtomicU64::new(u64::MAX),
            requested: Mutex::new(LruCache::new(MAX_REQUESTED)),
        }
    }
}

impl Arrivals {
    /// The stage was taken; events up to this sequence may have been handed to another instance.
    pub(super) fn begin(&self, handed_out: u64) {
        self.requested().clear();
        self.handed_out.store(handed_out, Ordering::Relaxed);
    }

    /// A request of an event was made, from 1; whether it can have reached the backend.
    pub(super) fn note(&self, event: &Recorded, request: u32, is_reached: bool) {
        if is_reached {
            self.requested().put(event.sequence, true);
        } else if request == 1 {
            self.requested().get_or_insert(event.sequence, || false);
        }
    }

    /// The event has ended.
    pub(super) fn end(&self, event: &Recorded) {
        self.requested().pop(&event.sequence);
    }

    /// Whether another instance may have begun to handle an event.
    pub(super) fn may_be_anothers(&self, event: &Recorded) -> bool {
        event.sequence <= self.handed_out.load(Ordering::Relaxed)
    }

    /// Whether no request of an event can have reached the backend, of which so many were counted.
    pub(super) fn is_none(&self, event: &Recorded, requests: u32) -> bool {
        let is_ours = event.run.is_none() && !self.may_be_anothers(event);
        let is_reached = self.requested().peek(&event.sequence).copied();
        is_ours && !is_reached.unwrap_or(requests > 0)
    }

    fn requested(&self) -> MutexGuard<'_, LruCache<u64, bool>> {
        // No code panics while it holds this lock.
        self.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::event::EventId;

    fn event(sequence: u64) -> Recorded {
        Recorded {
            sequence,
            ..Recorded::sample("careem", "CR-1", "order_created", b"{}", Utc::now())
        }
    }

    #[test]
    fn only_what_this_instance_has_from_the_beginning_is_known() {
        let arrivals = Arrivals::default();
        assert!(
            !arrivals.is_none(&event(5), 0),
            "nothing is known before the stage is taken"
        );
        arrivals.begin(4);
        assert!(!arrivals.is_none(&event(4), 0), "another instance may have posted it");
        assert!(arrivals.is_none(&event(5), 0));
        assert!(!arrivals.is_none(&event(5), 1), "a request that nothing is known of");
        let retried = Recorded {
            run: Some(EventId::of_unreadable(1)),
            ..event(5)
        };
        assert!(!arrivals.is_none(&retried, 0), "it was handled before");
        for request in 1..=3 {
            arrivals.note(&event(5), request, false);
            assert!(arrivals.is_none(&event(5), request));
        }
        arrivals.note(&event(5), 4, true);
        arrivals.note(&event(5), 5, false);
        assert!(!arrivals.is_none(&event(5), 5), "one request reached it");
        // An answer that blames the set-up is not counted.
        arrivals.note(&event(7), 1, true);
        arrivals.note(&event(7), 1, false);
        assert!(!arrivals.is_none(&event(7), 0));
        arrivals.end(&event(7));
        arrivals.note(&event(6), 1, false);
        arrivals.begin(4);
        assert!(
            !arrivals.is_none(&event(6), 1),
            "another instance may have made more requests"
        );
    }
}
