//! Thin webhooks: the provider keeps the order, and the push stage fetches it.

use chrono::{DateTime, Utc};

use super::LABEL;
use crate::{
    event::{EventType, NewEvent, Recorded},
    journal::{connection::Connection, read::event_at},
    provider::{Fact, TransformError},
    registry::Enabled,
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

/// The meaning of a fetched document, or of a webhook that took the same path.
///
/// # Errors
/// If the log does not answer; the call may be repeated.
pub(super) async fn fact(
    enabled: &Enabled,
    fetched: &Recorded,
    log: &Connection,
) -> anyhow::Result<Result<Fact, TransformError>> {
    let fetch = enabled.outbound.as_ref().and_then(|remote| remote.spec.fetch.as_ref());
    if !fetch.is_some_and(|fetch| fetch.webhooks.contains(&fetched.envelope.webhook_type)) {
        return Ok(enabled.provider.transform(fetched));
    }
    let sequence = fetched
        .envelope
        .request
        .as_ref()
        .and_then(|request| request.webhook_sequence);
    let webhook = match sequence {
        Some(sequence) => event_at(log, sequence).await?,
        None => None,
    };
    let webhook = Recorded {
        // A webhook that has left the log meanwhile named nothing but its order.
        payload: webhook.map_or_else(|| fetched.payload.clone(), |webhook| webhook.payload),
        ..fetched.clone()
    };
    Ok(enabled.provider.transform_fetched(&webhook, &fetched.payload))
}
