//! The answer to a refused request: reason → status, body, metric label, `Retry-After`.
//!
//! The hub's own faults are always 5xx: many providers drop an event for good on a 4xx.

use std::any::Any;

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::json;

use super::{
    audit::{RefusalNote, WEBHOOK},
    request_id,
};
use crate::{journal::AppendError, provider, verification};

/// `Retry-After` of the hub's own faults, in seconds: an outage of the log is shorter than that, or much longer.
pub(crate) const RETRY_AFTER_SECONDS: &str = "5";

/// Why a webhook is not accepted, in the order of the checks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No such endpoint.
    #[error("no such endpoint")]
    NotFound,
    /// The endpoint takes only the methods that are named.
    #[error("this endpoint takes {0}")]
    MethodNotAllowed(&'static str),
    /// The provider is not known or not enabled.
    #[error("provider is not known or not enabled")]
    ProviderNotFound,
    /// `REQUIRE_HTTPS`, and the client spoke plain HTTP.
    #[error("this service is called by https only")]
    HttpsRequired,
    /// The client's address is not on the provider's list.
    #[error("this address may not call this endpoint")]
    IpNotAllowed,
    /// The address is blocked, or the provider over its limit; for so many seconds.
    #[error("too many requests; send it again in {0} s")]
    RateLimited(u64),
    /// More than `MAX_PAYLOAD_SIZE`, compressed or not.
    #[error("the body is larger than {0} bytes")]
    PayloadTooLarge(usize),
    /// It unpacks to more than so many times its packed size.
    #[error("the body unpacks to more than {0} times its packed size; send it with less packing")]
    UnpacksTooFar(usize),
    /// The body did not come in time, or too slowly.
    #[error("the body did not arrive in time")]
    RequestTimeout,
    /// The body could not be read to its end.
    #[error("the body could not be read: {0}")]
    UnreadableBody(&'static str),
    /// More bodies at a time than there is room for.
    #[error("too many requests at a time")]
    Overloaded,
    /// The same, and its address holds most of the memory.
    #[error("too many requests at a time, and this address sends most of them")]
    HoldsMost,
    /// The log is nearly full, and the provider put more on it lately than is left.
    #[error("the event log is nearly full, and this provider filled more of it lately than is left; send it again")]
    LogNearlyFull,
    /// It was not verified.
    #[error(transparent)]
    Unverified(#[from] verification::Refusal),
    /// The branch's own secrets are not known while PostgreSQL is away.
    #[error("the branch's secrets cannot be looked up for now; send it again")]
    SecretsUnavailable,
    /// It is not what the provider sends.
    #[error(transparent)]
    Provider(#[from] provider::AdmissionRefusal),
    /// JetStream did not acknowledge.
    #[error("the event could not be stored; send it again")]
    EventLogUnavailable(AppendError),
    /// A fault of the hub.
    #[error("internal error; send it again")]
    Internal,
}

impl Reason {
    /// HTTP status and `error.code`.
    pub const fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND"),
            Self::MethodNotAllowed(_) => (StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED"),
            Self::ProviderNotFound => (StatusCode::NOT_FOUND, "PROVIDER_NOT_FOUND"),
            Self::HttpsRequired => (StatusCode::FORBIDDEN, "HTTPS_REQUIRED"),
            Self::IpNotAllowed => (StatusCode::FORBIDDEN, "IP_NOT_ALLOWED"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::PayloadTooLarge(_) | Self::UnpacksTooFar(_) => (StatusCode::PAYLOAD_TOO_LARGE, "PAYLOAD_TOO_LARGE"),
            Self::RequestTimeout => (StatusCode::REQUEST_TIMEOUT, "REQUEST_TIMEOUT"),
            Self::UnreadableBody(_) | Self::Provider(provider::AdmissionRefusal::InvalidPayload(_)) => {
                (StatusCode::BAD_REQUEST, "INVALID_PAYLOAD")
            }
            Self::Unverified(verification::Refusal::InvalidSignature) => {
                (StatusCode::UNAUTHORIZED, "INVALID_SIGNATURE")
            }
            Self::Unverified(verification::Refusal::SignatureExpired) => {
                (StatusCode::UNAUTHORIZED, "SIGNATURE_EXPIRED")
            }
            Self::Unverified(verification::Refusal::InvalidToken) => (StatusCode::UNAUTHORIZED, "INVALID_TOKEN"),
            Self::SecretsUnavailable => (StatusCode::SERVICE_UNAVAILABLE, "SECRETS_UNAVAILABLE"),
            Self::Overloaded | Self::HoldsMost => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED"),
            Self::LogNearlyFull => (StatusCode::SERVICE_UNAVAILABLE, "EVENT_LOG_NEARLY_FULL"),
            Self::EventLogUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "EVENT_LOG_UNAVAILABLE"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        }
    }

    /// Whether it counts against the client's address: what a stranger may get by trying, before anything is verified.
    /// A provider with an address that is not on the list, or with an unreadable verified webhook, is not one.
    pub const fn counts_against_address(&self) -> bool {
        match self {
            Self::ProviderNotFound
            | Self::PayloadTooLarge(_)
            | Self::UnpacksTooFar(_)
            | Self::RequestTimeout
            | Self::UnreadableBody(_)
            | Self::HoldsMost
            | Self::Unverified(_) => true,
            Self::NotFound
            | Self::MethodNotAllowed(_)
            | Self::HttpsRequired
            | Self::IpNotAllowed
            | Self::RateLimited(_)
            | Self::Provider(_)
            | Self::SecretsUnavailable
            | Self::Overloaded
            | Self::LogNearlyFull
            | Self::EventLogUnavailable(_)
            | Self::Internal => false,
        }
    }

    /// The answer.
    pub fn response(&self, request_id: &str) -> Response<Body> {
        let (status, code) = self.status();
        let body = json!({
            "success": false,
            "error": { "code": code, "message": self.to_string() },
            "requestId": request_id,
        });
        let mut response = json_response(status, body.to_string(), request_id);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        if let Self::RateLimited(seconds) = self {
            response.headers_mut().insert(header::RETRY_AFTER, (*seconds).into());
        }
        if let Self::MethodNotAllowed(methods) = self {
            response
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        if matches!(self, Self::RequestTimeout | Self::HoldsMost | Self::PayloadTooLarge(_)) {
            // The rest of the body is not read, so the connection cannot be reused.
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let cause = match self {
            Self::EventLogUnavailable(error) => error.to_string(),
            other => other.to_string(),
        };
        response.extensions_mut().insert(RefusalNote {
            kind: WEBHOOK,
            provider: None,
            client: None,
            code,
            cause,
        });
        response
    }
}

/// A JSON answer that carries the request's id.
pub fn json_response(status: StatusCode, body: String, request_id: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(request_id) {
        headers.insert(request_id::HEADER, id);
    }
    response
}

/// The answer where a handler panicked: 500, so that the provider sends it again.
pub fn after_panic(_panic: Box<dyn Any + Send>) -> Response<Body> {
    // The panic's message may quote the request, so it is dropped; the panic hook has logged its location.
    metrics::counter!("webhooks_rejected_total", "provider" => "_", "reason" => "INTERNAL_ERROR").increment(1);
    Reason::Internal.response("")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Reason> {
        vec![
            Reason::NotFound,
            Reason::MethodNotAllowed("POST"),
            Reason::ProviderNotFound,
            Reason::HttpsRequired,
            Reason::IpNotAllowed,
            Reason::RateLimited(7),
            Reason::PayloadTooLarge(1),
            Reason::UnpacksTooFar(1),
            Reason::RequestTimeout,
            Reason::UnreadableBody("x"),
            Reason::Overloaded,
            Reason::HoldsMost,
            Reason::LogNearlyFull,
            Reason::SecretsUnavailable,
            Reason::Unverified(verification::Refusal::InvalidSignature),
            Reason::Unverified(verification::Refusal::SignatureExpired),
            Reason::Unverified(verification::Refusal::InvalidToken),
            Reason::Provider(provider::AdmissionRefusal::InvalidPayload("x".into())),
            Reason::EventLogUnavailable(AppendError::Timeout),
            Reason::Internal,
        ]
    }

    #[test]
    fn every_refusal_is_in_the_openapi_description() {
        let document: serde_json::Value = serde_json::from_str(crate::intake::OPENAPI).unwrap();
        let codes = document["components"]["schemas"]["Refused"]["properties"]["error"]["properties"]["code"]["enum"]
            .as_array()
            .unwrap();
        let responses = &document["paths"]["/api/webhooks/{provider}"]["post"]["responses"];
        let known: std::collections::HashSet<_> = all().iter().map(|reason| reason.status().1).collect();
        for reason in all() {
            let (status, code) = reason.status();
            assert!(codes.iter().any(|one| one == code), "{code}");
            assert!(responses[status.as_str()].is_object(), "{status}");
        }
        assert_eq!(codes.len(), known.len(), "a code that no reason has");
    }

    #[test]
    fn the_hubs_own_faults_are_5xx() {
        for reason in all() {
            let ours = matches!(
                reason,
                Reason::Overloaded
                    | Reason::HoldsMost
                    | Reason::LogNearlyFull
                    | Reason::SecretsUnavailable
                    | Reason::EventLogUnavailable(_)
                    | Reason::Internal
            );
            assert_eq!(reason.status().0.is_server_error(), ours, "{reason:?}");
        }
        let response = Reason::EventLogUnavailable(AppendError::Timeout).response("req-1");
        assert_eq!(response.headers()[header::RETRY_AFTER], RETRY_AFTER_SECONDS);
        assert_eq!(response.headers()["x-request-id"], "req-1");
        assert_eq!(Reason::RateLimited(7).response("").headers()[header::RETRY_AFTER], "7");
    }

    #[test]
    fn the_hubs_own_faults_count_against_no_address() {
        for reason in all() {
            // The sender that holds most of the memory causes the shortage, so this refusal counts against it.
            let is_error = reason.status().0.is_server_error() && reason != Reason::HoldsMost;
            assert!(!(is_error && reason.counts_against_address()), "{reason:?}");
        }
        assert!(Reason::Unverified(verification::Refusal::InvalidSignature).counts_against_address());
        assert!(!Reason::Provider(provider::AdmissionRefusal::InvalidPayload("x".into())).counts_against_address());
    }
}
