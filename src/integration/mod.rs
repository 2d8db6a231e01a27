//! The requests of the backend: statuses, menus, the availability of items and the states of branches for providers.
//!
//! As with webhooks, the answer depends only on the event log: 202 means that the request is on it, fsynced.
//! [`token`] checks the caller, [`keys`] finds repeats, [`status`], [`menu`], [`items`] and [`store`] handle the four requests, [`refusal`] answers
//! a refused one. [`crate::push`] carries a request out.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Response, StatusCode, request::Parts},
    routing::{post, put},
};
use bytes::Bytes;
use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

use self::{
    keys::{KeyUse, Wish},
    refusal::{IntegrationRefusal, RefusedRequest},
    token::ServiceTokens,
};
use crate::{
    config,
    event::{Envelope, EventId, EventType, NewEvent, Principal},
    journal::{AppendError, Journal, read::event_at},
    provider::{admission::MAX_ORDER_ID_BYTES, outbound::Spec},
    registry::Registry,
    serving::{
        audit::NO_PROVIDER,
        body,
        body::{BodyBudget, BodyLimits, BufferedBody, Sender, SenderClass},
        client_ip::client_ip,
        connections::Guest,
        heavy::Heavy,
        limit::{Limits, address::Address},
        refusal::{after_panic, json_response},
        request_id,
    },
    telemetry::trace_context,
    text::segment,
};

pub mod token;
pub mod keys;
pub mod status;
pub mod menu;
pub mod items;
pub mod store;
pub mod refusal;

/// The header that makes repeats of a request one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key that is taken, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The state that all requests share.
pub struct Integration {
    /// Providers that are switched on.
    pub registry: Arc<Registry>,
    /// The providers to which requests can be sent.
    pub with_outbound: HashSet<String>,
    /// The log.
    pub journal: Journal,
    /// The backend's tokens.
    pub tokens: ServiceTokens,
    /// Limits.
    pub settings: config::Http,
    /// Bytes of bodies that may be held at a time, webhooks' included.
    pub budget: BodyBudget,
    /// Turns for work that takes long, shared with webhooks.
    pub heavy: Heavy,
    /// Blocked addresses, and the refusals that count towards a block.
    pub limits: Arc<Limits>,
}

/// The routes; the server records what is refused.
pub fn router(integration: Arc<Integration>) -> Router {
    Router::new()
        .route(
            "/api/integration/orders/{provider}/{order}/status",
            post(status::request).fallback(refusal::method_not_allowed),
        )
        .route(
            "/api/integration/menus/{provider}/{branch}",
            put(menu::request).fallback(refusal::method_not_allowed),
        )
        .route(
            "/api/integration/items/{provider}/{branch}",
            put(items::request).fallback(refusal::method_not_allowed),
        )
        .route(
            "/api/integration/stores/{provider}/{branch}",
            put(store::request).fallback(refusal::method_not_allowed),
        )
        .with_state(integration)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(after_panic))
}

/// The event that a request becomes.
struct AcceptedRequest {
    /// For metrics, and for keys.
    kind: &'static str,
    webhook_type: &'static str,
    event_type: EventType,
    provider: String,
    subject: String,
    branch: Option<String>,
}

impl Integration {
    fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> IpAddr {
        client_ip(peer.ip(), headers, &self.settings.trusted_proxies)
    }

    /// The caller and its request, for the record of a refusal.
    fn request_info(
        &self,
        kind: &'static str,
        provider: &str,
        peer: SocketAddr,
        headers: &HeaderMap,
    ) -> RefusedRequest {
        RefusedRequest {
            kind,
            provider: self.registry.get(provider).map(|enabled| enabled.name.to_string()),
            client: self.client(peer, headers),
        }
    }

    /// Whether the backend calls, about a provider that can be told something. Its address and its connection are known from then
    /// on.
    fn check(&self, parts: &Parts, provider: &str, client: IpAddr) -> Result<(), IntegrationRefusal> {
        if !self.tokens.know(&parts.headers) {
            return Err(self.stranger(client));
        }
        self.limits.note_token(client);
        if let Some(guest) = parts.extensions.get::<Guest>() {
            guest.note_verified();
        }
        if self.registry.get(provider).is_none() {
            return Err(IntegrationRefusal::ProviderNotFound);
        }
        if !self.with_outbound.contains(provider) {
            return Err(IntegrationRefusal::NotConfigured(provider.to_owned()));
        }
        Ok(())
    }

    /// How a provider is spoken to.
    fn outbound(&self, provider: &str) -> Option<&Spec> {
        Some(&self.registry.get(provider)?.outbound.as_ref()?.spec)
    }

    /// Counted and blocked as at the other doors. Who shows the token is let in from a blocked address, too: somebody else
    /// may stand behind it, and a token that was wrong may have been set right.
    fn stranger(&self, client: IpAddr) -> IntegrationRefusal {
        if let Err(limited) = self.limits.check_address(client) {
            return IntegrationRefusal::RateLimited(limited.retry_after_seconds);
        }
        self.limits.note_refused(None, client);
        IntegrationRefusal::InvalidToken
    }

