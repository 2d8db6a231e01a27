//! Webhooks that say nothing to the backend any more: it was told something newer, or never had their order.

use super::identity::{OrderIdentity, status_of};
use crate::{
    delivery::superseded::{self, NewerEvent},
    event::{
        Recorded,
        outcome::{Ignored, NOTHING_TO_CANCEL},
    },
    memory::{EntryState, IndexEntry, OrderEvents},
    order::status::Status,
};

impl OrderIdentity {
    /// How a webhook ends that was accepted again, or transformed late, if a later word about its order has ended meanwhile and
    /// supersedes it. What a person had retried was compared before its turn.
    pub(super) async fn overtaken(&self, event: &Recorded, known: &OrderEvents) -> anyhow::Result<Option<Ignored>> {
        let own = known.of_webhook().map(|found| found.sequence);
        let first = own.chain([event.sequence]).min().unwrap_or_default();
        let is_later = |found: IndexEntry| {
            found.sequence > first && found.sequence != event.sequence && found.state.end().is_some()
        };
        if event.run.is_some() || !known.of_branch().any(is_later) {
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

fn superseded_by(newer: &NewerEvent) -> Ignored {
    Ignored {
        reason: newer.reason().into(),
        message: newer.to_string(),
        internal_order_id: newer.order_id.clone(),
        sequence: None,
        differs: false,
    }
}
