//! Chooses the `Idempotency-Key` of a new order, which is stored with its `order.transformed`.

use uuid::Uuid;

use super::Transform;
use crate::{
    event::Recorded,
    order::idempotency,
    provider::{Content, Fact},
};

impl Transform {
    /// The key of the event that a webhook becomes for this branch; none if the event's id is the key.
    ///
    /// # Errors
    /// If it cannot be read from the log whether the order was announced before.
    pub(super) async fn key(&self, received: &Recorded, fact: &Fact, branch: &str) -> anyhow::Result<Option<Uuid>> {
        let Content::NewOrder(order) = &fact.content else {
            return Ok(None);
        };
        let earlier = self.orders.last_announcement(received, branch).await?;
        if let Some(earlier) = earlier.filter(|earlier| earlier.envelope.cause_sequence == Some(received.sequence)) {
            // This webhook was transformed before, perhaps with another version of the provider's file, and perhaps posted.
            return Ok(earlier.envelope.idempotency_key);
        }
        Ok(idempotency::key(
            order,
            &received.envelope.provider,
            branch,
            fact.timestamp,
        ))
    }
}
