//! Webhooks that say nothing to the backend any more: it was told something newer, or never had their order.

use super::identity::{OrderIdentity, status_of};
use crate::{
    delivery::superseded::{self, End, NewerEvent, history::Said},
    event::{
        Recorded,
        outcome::{Ignored, NOTHING_TO_CANCEL},
    },
    memory::{EntryState, IndexEntry, OrderEvents},
    order::status::Status,
};

impl OrderIdentity {
    /// How a webhook ends that was accepted again, or transformed late, if a later word about its order has ended meanwhile and
    /// supersedes it. What a person had retried was compared before it waited for its turn, so it is compared again.
    pub(super) async fn overtaken(&self, event: &Recorded, known: &OrderEvents) -> anyhow::Result<Option<Ignored>> {
        let first = self
            .orders
            .first_acceptance(event, known, event.envelope.root_id)
            .await?;
        let first = first.map_or(event.accepted_at(), |first| first.min(event.accepted_at()));
        let is_after = |found: &IndexEntry| found.sequence > first && found.sequence != event.sequence;
        let is_later = |found: IndexEntry| is_after(&found) && found.state.end().is_some();
        if event.is_again {
            return Ok(None);
        }
        // The backend does not have these, so they only count if they call the order off. There may be a thousand of them, for instance
        // what found no room in a full lane, and a comparison with all of them reads the log once for each.
        let is_refused = |found: &IndexEntry| found.state == EntryState::NewsRefused;
        let mut has_later = false;
        for found in known.of_branch().filter(|found| is_later(*found) && !is_refused(found)) {
            // A body that stands before this one may be of a webhook that came before its webhook.
            has_later = has_later || found.sequence > event.sequence || self.is_after(event, found, first).await?;
        }
        for found in known.of_branch().filter(|found| is_later(*found) && is_refused(found)) {
            has_later = has_later || self.calls_off(event, found).await?;
        }
        for found in known.ended_without_branch().filter(is_after) {
            has_later = has_later || self.untransformed(event, found).await?.is_some();
        }
        if !has_later {
            return Ok(None);
        }
        let newer = superseded::of_repeat(&self.log, event, &*self.orders).await?;
        Ok(newer.map(|newer| superseded_by(&newer)))
    }

    /// Whether the webhook of a body about an event's order was accepted after this place, or the body cannot be read any more.
    async fn is_after(&self, event: &Recorded, found: IndexEntry, first: u64) -> anyhow::Result<bool> {
        let accepted = self.acceptance(event, found).await?;
        Ok(accepted.is_none_or(|accepted| accepted > first))
    }

    /// Whether a body about an event's order calls it off, or cannot be read any more.
    async fn calls_off(&self, event: &Recorded, found: IndexEntry) -> anyhow::Result<bool> {
        let said = self.orders.read(event, found).await?;
        Ok(said.is_none_or(|said| status_of(&said).is_some_and(Status::is_called_off)))
    }

    /// The dead letter of a webhook about an event's order that never became a body.
    async fn untransformed(&self, event: &Recorded, found: IndexEntry) -> anyhow::Result<Option<Recorded>> {
        let dead = self.orders.read(event, found).await?;
        Ok(dead.filter(|dead| superseded::is_untransformed(dead, event)))
    }

    /// Whether a later word calls an announcement off, and that word waits or the backend has it. If the backend refused the word, or may
    /// have it, the order may be there and not cancelled. `event` is of the same order.
    pub(super) async fn is_called_off(
        &self,
        event: &Recorded,
        known: &OrderEvents,
        announcement: &Recorded,
    ) -> anyhow::Result<bool> {
        let own = self.word((event, known), announcement, End::Uncertain).await?;
        let announced = self.words_of_announcements((event, known)).await?;
        let counts = [EntryState::NewsOpen, EntryState::NewsForwarded, EntryState::NewsIgnored];
        for found in known.of_branch().filter(|found| counts.contains(&found.state)) {
            if let Some(said) = self.orders.read(event, found).await? {
                let said = self.word((event, known), &said, End::LeftOut).await?;
                if said.calls_off_announcement(&own, &announced) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// What the announcements of an event's branch and number say.
    async fn words_of_announcements(&self, (event, known): (&Recorded, &OrderEvents)) -> anyhow::Result<Vec<Said>> {
        let mut announced = Vec::new();
        for found in known.of_branch().filter(|found| found.state.is_creation()) {
            if let Some(announcement) = self.orders.read(event, found).await? {
                announced.push(self.word((event, known), &announcement, End::LeftOut).await?);
            }
        }
        Ok(announced)
    }

    /// The end of a cancellation that a person retried, if the backend does not know the order: every announcement was refused, or ended
    /// without a request, or was given up without an answer and called off by this, so that it is not sent any more. None if that is not
    /// so, or not known.
    pub(super) async fn nothing_to_cancel(&self, event: &Recorded) -> anyhow::Result<Option<Ignored>> {
        let is_cancellation = status_of(event).is_some_and(Status::is_called_off) && !event.envelope.is_creation();
        if !is_cancellation {
            return Ok(None);
        }
        let known = self.orders.history(event).await?;
        let own = self.word((event, &known), event, End::LeftOut).await?;
        let announced = self.words_of_announcements((event, &known)).await?;
        let (mut is_retried, mut is_announced) = (event.run.is_some(), false);
        for found in known.ended_without_branch() {
            if let Some(dead) = self.untransformed(event, found).await? {
                is_retried |= dead.envelope.root_id == event.envelope.root_id;
                is_announced |= dead.envelope.is_creation();
            }
        }
        if !is_retried {
            return Ok(None);
        }
        for found in known.of_branch() {
            let is_of_order = found.state.is_creation() || found.state == EntryState::Created;
            if !is_of_order {
                continue;
            }
            let Some(announcement) = self.orders.read(event, found).await? else {
                continue;
            };
            let is_never_sent = match found.state {
                EntryState::CreationRefused | EntryState::CreationIgnored => true,
                EntryState::CreationUncertain => {
                    let said = self.word((event, &known), &announcement, End::Uncertain).await?;
                    own.calls_off_announcement(&said, &announced)
                }
                _ => false,
            };
            if !is_never_sent {
                return Ok(None);
            }
            is_announced = true;
        }
        let order = &event.envelope.external_order_id;
        Ok(is_announced.then(|| Ignored {
            reason: NOTHING_TO_CANCEL.into(),
            message: format!("the backend does not have order {order}, which was not created"),
            internal_order_id: None,
            sequence: None,
            differs: false,
        }))
    }
}

fn superseded_by(newer: &NewerEvent) -> Ignored {
    Ignored {
        reason: newer.reason().into(),
        message: newer.to_string(),
        internal_order_id: newer.order_id.clone(),
        sequence: None,
        differs: false,
    }
}
