//! Webhooks that say nothing to the backend any more: it was told something newer, or never had their order.

use super::identity::{OrderIdentity, status_of};
use crate::{
    delivery::superseded::{self, NewerEvent},
    event::{
        Recorded,
        outcome::{Ignored, NOTHING_TO_CANCEL},
    },
    memory::{EntryState, OrderEvents},
    order::status::Status,
};

impl OrderIdentity {
    /// How a webhook ends that was accepted again, transformed late, or waited for its order, if something newer came meanwhile: the
    /// order was cancelled, the backend has later lines of it, or another order of the number. What a person had retried was compared
    /// before its turn.
    pub(super) async fn overtaken(&self, event: &Recorded, known: &OrderEvents) -> anyhow::Result<Option<Ignored>> {
        let (is_creation, is_amendment) = (event.envelope.is_creation(), event.envelope.is_amendment());
        let may_be_newer = |state| match state {
            EntryState::NewsForwarded
            | EntryState::NewsGivenUp
            | EntryState::NewsIgnored
            | EntryState::CreationAsNews => is_creation || is_amendment,
            EntryState::CreationForwarded | EntryState::CreationUncertain => !is_creation,
            _ => false,
        };
        let after = oldest_newer(event, known);
        let mut later = known.of_branch().filter(|found| found.sequence > after);
        if event.run.is_some() || !later.any(|found| may_be_newer(found.state)) {
            return Ok(None);
        }
        let newer = superseded::of_repeat(&self.log, event, &*self.orders).await?;
        Ok(newer.map(|newer| superseded_by(&newer)))
    }

    /// The end of a cancellation that a person retried, if the backend does not know the order and never had it: every announcement
    /// was refused, or ended without a request. None if that is not so, or not known.
    pub(super) async fn nothing_to_cancel(&self, event: &Recorded) -> anyhow::Result<Option<Ignored>> {
        let is_cancellation = status_of(event).is_some_and(Status::is_called_off) && !event.envelope.is_creation();
        if event.run.is_none() || !is_cancellation {
            return Ok(None);
        }
        let known = self.orders.history(event).await?;
        let mut is_announced = false;
        for found in known.of_branch() {
            let is_of_order = found.state.is_creation() || found.state == EntryState::Created;
            if !is_of_order || self.orders.read(event, found).await?.is_none() {
                continue;
            }
            if !matches!(found.state, EntryState::CreationRefused | EntryState::CreationIgnored) {
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

/// The place of the log behind which every body of a webhook is that was accepted after an event's; 0 where it is not known.
fn oldest_newer(event: &Recorded, known: &OrderEvents) -> u64 {
    let envelope = &event.envelope;
    let is_first = known.of_webhook().all(|found| found.sequence >= event.sequence);
    let of_webhook = envelope
        .cause_sequence
        .filter(|_| envelope.cause_id == Some(envelope.root_id));
    of_webhook.filter(|_| is_first).unwrap_or_default()
}

pub(super) fn superseded_by(newer: &NewerEvent) -> Ignored {
    Ignored {
        reason: newer.reason().into(),
        message: newer.to_string(),
        internal_order_id: newer.order_id.clone(),
        sequence: None,
        differs: false,
    }
}
