//! The same words of a webhook that was accepted before. No answer may have arrived to their request, so a repeat goes under its key.

use super::OrderIdentity;
use crate::{
    event::{EventType, Recorded},
    memory::OrderEvents,
    order::{body, idempotency},
};

impl OrderIdentity {
    /// The first event of an earlier acceptance of the same webhook that says the same as this one; none if there is none.
    pub(super) async fn said_before(&self, event: &Recorded, known: &OrderEvents) -> anyhow::Result<Option<Recorded>> {
        for found in known.of_webhook().filter(|found| found.sequence < event.sequence) {
            let earlier = self.orders.read(event, found).await?;
            let earlier = earlier.filter(|earlier| is_same(earlier, event));
            if earlier.is_some() {
                return Ok(earlier);
            }
        }
        Ok(None)
    }
}

fn is_same(one: &Recorded, other: &Recorded) -> bool {
    let kind = |event: &Recorded| {
        let envelope = &event.envelope;
        (envelope.root_id, envelope.branch.clone(), envelope.webhook_type.clone())
    };
    let says = |event: &Recorded| body::announced(&event.payload).ok();
    let change = |event: &Recorded| idempotency::change_key(event.envelope.root_id, "", &event.payload);
    one.envelope.event_type == EventType::OrderTransformed
        && kind(one) == kind(other)
        && if one.envelope.is_creation() {
            says(one).is_some() && says(one) == says(other)
        } else {
            change(one).is_some() && change(one) == change(other)
        }
}
