//! Whether an order that is announced again is lost, or was.

use super::{OrderIdentity, is_same_branch};
use crate::{
    event::{EventType, Recorded, push},
    journal::{
        codec::token,
        read::{Entry, LogReader, Start},
    },
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
        if itself && self.was_reported(event, event.sequence).await? {
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
                && self.was_reported(&earlier, earlier.sequence).await?
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
                && self.was_reported(&end, end.accepted_at()).await?
            {
                return Ok(Some(end));
            }
        }
        Ok(None)
    }

    /// Whether the provider was told that the order of an announcement that was given up is lost. `cause`: the sequence of the event that was
    /// given up.
    async fn was_reported(&self, given_up: &Recorded, cause: u64) -> anyhow::Result<bool> {
        let branch = token(given_up.envelope.branch.as_deref().unwrap_or_default());
        let root = EventType::OrderStatusRequested.subject_root();
        let subjects = format!("{root}.{}.{branch}.>", token(&given_up.envelope.provider));
        let mut reader = LogReader::of_subjects(&self.log, subjects, Start::Sequence(given_up.accepted_at()));
        loop {
            let entries = reader.next_batch_to_end(&self.log).await?;
            if entries.is_empty() {
                return Ok(false);
            }
            let is_about_it = |entry: &Entry| match entry {
                Entry::Event(told) => {
                    told.envelope.external_order_id == given_up.envelope.external_order_id
                        && told.envelope.cause_sequence.is_none_or(|told| told == cause)
                        && push::is_loss(told)
                }
                Entry::Unreadable { .. } => false,
            };
            if entries.iter().any(is_about_it) {
                return Ok(true);
            }
        }
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
