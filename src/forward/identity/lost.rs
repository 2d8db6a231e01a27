//! Whether an order that is announced again is lost, or was.

use super::{OrderIdentity, is_same_branch};
use crate::{
    event::Recorded,
    memory::{EntryState, IndexEntry},
    order::body,
};

impl OrderIdentity {
    /// Whether the backend has the order that an event announces, or an earlier announcement of it is still tried.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn may_be_created(&self, event: &Recorded) -> anyhow::Result<bool> {
        let known = self.orders.history(event).await?;
        let counts = |found: &IndexEntry| match found.state {
            EntryState::CreationForwarded | EntryState::CreationOutOfTurn => true,
            EntryState::Creation => found.sequence < event.sequence,
            _ => false,
        };
        for found in known.of_branch().filter(counts) {
            if self.announcement(event, found).await?.is_some() {
                return Ok(true);
            }
        }
        // The body that created it may have left the log.
        Ok(matches!(self.created(event, &known).await?, Some((_, None))))
    }

    /// An announcement of an event's order that the hub gave up and reported to the provider as lost; none if there is none. `itself`: look
    /// at the event itself. `others`: look at the announcements before it.
    ///
    /// # Errors
    /// If the log does not answer.
    pub(in crate::forward) async fn reported_lost(
        &self,
        event: &Recorded,
        (itself, others): (bool, bool),
    ) -> anyhow::Result<Option<Recorded>> {
        if itself && self.orders.was_reported(event, event.sequence).await? {
            return Ok(Some(event.clone()));
        }
        if !others {
            return Ok(None);
        }
        let known = self.orders.history(event).await?;
        let is_given_up = |found: &IndexEntry| {
            let given_up = [EntryState::CreationRefused, EntryState::CreationUncertain];
            given_up.contains(&found.state) && found.sequence < event.sequence
        };
        for found in known.of_branch().filter(is_given_up) {
            if let Some(earlier) = self.announcement(event, found).await?
                && self.orders.was_reported(&earlier, earlier.sequence).await?
            {
                return Ok(Some(earlier));
            }
        }
        for found in known
            .ended_without_branch()
            .filter(|found| found.sequence < event.sequence)
        {
            let end = self.orders.read(event, found).await?;
            if let Some(end) = end.filter(|end| may_be_of(end, event))
                && self.orders.was_reported(&end, end.accepted_at()).await?
            {
                return Ok(Some(end));
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

/// Whether a webhook that the stage `transform` gave up may have announced an event's order: by the number alone, because its store and its
/// content are not known. If the acceptance itself is the event's, a person has had it retried.
fn may_be_of(end: &Recorded, event: &Recorded) -> bool {
    let proven_for = end.envelope.principal.branch().map(|branch| &**branch);
    end.envelope.is_creation()
        && end.accepted_at() != event.accepted_at()
        && proven_for.is_none_or(|branch| event.envelope.branch.as_deref() == Some(branch))
}
