//! Chooses the `Idempotency-Key` that is stored with an `order.transformed`.

use uuid::Uuid;

use super::Transform;
use crate::{
    event::Recorded,
    order::idempotency,
    provider::{Content, Fact},
};

impl Transform {
    /// The key of the event that a webhook becomes for this branch; none if the event's id is the key. `body`: the event's payload.
    ///
    /// # Errors
    /// If it cannot be read from the log whether the webhook was transformed before.
    pub(super) async fn key(
        &self,
        received: &Recorded,
        (fact, body): (&Fact, &[u8]),
        branch: &str,
    ) -> anyhow::Result<Option<Uuid>> {
        let envelope = &received.envelope;
        let Content::NewOrder(order) = &fact.content else {
            return Ok(match self.orders.change_of(received).await? {
                // This webhook was transformed before, perhaps with another version of the provider's file, and perhaps posted.
                Some(earlier) => earlier.envelope.idempotency_key,
                None => idempotency::change_key(envelope.root_id, branch, body),
            });
        };
        let earlier = self.orders.last_announcement(received, branch).await?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.envelope.cause_sequence == Some(received.sequence)) {
            // The same.
            return Ok(earlier.envelope.idempotency_key);
        }
        Ok(idempotency::key(order, &envelope.provider, branch, fact.timestamp))
    }
}