    async fn read(
        &self,
        request_info: &RefusedRequest,
        headers: &HeaderMap,
        body: Body,
        max_bytes: usize,
    ) -> Result<BufferedBody, IntegrationRefusal> {
        let sender = Sender {
            address: Address::of(request_info.client),
            class: SenderClass::Backend,
            provider: request_info.provider.as_deref().unwrap_or(NO_PROVIDER).into(),
        };
        let reading = BodyLimits {
            budget: &self.budget,
            heavy: &self.heavy,
            sender: &sender,
            max_bytes,
            time: self.settings.request_timeout,
        };
        body::read(headers, body, &reading)
            .await
            .map_err(IntegrationRefusal::Body)
    }

    async fn append(
        &self,
        wanted: AcceptedRequest,
        payload: Bytes,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, IntegrationRefusal> {
        let request_id = request_id::of(headers);
        let now = Utc::now();
        let key = idempotency_key(headers)?;
        let id = match key {
            Some(key) => EventId::of_webhook(
                &wanted.provider,
                &[
                    b"integration",
                    wanted.kind.as_bytes(),
                    wanted.subject.as_bytes(),
                    key.as_bytes(),
                ],
            ),
            None => EventId(Uuid::now_v7()),
        };
        let envelope = Envelope {
            id,
            event_type: wanted.event_type,
            root_id: id,
            cause_id: None,
            cause_sequence: None,
            provider: wanted.provider.into(),
            external_order_id: wanted.subject,
            webhook_type: wanted.webhook_type.to_owned(),
            branch: wanted.branch,
            principal: Principal::of_backend(),
            time: now,
            received_at: now,
            request_id: request_id.clone(),
            traceparent: Some(trace_context::of(headers)),
            request: None,
            idempotency_key: None,
        };
        let duplicate = self.append_once(NewEvent { envelope, payload }, key.is_some()).await?;
        metrics::counter!("integration_requests_total", "kind" => wanted.kind, "code" => "ACCEPTED").increment(1);
        tracing::debug!(request_id, event_id = %id, kind = wanted.kind, duplicate, "accepted from the backend");
        let body = json!({
            "success": true,
            "data": { "eventId": id.to_string(), "requestId": request_id, "duplicate": duplicate },
        });
        Ok(json_response(StatusCode::ACCEPTED, body.to_string(), &request_id))
    }

    /// Appends an event, unless it has a key by which it was appended before; whether it was.
    async fn append_once(&self, event: NewEvent, has_key: bool) -> Result<bool, IntegrationRefusal> {
        let (id, connection) = (event.envelope.id, self.journal.connection());
        if !has_key {
            let appended = self.journal.accept(event).await;
            return Ok(appended.map_err(IntegrationRefusal::EventLogUnavailable)?.duplicate);
        }
        let (branch, payload) = (event.envelope.branch.clone(), event.payload.clone());
        let wish = Wish::of(branch.as_deref(), &payload);
        match keys::look_up(connection, id, &wish).await {
            KeyUse::No => {}
            KeyUse::Same => return Ok(true),
            KeyUse::Other => return Err(IntegrationRefusal::KeyReused),
        }
        let appended = self.journal.accept(event).await;
        let appended = appended.map_err(IntegrationRefusal::EventLogUnavailable)?;
        if !appended.duplicate {
            keys::note(connection, id, wish, appended.sequence).await;
            return Ok(false);
        }
        // The key is not in KEYS, or not yet: the log has the request that used it.
        match event_at(connection, appended.sequence).await {
            Ok(Some(first)) if first.envelope.id == id => {
                let kept = Wish::of(first.envelope.branch.as_deref(), &first.payload);
                let is_same = kept == wish;
                keys::note(connection, id, kept, appended.sequence).await;
                if is_same {
                    Ok(true)
                } else {
                    Err(IntegrationRefusal::KeyReused)
                }
            }
            Ok(_) => Ok(true),
            Err(error) => {
                tracing::warn!(
                    error = format!("{error:#}"),
                    "cannot read what an idempotency key was used for"
                );
                Err(IntegrationRefusal::EventLogUnavailable(AppendError::Timeout))
            }
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, IntegrationRefusal> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let fits = |key: &&str| (1..=MAX_KEY_BYTES).contains(&key.len());
    match key.to_str().ok().filter(fits) {
        Some(key) => Ok(Some(key)),
        None => Err(IntegrationRefusal::invalid(format!(
            "Idempotency-Key: expected 1 to {MAX_KEY_BYTES} printable ASCII characters"
        ))),
    }
}

/// An id of the path, as it may stand in an event and in other paths.
fn checked_id(what: &str, id: String) -> Result<String, IntegrationRefusal> {
    if id.len() > MAX_ORDER_ID_BYTES {
        return Err(IntegrationRefusal::invalid(format!(
            "{what}: expected 1 to {MAX_ORDER_ID_BYTES} bytes"
        )));
    }
    match segment::check(&id) {
        Ok(()) => Ok(id),
        Err(why) => Err(IntegrationRefusal::invalid(format!("{what}: {why}"))),
    }
}
