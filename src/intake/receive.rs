//! One webhook through the checks of the contract, in their order, onto the log, and its answer.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, Path, Request, State, rejection::PathRejection},
    http::{HeaderMap, HeaderName, Response, StatusCode, Uri, header::CONTENT_TYPE},
    middleware::Next,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{
    Intake,
    audit::{NO_PROVIDER, Refused},
    authenticate, body,
    client_ip::{came_by_tls, client_ip},
    limit::{Limited, Scope},
    refusal::{Reason, json_response},
    request_id, structure,
};
use crate::{
    event::{Envelope, EventId, EventType, NewEvent, RequestFacts},
    journal::Appended,
    provider::{Admission, Enabled, Said, Told},
    telemetry::trace_context,
    verification::{Unverified, Verified},
};

/// Headers that are credentials by their name; they are left out of everything that is stored or shown.
const CREDENTIALS: [&str; 2] = ["cookie", "set-cookie"];
/// Parts of names that make a header a credential.
const CREDENTIAL_PARTS: [&str; 8] = [
    "auth",
    "token",
    "secret",
    "api-key",
    "apikey",
    "password",
    "credential",
    "session",
];
/// Longest header value that is kept.
const MAX_HEADER_CHARS: usize = 1024;

/// `POST /api/webhooks/{provider}`, and below it the paths that the provider's file names.
pub async fn receive(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    name: Result<Path<HashMap<String, String>>, PathRejection>,
    request: Request,
) -> Response<Body> {
    let began = Instant::now();
    let (parts, request_body) = request.into_parts();
    let request_id = request_id::of(&parts.headers);
    let client = client_ip(peer.ip(), &parts.headers, &intake.settings.trusted_proxies);
    // A name that is no UTF-8 is nobody's.
    let names = name.map(|Path(names)| names).unwrap_or_default();
    let enabled = match at_the_door(&intake, &names, client) {
        Ok(enabled) => enabled,
        Err(turned) => return turned.away(request_body, &request_id, client).await,
    };
    let limits = &intake.settings;
    let read = body::read(
        &parts.headers,
        request_body,
        &intake.budget,
        limits.max_payload_bytes,
        limits.request_timeout,
    );
    let held = match read.await {
        Ok(held) => held,
        Err(reason) => return intake.refuse_counted(enabled, &reason, &request_id, client),
    };
    let now = Utc::now();
    let public_url = limits.public_url.as_deref();
    let unverified = Unverified::new(&parts.method, public_url, &parts.uri, &parts.headers, &held.bytes);
    let verified = match authenticate::verified(&intake, enabled, unverified, now).await {
        Ok(verified) => verified,
        Err(reason) => return intake.refuse_counted(enabled, &reason, &request_id, client),
    };
    let point = match intake.limits.take(enabled) {
        Ok(point) => point,
        Err(limited) => return refuse_to(enabled, &limited.into(), &request_id, Some(client)),
    };
    let admission = match structure::check(&held.bytes).and_then(|()| enabled.provider.read(&verified)) {
        Ok(admission) => admission,
        Err(refusal) => return refuse_to(enabled, &Reason::Provider(refusal), &request_id, Some(client)),
    };
    metrics::counter!("webhooks_received_total", "provider" => Arc::clone(&enabled.name)).increment(1);
    let envelope = envelope(
        enabled,
        &verified,
        &admission,
        now,
        &request_id,
        &parts.uri,
        client.to_string(),
    );
    match intake
        .journal
        .append(NewEvent {
            envelope,
            payload: held.bytes.clone(),
        })
        .await
    {
        Ok(appended) => {
            metrics::histogram!("webhook_accept_duration_seconds", "provider" => Arc::clone(&enabled.name))
                .record(began.elapsed());
            // A webhook that was there before may be one that somebody caught and sends again.
            if !appended.duplicate {
                intake.limits.note_accepted(enabled, client);
            }
            log_accepted(&enabled.name, &admission, &request_id, began, appended);
            accepted(enabled, &admission, &request_id, appended, &held.bytes)
        }
        Err(error) => {
            intake.limits.give_back(enabled, point);
            refuse_to(enabled, &Reason::EventLogUnavailable(error), &request_id, Some(client))
        }
    }
}

