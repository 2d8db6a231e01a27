//! Events that wait for an earlier one of their order that stands in another lane: an order and its cancellation may be proven by different
//! secrets, and what a branch's secret proved has lanes of its own.

use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::{
    Forward, cannot_see,
    identity::{OrderIdentity, is_same_branch},
};
use crate::{
    delivery::superseded::KnownAcceptances as _, event::Recorded, journal::codec::OrderKey, memory::IndexEntry,
    retry::Failure,
};

/// How long an event waits before it is looked whether an earlier one of its order, in another lane, has its outcome: longer, the longer it
/// has waited.
const LEAST_BEHIND: Duration = Duration::from_millis(250);
const MOST_BEHIND: Duration = Duration::from_secs(30);

impl Forward {
    /// How long an event waits because an earlier one of its order stands in another lane and has no outcome yet; none if there is none.
    /// Nothing wakes it. An event that no stage has any more must not keep others for longer than it would have been retried.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(super) async fn behind_another_lane(&self, event: &Recorded) -> Result<Option<Duration>, Failure> {
        let longest = TimeDelta::from_std(self.schedule.longest()).unwrap_or(TimeDelta::MAX);
        let longest = longest.max(self.identity.orders.window());
        let waits = self.identity.waits_in_another_lane(event, longest).await;
        let waits = waits.map_err(|error| cannot_see(&error))?;
        let age = (Utc::now() - event.envelope.received_at).to_std().unwrap_or_default();
        Ok(waits.then(|| (age / 8).clamp(LEAST_BEHIND, MOST_BEHIND)))
    }
}

impl OrderIdentity {
    /// Whether an earlier event of the same order stands in another lane and has no outcome yet. The lane depends on whose secret proved a
    /// webhook, and the order does not. An announcement waits for announcements only: news may wait for it. What was accepted longer ago
    /// than `longest` is not waited for.
    async fn waits_in_another_lane(&self, event: &Recorded, longest: TimeDelta) -> anyhow::Result<bool> {
        let (own, is_creation) = (OrderKey::of(event), event.envelope.is_creation());
        let known = self.orders.known(event);
        let is_awaited = |found: &IndexEntry| {
            let is_before = found.sequence < event.sequence && found.state.is_open();
            is_before && (found.state.is_creation() || !is_creation)
        };
        for found in known.of_branch().filter(is_awaited) {
            let Some(earlier) = self.orders.read(event, found).await? else {
                continue;
            };
            let is_recent = Utc::now() - earlier.envelope.received_at <= longest;
            if is_recent && is_same_branch(&earlier, event) && OrderKey::of(&earlier) != own {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
