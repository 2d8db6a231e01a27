//! Health: whether the process lives, whether it can take webhooks, and how everything is that it leans on.
//!
//! `/health/live`: the process answers. `/health/ready`: webhooks would be accepted; the event log is all it takes.
//! `/health`: all checks; 503 only where webhooks are not accepted, for a load balancer must not take the intake away
//! because PostgreSQL is down.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use chrono::{SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{
    database::Database,
    forward::{breaker, gate::Gate},
    intake::receive::astray,
    journal::Journal,
    provider::Registry,
};

/// Longest time that one check may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// What health looks at.
pub struct Health {
    /// `SERVICE_NAME`.
    pub service_name: String,
    /// When the process began.
    pub started: Instant,
    /// Providers that are switched on.
    pub registry: Arc<Registry>,
    /// The log.
    pub journal: Journal,
    /// PostgreSQL.
    pub database: Database,
    /// The breaker before the backend.
    pub gate: Arc<Gate>,
    /// `RATE_LIMIT_ENABLED`.
    pub rate_limiting: bool,
}

/// The routes.
pub fn router(health: Arc<Health>) -> Router {
    Router::new()
        .route("/health", get(all))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/api/webhooks/health/{provider}", get(provider))
        .with_state(health)
}

async fn live() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let up = health.journal.connection().is_up();
    let status = if up {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "status": word(up), "checks": { "eventLog": word(up) } })),
    )
        .into_response()
}

async fn all(State(health): State<Arc<Health>>) -> Response {
    let event_log = health.journal.connection().is_up();
    let database = health.database_answers().await;
    let (state, reason) = health.gate.state();
    let backend = state == breaker::State::Closed;
    let status = match (event_log, database && backend) {
        (false, _) => "unhealthy",
        (true, false) => "degraded",
        (true, true) => "healthy",
    };
    let body = json!({
        "status": status,
        "service": health.service_name,
        "version": env!("CARGO_PKG_VERSION"),
        "uptime": health.started.elapsed().as_secs(),
        "checks": {
            "eventLog": word(event_log),
            "database": word(database),
            "backendConnection": word(backend),
            // Retries come from the log: where that is, they are.
            "retryQueue": word(event_log),
        },
        "circuitBreaker": { "state": state.as_str(), "reason": reason },
    });
    let code = if event_log {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}

async fn provider(
    State(health): State<Arc<Health>>,
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let known = name.ok().and_then(|Path(name)| health.registry.get(&name));
    let Some(enabled) = known else {
        return astray::unknown_provider(&headers);
    };
    let event_log = health.journal.connection().is_up();
    let body = json!({
        "status": word(event_log),
        "provider": &*enabled.name,
        "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
        "endpoint": format!("/api/webhooks/{}", enabled.name),
        "configuration": {
            "signatureValidation": !enabled.scheme.is_none(),
            "signatureScheme": enabled.scheme.label(),
            "rateLimiting": health.rate_limiting,
            "ipWhitelisting": !enabled.allow_list.is_open(),
        },
    });
    let code = if event_log {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(body)).into_response()
}

impl Health {
    async fn database_answers(&self) -> bool {
        let ask = async { self.database.connect().await.ok()?.simple_query("SELECT 1").await.ok() };
        tokio::time::timeout(CHECK_TIMEOUT, ask).await.ok().flatten().is_some()
    }
}

const fn word(healthy: bool) -> &'static str {
    if healthy { "healthy" } else { "unhealthy" }
}
