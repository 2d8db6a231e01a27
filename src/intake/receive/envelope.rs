//! What the log stores of a request beside its body: the client, how the request was proven, and the known headers.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::RequestInfo;
use crate::{
    event::{BodyHash, Envelope, EventType, RequestFacts, WebhookOrigin},
    provider::Admission,
    registry::Enabled,
    telemetry::trace_context,
    verification::Verified,
};

/// The event that a webhook becomes.
pub(super) fn envelope(
    enabled: &Enabled,
    verified: &Verified<'_>,
    admission: &Admission,
    info: &RequestInfo,
    (path, body): (&str, &[u8]),
    now: DateTime<Utc>,
) -> Envelope {
    let (proof, headers) = (verified.proof(), verified.headers());
    Envelope {
        id: admission.event_id,
        event_type: EventType::WebhookReceived,
        root_id: admission.event_id,
        cause_id: None,
        cause_sequence: None,
        provider: Arc::clone(&enabled.name),
        external_order_id: admission.external_order_id.clone(),
        webhook_type: admission.webhook_type.to_string(),
        branch: None,
        principal: verified.principal().clone(),
        time: now,
        received_at: now,
        request_id: info.request_id.clone(),
        traceparent: Some(trace_context::of(headers)),
        request: Some(RequestFacts {
            webhook_sequence: None,
            method: verified.method().to_string(),
            // Only the path: a query could contain a key.
            path: path.to_owned(),
            client_address: info.client.to_string(),
            scheme: proof.scheme().to_owned(),
            secrets: proof.secrets().to_vec(),
            signed_at: proof.signed_at(),
            signature: proof.signature().filter(|_| enabled.keep_signature).map(str::to_owned),
            body_sha256: Some(BodyHash::of(body)),
            headers: enabled.kept_headers.of(headers),
            origin: proof.is_observed().then_some(WebhookOrigin::Observed),
        }),
        idempotency_key: None,
    }
}
