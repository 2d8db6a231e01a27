//! The log lines of a stage: each takeover, each error, and one line when an order, or a change of one, ends.

use chrono::Utc;

use super::{Stage, recovery::OpenWork};
use crate::{delivery::lanes::Lanes, event::NewEvent, telemetry::trace_context};

/// The stage was taken over.
pub(super) fn takeover(stage: &str, open_work: &OpenWork, lanes: Option<&Lanes>) {
    tracing::info!(
        stage,
        read = open_work.read,
        events = open_work.open.len(),
        parked = open_work.parked.0,
        lane_requests = open_work.parked.1,
        lanes = lanes.map_or(0, |lanes| lanes.due(Utc::now(), usize::MAX)),
        elsewhere = open_work.elsewhere.len(),
        "stage taken over; open events are handled first"
    );
}

/// The work begins anew after this.
pub(super) fn trouble(stage: &str, error: &anyhow::Error) {
    tracing::warn!(
        stage,
        error = format!("{error:#}"),
        "error: no new tasks are started, and running tasks end"
    );
}

/// Says how a webhook ended, where this event is its end. Numbers and names of its order only: what its customer typed stays on the
/// log.
pub(super) fn order_ended<S: Stage>(event: &NewEvent) {
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
