//! One line in the log for each order, or news about one, when it ends.

use chrono::Utc;

use super::Stage;
use crate::{event::NewEvent, telemetry::trace_context};

/// Says how a webhook ended, where this event is its end. Numbers and names of its order only: what its customer typed stays on the
/// log.
pub(super) fn tell<S: Stage>(event: &NewEvent) {
    let envelope = &event.envelope;
    let kind = envelope.event_type;
    if !kind.ends() || kind.is_for_provider() {
        return;
    }
    let took = (Utc::now() - envelope.received_at).num_milliseconds().max(0);
    tracing::info!(
        provider = &*envelope.provider,
        order_id = envelope.external_order_id,
        request_id = envelope.request_id,
        branch = envelope.branch.as_deref(),
        trace_id = envelope.traceparent.as_deref().and_then(trace_context::trace_id),
        webhook_type = envelope.webhook_type,
        event_id = %envelope.root_id,
        outcome = kind.as_str(),
        stage = S::NAME,
        processing_time = took,
        "order ended"
    );
}
