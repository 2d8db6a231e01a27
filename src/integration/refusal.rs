//! The answer to a refused request of the backend. The hub's own faults are 5xx: the backend should send the request again.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, State},
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
};
use serde_json::json;

use super::Integration;
use crate::{
    journal::AppendError,
    json::fault::{Fault, counted},
    serving::{
        audit::RefusalNote,
        refusal::{self, json_response},
        request_id,
    },
};

/// Why a request is not taken.
#[derive(Debug, thiserror::Error)]
pub enum IntegrationRefusal {
    /// `X-Service-Token` is missing or wrong.
    #[error("X-Service-Token is missing or wrong")]
    InvalidToken,
    /// The same, of an address that is blocked for it; for so many seconds.
    #[error("too many requests; send it again in {0} s")]
    RateLimited(u64),
    /// The provider is not known or not enabled.
    #[error("provider is not known or not enabled")]
    ProviderNotFound,
    /// The hub has no credentials for the provider.
    #[error("the hub cannot speak to {0}: set its CLIENT_ID and CLIENT_SECRET")]
    NotConfigured(String),
    /// The body could not be read.
    #[error(transparent)]
    Body(refusal::Reason),
    /// Its faults, each with its location.
    #[error("the request has {}, the first at {:?}: {}", counted(.0), .0[0].pointer, .0[0].message)]
    Faults(Vec<Fault>),
    /// The provider has no call for it: what it does not take, each with its location.
    #[error("the provider cannot be sent this: {}, the first at {:?}: {}", counted(.0), .0[0].pointer, .0[0].message)]
    NotSupported(Vec<Fault>),
    /// The key was used for another request.
    #[error(
        "Idempotency-Key: another request was accepted under this key within a day; use a key of its own for each request"
    )]
    KeyReused,
    /// JetStream did not acknowledge.
    #[error("the request could not be stored; send it again")]
    EventLogUnavailable(AppendError),
    /// A fault of the hub.
    #[error("internal error; send it again")]
    Internal,
}

impl IntegrationRefusal {
    /// Something is wrong beside the body.
    pub(super) fn invalid(message: String) -> Self {
        Self::Faults(vec![Fault {
            pointer: String::new(),
            message,
        }])
    }

    /// HTTP status and `error.code`.
    pub const fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::InvalidToken => (StatusCode::UNAUTHORIZED, "INVALID_TOKEN"),
            Self::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED"),
            Self::ProviderNotFound => (StatusCode::NOT_FOUND, "PROVIDER_NOT_FOUND"),
            Self::NotConfigured(_) => (StatusCode::SERVICE_UNAVAILABLE, "OUTBOUND_NOT_CONFIGURED"),
            Self::Body(reason) => reason.status(),
            Self::Faults(_) => (StatusCode::BAD_REQUEST, "INVALID_REQUEST"),
            Self::NotSupported(_) => (StatusCode::UNPROCESSABLE_ENTITY, "NOT_SUPPORTED"),
            Self::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED"),
            Self::EventLogUnavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "EVENT_LOG_UNAVAILABLE"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR"),
        }
    }

    /// The answer; also counted, with what the audit is to know of it.
    pub(super) fn answer(&self, request_info: &RefusedRequest, headers: &HeaderMap) -> Response<Body> {
        let request_id = request_id::of(headers);
        let (_, code) = self.status();
        metrics::counter!("integration_requests_total", "kind" => request_info.kind, "code" => code).increment(1);
        let mut response = match self {
            Self::Body(reason) => reason.response(&request_id),
            other => other.own_answer(&request_id),
        };
        let cause = match self {
            Self::EventLogUnavailable(error) => error.to_string(),
            other => other.to_string(),
        };
        response.extensions_mut().insert(RefusalNote {
            kind: request_info.kind,
            provider: request_info.provider.clone(),
            client: Some(request_info.client),
            code,
            cause,
        });
        response
    }

    fn own_answer(&self, request_id: &str) -> Response<Body> {
        let (status, code) = self.status();
        let mut error = json!({ "code": code, "message": self.to_string() });
        if let Self::Faults(faults) | Self::NotSupported(faults) = self {
            error["details"] = json!({ "faults": faults });
        }
        let body = json!({ "success": false, "error": error, "requestId": request_id });
        let mut response = json_response(status, body.to_string(), request_id);
        let retry_after = match self {
            Self::RateLimited(seconds) => Some((*seconds).into()),
            _ if status == StatusCode::SERVICE_UNAVAILABLE => {
                Some(HeaderValue::from_static(refusal::RETRY_AFTER_SECONDS))
            }
            _ => None,
        };
        if let Some(retry_after) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after);
        }
        response
    }
}

