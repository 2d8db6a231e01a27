//! The answer to a provider: in the provider's own format if its file has one, else in the contract's.

use std::net::IpAddr;

use axum::{
    body::Body,
    http::{Response, StatusCode, header::CONTENT_TYPE},
};
use serde::Serialize;

use crate::{
    event::{EventId, ORDER_CREATED},
    intake::Intake,
    journal::Appended,
    memory::WebhookOutcome,
    provider::{Admission, FormattedAnswer, WebhookAnswer},
    registry::Enabled,
    serving::{
        audit::{NO_PROVIDER, RefusalNote},
        limit::Limited,
        refusal::{Reason, json_response},
    },
};

/// Message of an answer that waited for the outcome.
const PROCESSED: &str = "Webhook processed successfully";

/// The answer of the contract; its fields in its order.
#[derive(Serialize)]
struct Accepted<'a> {
    success: bool,
    message: &'static str,
    data: AcceptedData<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AcceptedData<'a> {
    request_id: &'a str,
    event_id: EventId,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<&'a str>,
    status: &'static str,
    duplicate: bool,
}

/// 200 in the provider's own format; none where it has none.
pub(super) fn in_own_format(
    enabled: &Enabled,
    admission: &Admission,
    request_id: &str,
    appended: Appended,
    body: &[u8],
) -> Option<Response<Body>> {
    let remote = enabled.outbound.as_ref();
    let confirms = remote.is_some_and(|remote| remote.spec.confirm_within.is_some());
    let is_pending = confirms && &*admission.webhook_type == ORDER_CREATED;
    let answer = WebhookAnswer::Accepted {
        order_id: &admission.external_order_id,
        event_id: &admission.event_id.to_string(),
        duplicate: appended.duplicate,
        pending: is_pending,
    };
    let told = enabled.provider.answer(answer, request_id, body)?;
    let status = told.status.and_then(|status| StatusCode::from_u16(status).ok());
    let empty = json_response(status.unwrap_or(StatusCode::OK), String::new(), request_id);
    Some(in_own_words(empty, told))
}

/// 200 in the contract's format. `outcome`: what became of the webhook, where that was waited for and came in time.
pub(super) fn contract_answer(
    request_id: &str,
    event_id: EventId,
    appended: Appended,
    outcome: Option<&WebhookOutcome>,
) -> Response<Body> {
    let (message, status, order_id) = match outcome {
        Some(WebhookOutcome::Created(order_id)) => (PROCESSED, "created", order_id.as_deref()),
        Some(WebhookOutcome::Forwarded) => (PROCESSED, "forwarded", None),
        Some(WebhookOutcome::NotForwarded) | None => ("Webhook accepted", "accepted", None),
    };
    let data = AcceptedData {
        request_id,
        event_id,
        order_id,
        status,
        duplicate: appended.duplicate,
    };
    match serde_json::to_string(&Accepted {
        success: true,
        message,
        data,
    }) {
        Ok(body) => json_response(StatusCode::OK, body, request_id),
        Err(_) => Reason::Internal.response(request_id),
    }
}

/// The answer to a heartbeat; none where the request is none, or the provider sends none. Nothing is recorded of it, and
/// its sender learns only that the hub is there.
pub(super) fn heartbeat(enabled: &Enabled, request_id: &str, body: &[u8]) -> Option<Response<Body>> {
    let told = enabled.provider.answer(WebhookAnswer::Heartbeat, request_id, body)?;
    let status = told.status.and_then(|status| StatusCode::from_u16(status).ok());
    let empty = json_response(status.unwrap_or(StatusCode::OK), String::new(), request_id);
    Some(in_own_words(empty, told))
}

fn in_own_words(mut response: Response<Body>, told: FormattedAnswer) -> Response<Body> {
    if told.body.is_empty() {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    *response.body_mut() = Body::from(told.body);
    response
}

/// A refusal in the provider's own format, where it has one; the HTTP status says the same in both.
pub(super) fn refuse_to(enabled: &Enabled, reason: &Reason, request_id: &str, client: IpAddr) -> Response<Body> {
    let response = refuse(&enabled.name, reason, request_id, client);
    let answer = WebhookAnswer::Refused {
        code: reason.status().1,
        message: &reason.to_string(),
    };
    match enabled.provider.answer(answer, request_id, &[]) {
        Some(told) => in_own_words(response, told),
        None => response,
    }
}

impl Intake {
    /// Refuses, and counts that against the address where it is the caller's fault.
    pub(super) fn refuse_counted(
        &self,
        provider: &Enabled,
        reason: &Reason,
        request_id: &str,
        client: IpAddr,
    ) -> Response<Body> {
        if reason.counts_against_address() {
            self.limits.note_refused(Some(provider), client);
        }
        refuse_to(provider, reason, request_id, client)
    }
}

impl From<Limited> for Reason {
    fn from(limited: Limited) -> Self {
        Self::RateLimited(limited.retry_after_seconds)
    }
}

/// A refusal as every provider reads it, counted, with what the audit is to know of it.
pub(super) fn refuse(provider: &str, reason: &Reason, request_id: &str, client: IpAddr) -> Response<Body> {
    let (_, code) = reason.status();
    metrics::counter!("webhooks_rejected_total", "provider" => provider.to_owned(), "reason" => code).increment(1);
    if matches!(reason, Reason::Unverified(_)) {
        metrics::counter!("signature_failures_total", "provider" => provider.to_owned()).increment(1);
    }
    let mut response = reason.response(request_id);
    if let Some(refused) = response.extensions_mut().get_mut::<RefusalNote>() {
        refused.client = Some(client);
        refused.provider = (provider != NO_PROVIDER).then(|| provider.to_owned());
    }
    response
}