/// The checks that need nothing of the body, in their order.
fn at_the_door<'a>(
    intake: &'a Intake,
    names: &HashMap<String, String>,
    client: IpAddr,
) -> Result<&'a Enabled, Turned<'a>> {
    let below = names.get("below").map_or("", String::as_str);
    let known = names.get("provider").and_then(|name| intake.registry.get(name));
    let Some(enabled) = known.filter(|enabled| enabled.provider.knows_path(below)) else {
        intake.limits.note_refused(None, client);
        let reason = if below.is_empty() {
            Reason::ProviderNotFound
        } else {
            Reason::NotFound
        };
        return Err(Turned::new(None, reason));
    };
    if !enabled.allow_list.allows(client) {
        return Err(Turned::new(Some(enabled), Reason::IpNotAllowed));
    }
    match intake.limits.check(enabled, client) {
        Ok(()) => Ok(enabled),
        Err(limited) => Err(Turned {
            provider: Some(enabled),
            // A provider is to see its answer; what a blocked address sends is not read at all.
            is_read: limited.scope == Scope::Provider,
            reason: limited.into(),
        }),
    }
}

/// A request that is turned away at the door.
struct Turned<'a> {
    /// None where it is not known: the name is the caller's; as a label it would let anyone make metrics without end.
    provider: Option<&'a Enabled>,
    reason: Reason,
    /// Its body is read, and thrown away.
    is_read: bool,
}

impl<'a> Turned<'a> {
    const fn new(provider: Option<&'a Enabled>, reason: Reason) -> Self {
        Self {
            provider,
            reason,
            is_read: true,
        }
    }

    async fn away(self, body: Body, request_id: &str, client: IpAddr) -> Response<Body> {
        if self.is_read {
            body::discard(body).await;
        }
        match self.provider {
            Some(enabled) => refuse_to(enabled, &self.reason, request_id, Some(client)),
            None => refuse(NO_PROVIDER, &self.reason, request_id, Some(client)),
        }
    }
}

