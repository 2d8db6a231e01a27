//! Whether an order that is announced again is lost, or was.

use super::{OrderIdentity, is_same_branch};
use crate::{
    event::Recorded,
    memory::{EntryState, IndexEntry},
    order::body,
};

impl OrderIdentity {
    /// Whether the backend has an event's order by another announcement, or one that came before is still tried.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn may_be_created_by_another(&self, event: &Recorded) -> anyhow::Result<bool> {
        let known = self.orders.history(event).await?;
        if let Some((_, first)) = self.created(event, &known).await? {
            let is_another = |first: &Recorded| body::are_two_orders(&first.payload, &event.payload);
            return Ok(!first.as_ref().is_some_and(is_another));
        }
        let is_tried = |found: &IndexEntry| found.state == EntryState::Creation && found.sequence < event.sequence;
        for found in known.of_branch().filter(is_tried) {
            if self.announcement(event, found).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// An announcement of an event's order that was given up before it; none if the backend has the order nevertheless, because it was retried.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn given_up_before(&self, event: &Recorded) -> anyhow::Result<Option<Recorded>> {
        let known = self.orders.history(event).await?;
        let is_given_up = |found: &IndexEntry| {
            let given_up = [EntryState::CreationRefused, EntryState::CreationUncertain];
            given_up.contains(&found.state) && found.sequence < event.sequence
        };
        for found in known.of_branch().filter(is_given_up) {
            if let Some(earlier) = self.announcement(event, found).await? {
                return Ok(Some(earlier));
            }
        }
        for found in known
            .ended_without_branch()
            .filter(|found| found.sequence < event.sequence)
        {
            let dead = self.untransformed(event, found).await?;
            if let Some(dead) = dead.filter(|dead| dead.envelope.is_creation()) {
                return Ok(Some(dead));
            }
        }
        Ok(None)
    }

    /// The announcement that an entry points at, if it is one of an event's order.
    async fn announcement(&self, event: &Recorded, found: IndexEntry) -> anyhow::Result<Option<Recorded>> {
        let earlier = self.orders.read(event, found).await?;
        Ok(earlier.filter(|earlier| {
            is_same_branch(earlier, event) && !body::are_two_orders(&earlier.payload, &event.payload)
        }))
    }
}