/// The facts of a request for the record of its refusal.
pub(super) struct RefusedRequest {
    /// Which request.
    pub(super) kind: &'static str,
    /// The provider that it is about; none if there is no such: the name is the caller's.
    pub(super) provider: Option<String>,
    /// The client address, as far as trusted proxies name it.
    pub(super) client: IpAddr,
}

/// Any other method on these paths.
pub async fn method_not_allowed(
    State(integration): State<Arc<Integration>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response<Body> {
    let mut response = refusal::Reason::MethodNotAllowed("POST").response(&request_id::of(&headers));
    response.headers_mut().remove(header::ALLOW);
    if let Some(refused) = response.extensions_mut().get_mut::<RefusalNote>() {
        refused.client = Some(integration.client(peer, &headers));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::routing::MethodFilter;

    use super::*;
    use crate::integration::ROUTES;

    #[test]
    fn every_refusal_is_in_the_openapi_description() {
        let document: serde_json::Value = serde_json::from_str(crate::intake::OPENAPI).unwrap();
        let schema = &document["components"]["schemas"]["IntegrationRefused"]["properties"]["error"];
        let codes = schema["properties"]["code"]["enum"].as_array().unwrap();
        let all = [
            IntegrationRefusal::InvalidToken,
            IntegrationRefusal::RateLimited(7),
            IntegrationRefusal::ProviderNotFound,
            IntegrationRefusal::NotConfigured("x".into()),
            IntegrationRefusal::Body(refusal::Reason::RequestTimeout),
            IntegrationRefusal::Body(refusal::Reason::PayloadTooLarge(1)),
            IntegrationRefusal::Body(refusal::Reason::UnreadableBody("x")),
            IntegrationRefusal::Body(refusal::Reason::Overloaded),
            IntegrationRefusal::invalid("x".into()),
            IntegrationRefusal::KeyReused,
            IntegrationRefusal::NotSupported(vec![Fault {
                pointer: String::new(),
                message: "x".into(),
            }]),
            IntegrationRefusal::EventLogUnavailable(AppendError::Timeout),
            IntegrationRefusal::Internal,
        ];
        for reason in &all {
            let (status, code) = reason.status();
            assert!(codes.iter().any(|one| one == code), "{code}");
            for route in ROUTES {
                let method = match route.method {
                    MethodFilter::POST => "post",
                    _ => "put",
                };
                let responses = &document["paths"][route.path][method]["responses"];
                assert!(responses[status.as_str()].is_object(), "{} {status}", route.path);
            }
            let ours = matches!(
                reason,
                IntegrationRefusal::NotConfigured(_)
                    | IntegrationRefusal::EventLogUnavailable(_)
                    | IntegrationRefusal::Internal
                    | IntegrationRefusal::Body(refusal::Reason::Overloaded)
            );
            assert_eq!(status.is_server_error(), ours, "{reason:?}");
            let waits = reason.own_answer("").headers().contains_key(header::RETRY_AFTER);
            assert_eq!(waits, [429, 503].contains(&status.as_u16()), "{reason:?}");
        }
    }
}