/// `REQUIRE_HTTPS`: goes on only with what came by TLS.
pub async fn require_https(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response<Body> {
    let settings = &intake.settings;
    let (peer, tls) = (peer.ip(), settings.tls.is_some());
    if came_by_tls(peer, tls, request.headers(), &settings.trusted_proxies) {
        return next.run(request).await;
    }
    let client = client_ip(peer, request.headers(), &settings.trusted_proxies);
    let request_id = request_id::of(request.headers());
    body::discard(request.into_body()).await;
    refuse(NO_PROVIDER, &Reason::HttpsRequired, &request_id, Some(client))
}

/// Any other method on a webhook's path.
pub async fn method_not_allowed(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake.turned_away(&Reason::MethodNotAllowed, peer, request).await
}

/// A provider's health where there is no such provider.
pub fn unknown_provider(headers: &HeaderMap) -> Response<Body> {
    Reason::ProviderNotFound.response(&request_id::of(headers))
}

/// Any other path.
pub async fn not_found(
    State(intake): State<Arc<Intake>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response<Body> {
    intake.turned_away(&Reason::NotFound, peer, request).await
}

impl Intake {
    async fn turned_away(&self, reason: &Reason, peer: SocketAddr, request: Request) -> Response<Body> {
        let request_id = request_id::of(request.headers());
        let client = client_ip(peer.ip(), request.headers(), &self.settings.trusted_proxies);
        body::discard(request.into_body()).await;
        refuse(NO_PROVIDER, reason, &request_id, Some(client))
    }
}

fn envelope(
    enabled: &Enabled,
    verified: &Verified<'_>,
    admission: &Admission,
    now: DateTime<Utc>,
    request_id: &str,
    uri: &Uri,
    client_address: String,
) -> Envelope {
    let (proof, headers) = (verified.proof(), verified.headers());
    Envelope {
        id: admission.event_id,
        event_type: EventType::WebhookReceived,
        root_id: admission.event_id,
        cause_id: None,
        provider: Arc::clone(&enabled.name),
        external_order_id: admission.external_order_id.clone(),
        webhook_type: admission.webhook_type.to_string(),
        branch: None,
        time: now,
        received_at: now,
        request_id: request_id.to_owned(),
        traceparent: Some(trace_context::of(headers)),
        request: Some(RequestFacts {
            method: verified.method().to_string(),
            // A query could hold a key; the path alone says what was called.
            path: uri.path().to_owned(),
            client_address,
            scheme: proof.scheme().to_owned(),
            secrets: proof.secrets().to_vec(),
            signed_at: proof.signed_at(),
            signature: proof.signature().map(str::to_owned),
            headers: without_credentials(headers, &enabled.credential_headers),
        }),
    }
}

/// Request headers as JSON, less every credential: by its name, or because the provider's scheme takes it for one.
fn without_credentials(headers: &HeaderMap, of_scheme: &[HeaderName]) -> Map<String, Value> {
    let is_credential =
        |name: &str| CREDENTIALS.contains(&name) || CREDENTIAL_PARTS.iter().any(|part| name.contains(part));
    let mut kept = Map::new();
    for (name, value) in headers {
        let is_of_scheme = of_scheme.contains(name);
        let name = name.as_str();
        if is_of_scheme || is_credential(name) {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        let value: String = value
            .chars()
            .take(MAX_HEADER_CHARS)
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        match kept.get_mut(name) {
            Some(Value::String(all)) => *all = format!("{all}, {value}"),
            _ => {
                kept.insert(name.to_owned(), Value::String(value));
            }
        }
    }
    kept
}

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
    status: &'static str,
    duplicate: bool,
}

/// 200 in the provider's own format, where it has one.
fn accepted(
    enabled: &Enabled,
    admission: &Admission,
    request_id: &str,
    appended: Appended,
    body: &[u8],
) -> Response<Body> {
    let event_id = admission.event_id;
    let said = Said::Accepted {
        order_id: &admission.external_order_id,
        event_id: &event_id.to_string(),
        duplicate: appended.duplicate,
    };
    if let Some(told) = enabled.provider.answer(said, request_id, body) {
        let status = told.status.and_then(|status| StatusCode::from_u16(status).ok());
        let empty = json_response(status.unwrap_or(StatusCode::OK), String::new(), request_id);
        return in_own_words(empty, told);
    }
    let data = AcceptedData {
        request_id,
        event_id,
        status: "accepted",
        duplicate: appended.duplicate,
    };
    match serde_json::to_string(&Accepted {
        success: true,
        message: "Webhook accepted",
        data,
    }) {
        Ok(body) => json_response(StatusCode::OK, body, request_id),
        Err(_) => Reason::Internal.response(request_id),
    }
}

fn in_own_words(mut response: Response<Body>, told: Told) -> Response<Body> {
    if told.body.is_empty() {
        response.headers_mut().remove(CONTENT_TYPE);
    }
    *response.body_mut() = Body::from(told.body);
    response
}

/// A refusal in the provider's own format, where it has one; the HTTP status says the same in both.
fn refuse_to(enabled: &Enabled, reason: &Reason, request_id: &str, client: Option<std::net::IpAddr>) -> Response<Body> {
    let response = refuse(&enabled.name, reason, request_id, client);
    let said = Said::Refused {
        code: reason.status().1,
        message: &reason.to_string(),
    };
    match enabled.provider.answer(said, request_id, &[]) {
        Some(told) => in_own_words(response, told),
        None => response,
    }
}

fn log_accepted(provider: &str, admission: &Admission, request_id: &str, began: Instant, appended: Appended) {
    tracing::debug!(
        provider,
        request_id,
        order_id = admission.external_order_id,
        event_id = %admission.event_id,
        sequence = appended.sequence,
        duplicate = appended.duplicate,
        processing_time = began.elapsed().as_millis() as u64,
        "webhook accepted"
    );
}

impl Intake {
    /// Refuses, and counts that against the address where it is the caller's fault.
    fn refuse_counted(&self, provider: &Enabled, reason: &Reason, request_id: &str, client: IpAddr) -> Response<Body> {
        if reason.counts_against_address() {
            self.limits.note_refused(Some(provider), client);
        }
        refuse_to(provider, reason, request_id, Some(client))
    }
}

impl From<Limited> for Reason {
    fn from(limited: Limited) -> Self {
        Self::RateLimited(limited.retry_after_seconds)
    }
}

fn refuse(provider: &str, reason: &Reason, request_id: &str, client: Option<IpAddr>) -> Response<Body> {
    let (_, code) = reason.status();
    metrics::counter!("webhooks_rejected_total", "provider" => provider.to_owned(), "reason" => code).increment(1);
    if matches!(reason, Reason::Unverified(_)) {
        metrics::counter!("signature_failures_total", "provider" => provider.to_owned()).increment(1);
    }
    let mut response = reason.response(request_id);
    if let Some(refused) = response.extensions_mut().get_mut::<Refused>() {
        refused.client = client;
        refused.provider = (provider != NO_PROVIDER).then(|| provider.to_owned());
    }
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
        let kept = without_credentials(&headers, &[HeaderName::from_static("x-knock-knock")]);
        assert_eq!(
            Value::Object(kept),
            json!({ "x-merchant-id": "m-1", "x-careem-signature": "ab12", "via": "a, b" })
        );
    }
}
