//! Thin webhooks: the provider keeps the order, and the push stage fetches it.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::LABEL;
use crate::{
    event::{EventType, NewEvent, Recorded},
    journal::{connection::Connection, read::event_at},
};

/// The order is elsewhere: the webhook goes to the push stage, with all that is known of it, and comes back with the
/// document. The provider's other webhooks go the same way, so that none overtakes another of its order.
pub(super) fn fetch(received: &Recorded, now: DateTime<Utc>) -> NewEvent {
    let mut envelope = received.follow(LABEL, EventType::OrderFetchRequested, now);
    envelope.request.clone_from(&received.envelope.request);
    if let Some(request) = &mut envelope.request {
        request.webhook_sequence = Some(received.sequence);
    }
    NewEvent {
        envelope,
        payload: received.payload.clone(),
    }
}

/// The body of the webhook that a document was fetched for; none if it has left the log meanwhile: it named nothing but its order.
///
/// # Errors
/// If the log does not answer; the call may be repeated.
pub(super) async fn webhook(fetched: &Recorded, log: &Connection) -> anyhow::Result<Option<Bytes>> {
    let request = fetched.envelope.request.as_ref();
    Ok(match request.and_then(|request| request.webhook_sequence) {
        Some(sequence) => event_at(log, sequence).await?.map(|webhook| webhook.payload),
        None => None,
    })
}
