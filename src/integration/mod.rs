//! The requests of the backend: statuses, menus, the availability of items and the states of branches for providers.
//!
//! As with webhooks, the answer depends only on the event log: 202 means that the request is on it, fsynced.
//! `route` takes a request, [`token`] checks the caller, `status`, `menu`, `items` and `store` are the four routes (`ROUTES`), `fields` reads what
//! their bodies share, [`keys`] finds repeats, [`refusal`] answers a refused request. [`crate::push`] carries a request out.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Path, Request, State},
    http::{HeaderMap, Response, StatusCode, request::Parts},
    routing::on,
};
use bytes::Bytes;
use chrono::Utc;
use serde_json::json;
use uuid::Uuid;

use self::{
    keys::{KeyUse, Wish},
    refusal::{IntegrationRefusal, RefusedRequest},
    route::Route,
    token::ServiceTokens,
};
use crate::{
    config,
    event::{Envelope, EventId, NewEvent, Principal},
    journal::{AppendError, Journal, read::event_at},
    registry::Registry,
    remote::Remote,
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
};

mod route;
mod fields;
mod status;
mod menu;
mod items;
mod store;
pub mod token;
pub mod keys;
pub mod refusal;

/// The routes.
static ROUTES: [&Route; 4] = [&status::ROUTE, &menu::ROUTE, &items::ROUTE, &store::ROUTE];

/// The header that makes repeats of a request one.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Longest key that is taken, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The state that all requests share.
pub struct Integration {
    /// Providers that are switched on.
    pub registry: Arc<Registry>,
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
    let mut router = Router::new();
    for route in ROUTES {
        let take = move |state: State<_>, peer: ConnectInfo<_>, path: Path<_>, request: Request| {
            route::take(route, state, peer, path, request)
        };
        router = router.route(route.path, on(route.method, take).fallback(refusal::method_not_allowed));
    }
    router
        .with_state(integration)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(after_panic))
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

    /// Whether the backend calls, for a provider to which requests can be sent; that provider. The address and the connection are known
    /// from then on.
    fn check(&self, parts: &Parts, provider: &str, client: IpAddr) -> Result<&Remote, IntegrationRefusal> {
        if !self.tokens.know(&parts.headers) {
            return Err(self.stranger(client));
        }
        self.limits.note_token(client);
        if let Some(guest) = parts.extensions.get::<Guest>() {
            guest.note_verified();
        }
        let enabled = self
            .registry
            .get(provider)
            .ok_or(IntegrationRefusal::ProviderNotFound)?;
        match &enabled.outbound {
            Some(remote) => Ok(remote),
            None => Err(IntegrationRefusal::NotConfigured(provider.to_owned())),
        }
    }

    /// Counted and blocked as at the other routes. A caller with the right token is admitted from a blocked address, too: another caller may
    /// use that address, and a wrong token may have been corrected.
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

    /// Appends the event that a request becomes, with its subject and branch; the answer.
    async fn append(
        &self,
        route: &Route,
        provider: &str,
        (subject, branch): (String, Option<String>),
        payload: Bytes,
        headers: &HeaderMap,
    ) -> Result<Response<Body>, IntegrationRefusal> {
        let request_id = request_id::of(headers);
        let now = Utc::now();
        let key = idempotency_key(headers)?;
        let id = match key {
            Some(key) => EventId::of_webhook(
                provider,
                &[
                    b"integration",
                    route.kind.as_bytes(),
                    subject.as_bytes(),
                    key.as_bytes(),
                ],
            ),
            None => EventId(Uuid::now_v7()),
        };
        let envelope = Envelope {
            id,
            event_type: route.event_type,
            root_id: id,
            cause_id: None,
            cause_sequence: None,
            provider: provider.into(),
            external_order_id: subject,
            webhook_type: route.webhook_type.to_owned(),
            branch,
            principal: Principal::of_backend(),
            time: now,
            received_at: now,
            request_id: request_id.clone(),
            traceparent: Some(trace_context::of(headers)),
            request: None,
            idempotency_key: None,
        };
        let duplicate = self.append_once(NewEvent { envelope, payload }, key.is_some()).await?;
        metrics::counter!("integration_requests_total", "kind" => route.kind, "code" => "ACCEPTED").increment(1);
        tracing::debug!(request_id, event_id = %id, kind = route.kind, duplicate, "accepted from the backend");
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
