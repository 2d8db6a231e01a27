//! What the log keeps of a request beside its body: who called, how it was proven, its headers without credentials.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName};
use chrono::{DateTime, Utc};
use serde_json::Map;

use super::Asked;
use crate::{
    event::{Envelope, EventType, RequestFacts},
    provider::{Admission, Enabled, is_credential, kept_header},
    telemetry::trace_context,
    verification::Verified,
};

/// The event that a webhook becomes.
pub(super) fn envelope(
    enabled: &Enabled,
    verified: &Verified<'_>,
    admission: &Admission,
    asked: &Asked,
    path: &str,
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
        time: now,
        received_at: now,
        request_id: asked.request_id.clone(),
        traceparent: Some(trace_context::of(headers)),
        request: Some(RequestFacts {
            webhook_sequence: None,
            method: verified.method().to_string(),
            // A query could hold a key; the path alone says what was called.
            path: path.to_owned(),
            client_address: asked.client.to_string(),
            scheme: proof.scheme().to_owned(),
            secrets: proof.secrets().to_vec(),
            signed_at: proof.signed_at(),
            signature: proof.signature().map(str::to_owned),
            headers: without_credentials(headers, &enabled.credential_headers),
        }),
    }
}

/// Request headers as JSON, less every credential: by its name, or because the provider's scheme takes it for one.
fn without_credentials(headers: &HeaderMap, of_scheme: &[HeaderName]) -> Map<String, serde_json::Value> {
    let names = headers
        .keys()
        .filter(|name| !of_scheme.contains(name) && !is_credential(name.as_str()));
    let kept = names.filter_map(|name| Some((name.as_str().to_owned(), kept_header(headers, name)?.into())));
    kept.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn credentials_are_left_out() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer hunter2"),
            ("x-auth", "hunter2"),
            ("cookie", "session=hunter2"),
            ("x-careem-api-key", "hunter2"),
            ("x-service-token", "hunter2"),
            ("x-knock-knock", "hunter2"),
            ("x-merchant-id", "m-1"),
            ("x-careem-signature", "ab12"),
        ] {
            headers.append(name, value.parse().unwrap());
        }
        headers.append("via", "a".parse().unwrap());
        headers.append("via", "b".parse().unwrap());
        headers.append("x-long", "y".repeat(2000).parse().unwrap());
        let mut kept = without_credentials(&headers, &[HeaderName::from_static("x-knock-knock")]);
        assert_eq!(
            kept.remove("x-long"),
            Some("y".repeat(1024).into()),
            "what is long is cut"
        );
        assert_eq!(
            Value::Object(kept),
            json!({ "x-merchant-id": "m-1", "x-careem-signature": "ab12", "via": "a, b" })
        );
    }
}
