//! The intake: it receives the webhooks of providers and answers them.
//!
//! [`receive`] makes the checks of the contract in their order. [`crate::serving`] provides what all routes share: the body
//! within its limits, its JSON, the client's address and its rate limit. [`reload`] reads secrets again. [`unmatched_route`]
//! answers requests that are not webhooks. Answers depend only on the event log.

use std::{net::IpAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderValue, Response, header::CONNECTION},
    middleware::{from_fn_with_state, map_request, map_response_with_state},
    routing::{get, post},
};
use tokio_util::sync::CancellationToken;

use crate::{
    branches::Branches,
    config,
    journal::Journal,
    memory::Orders,
    registry::{Enabled, Registry, allow_list},
    serving::{
        audit,
        body::{self, SenderClass},
        connections::{Connections, Peer},
        heavy, limit, paths,
        refusal::{self, Reason},
    },
    telemetry::LastWebhooks,
};

pub mod receive;
pub mod reload;
mod authenticate;

use self::receive::unmatched_route;

/// The description of all routes, OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

/// The state that all requests share.
pub struct Intake {
    /// Providers that are switched on.
    pub registry: Arc<Registry>,
    /// The log.
    pub journal: Journal,
    /// Which webhooks were there before.
    pub orders: Arc<Orders>,
    /// Limits and trusted proxies.
    pub settings: config::Http,
    /// Secrets of branches.
    pub branches: Arc<Branches>,
    /// Bytes of bodies that may be held at a time.
    pub budget: body::BodyBudget,
    /// Turns for work that takes long.
    pub heavy: heavy::Heavy,
    /// Rate limits.
    pub limits: Arc<limit::Limits>,
    /// When each provider's last webhook came.
    pub last_webhooks: Arc<LastWebhooks>,
    /// Ends when the hub was asked to stop.
    pub stopping: CancellationToken,
    /// Takes note of what is refused.
    pub audit: Arc<audit::Audit>,
}

impl Intake {
    /// Which connections of the public port stay open. Behind a trusted proxy are many clients; their bodies are distinguished.
    pub fn connections(self: Arc<Self>, most: usize) -> Arc<Connections> {
        Connections::public(most, move |peer| {
            if allow_list::contains(&self.settings.trusted_proxies, peer) {
                Peer::Proxy
            } else if self.limits.holds_token(peer) || self.registry.iter().any(|provider| provider.lists(peer)) {
                Peer::Trusted
            } else if self.limits.has_room(peer) {
                Peer::Known
            } else {
                Peer::Stranger
            }
        })
    }

    /// The class of the body budget for this address.
    fn sender_class(&self, provider: &Enabled, client: IpAddr) -> SenderClass {
        if provider.lists(client) || self.limits.has_room(client) {
            SenderClass::Known
        } else {
            SenderClass::Stranger
        }
    }

    /// While the log is nearly full: whether it is not this principal that fills it. A log that is known to refuse everybody
    /// says so itself.
    fn check_room_on_the_log(&self, provider: &Enabled, load: limit::taken::QuotaLoad<'_>) -> Result<(), Reason> {
        let log = self.journal.acknowledging();
        let Some(left) = log.fill().nearly_full() else {
            return Ok(());
        };
        if !self.limits.fills_more_than(provider, load, left) || log.trouble().is_some() {
            return Ok(());
        }
        metrics::counter!("event_log_nearly_full_refused_total", "provider" => Arc::clone(&provider.name)).increment(1);
        Err(Reason::LogNearlyFull)
    }
}

/// All routes of the public port; `beside` are those that others answer, by the same rules: https where it is required, and
/// refusals are recorded. `health` is requested by machines beside the hub, without any of these.
pub fn router(intake: Arc<Intake>, beside: Router, health: Router) -> Router {
    let stopping = intake.stopping.clone();
    let asked = Arc::clone(&intake);
    let notes = audit::Notes {
        audit: Arc::clone(&intake.audit),
        registry: Arc::clone(&intake.registry),
    };
    let mut router = Router::new()
        .route(
            "/api/webhooks/{provider}",
            post(receive::receive).fallback(unmatched_route::method_not_allowed),
        )
        .route(
            "/api/webhooks/{provider}/{*below}",
            post(receive::receive)
                .put(receive::receive)
                .fallback(unmatched_route::not_found),
        )
        .route(
            "/openapi.json",
            get(async || ([("content-type", "application/json")], OPENAPI)).fallback(paths::only_read),
        )
        .fallback(unmatched_route::not_found)
        .with_state(intake)
        .merge(beside);
    if asked.settings.require_https {
        router = router.layer(from_fn_with_state(asked, unmatched_route::require_https));
    }
    router = router.layer(from_fn_with_state(notes, audit::note_refused));
    // Health is requested by machines nearby, without the proxy, so HTTPS is not required for it.
    let router = router
        .merge(health)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(refusal::after_panic))
        .layer(map_response_with_state(stopping, closing));
    // Wrapped around the router, because the router's own layers run only after a route was found.
    Router::new()
        .fallback_service(router)
        .layer(map_request(paths::same_path))
}

/// While the hub stops, each answer ends its connection, so that no client sends its next request on a connection that is being closed.
async fn closing(State(stopping): State<CancellationToken>, mut answer: Response<Body>) -> Response<Body> {
    if stopping.is_cancelled() {
        answer
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

/// The routes of the port of metrics, which need not be reachable from outside: metrics, and health with its reasons.
pub fn private_router(render: impl Fn() -> String + Clone + Send + Sync + 'static, health: Router) -> Router {
    let render = move || {
        let text = render();
        async move { ([("content-type", "text/plain; version=0.0.4")], text) }
    };
    let router = Router::new()
        .route("/metrics", get(render).fallback(paths::only_read))
        .merge(health)
        .fallback(paths::not_found_inside);
    Router::new()
        .fallback_service(router)
        .layer(map_request(paths::same_path))
}
