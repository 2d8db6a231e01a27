//! Which events wait in memory behind one of their order key that a task works on, by branch: an event that fails must not keep another branch's.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::Recorded, journal::codec::OrderKey};

/// The branches of the events that wait in the queue, by order key. Most keys have none.
#[derive(Debug, Default)]
pub(super) struct QueuedBehind {
    branches: Mutex<HashMap<OrderKey, Vec<String>>>,
    joined: Notify,
}

impl QueuedBehind {
    fn branches(&self) -> MutexGuard<'_, HashMap<OrderKey, Vec<String>>> {
        // No code panics while it holds this lock.
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event waits behind others of its key.
    pub(super) fn add(&self, key: OrderKey, event: &Recorded) {
        if let Some(branch) = &event.envelope.branch {
            self.branches().entry(key).or_default().push(branch.clone());
            self.joined.notify_waiters();
        }
    }

    /// An event that waited has its turn.
    pub(super) fn remove(&self, key: OrderKey, event: &Recorded) {
        let mut all = self.branches();
        if let (Some(branches), Some(branch)) = (all.get_mut(&key), &event.envelope.branch) {
            if let Some(at) = branches.iter().position(|one| one == branch) {
                branches.swap_remove(at);
            }
            if branches.is_empty() {
                all.remove(&key);
            }
        }
    }

    /// Whether an event of another branch waits behind this one.
    pub(super) fn has_another(&self, event: &Recorded) -> bool {
        let Some(own) = &event.envelope.branch else {
            return false;
        };
        let all = self.branches();
        let behind = all.get(&OrderKey::of(event));
        behind.is_some_and(|branches| branches.iter().any(|branch| branch != own))
    }

    /// Waits until one does.
    pub(super) async fn another(&self, event: &Recorded) {
        loop {
            let joined = self.joined.notified();
            if self.has_another(event) {
                return;
            }
            joined.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use futures_util::FutureExt as _;

    use super::*;

    fn of_branch(branch: Option<&str>) -> Recorded {
        let mut event = Recorded::sample("careem", "CR-1", "order_created", b"", Utc::now());
        event.envelope.branch = branch.map(str::to_owned);
        event
    }

    #[tokio::test]
    async fn events_of_other_branches_are_seen_while_they_wait() {
        let (behind, own, other) = (QueuedBehind::default(), of_branch(Some("a")), of_branch(Some("b")));
        let key = OrderKey::of(&own);
        for event in [&own, &of_branch(None)] {
            behind.add(key, event);
        }
        assert!(!behind.has_another(&own), "its own branch's, and one of no branch");
        let mut waiting = Box::pin(behind.another(&own));
        assert!(waiting.as_mut().now_or_never().is_none());
        behind.add(key, &other);
        assert!(waiting.as_mut().now_or_never().is_some());
        assert!(behind.has_another(&own) && behind.has_another(&other) && !behind.has_another(&of_branch(None)));
        behind.remove(key, &other);
        assert!(!behind.has_another(&own) && behind.has_another(&other));
        behind.remove(key, &own);
        assert!(behind.branches().is_empty());
    }
}
