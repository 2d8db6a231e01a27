//! Health: whether the process lives, whether it can accept webhooks, and the state of everything that it depends on.
//!
//! `/health/live`: the process answers. `/health/ready`: webhooks are accepted, which is known from the acknowledgements of
//! the event log and of nothing else, and the instance was not asked to stop. `/health`: all checks; 503 only if
//! `/health/ready` says so, because a load balancer must not take the intake away when PostgreSQL is down.
//!
//! A request costs nothing but the answer: tasks keep its content up to date. On the public port it shows the state, on the
//! private one (that of metrics) also the reasons and the version.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Path, State, rejection::PathRejection},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Servers, expiry::Expiries};
use crate::{
    database::{self, Database},
    delivery::{
        breaker::{self, FailingBranch},
        gate::Gate,
    },
    event::stage::PROJECTION,
    journal::{Journal, identity::finding},
    projection::writer,
    registry::{Enabled, Observation, Registry},
    serving::paths,
    telemetry::{LastWebhooks, tables::TroubleSource},
};

/// Longest time that one look at the database may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often the database is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// The same while it does not answer.
const CHECK_AGAIN: Duration = Duration::from_secs(1);

/// The inputs of health.
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
    /// The last check of PostgreSQL.
    pub database_seen: DatabaseSeen,
    /// The breaker before the backend.
    pub gate: Arc<Gate>,
    /// `RATE_LIMIT_ENABLED`.
    pub rate_limiting: bool,
    /// The last checks of the NATS servers' own health.
    pub nats_servers: Servers,
    /// When each provider's last webhook came.
    pub last_webhooks: Arc<LastWebhooks>,
    /// The name of this instance.
    pub instance_id: String,
    /// Certificates and tokens that come to their end.
    pub expiring: Arc<Expiries>,
    /// Cancelled at SIGTERM: webhooks are still accepted, but this instance should get no new ones.
    pub stopping: CancellationToken,
}

/// Why PostgreSQL did not answer when it was last looked at; none if it did.
#[derive(Debug)]
pub struct DatabaseSeen(Mutex<Option<String>>);

impl Default for DatabaseSeen {
    fn default() -> Self {
        Self(Mutex::new(Some("it was not asked yet".to_owned())))
    }
}

impl DatabaseSeen {
    fn trouble(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, trouble: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }
}

/// The routes of the public port.
pub fn router(health: Arc<Health>) -> Router {
    routes(get(all), get(provider)).with_state(health)
}

/// The same with reasons, for the port that is not reachable from outside.
pub fn private_router(health: Arc<Health>) -> Router {
    routes(get(all_with_reasons), get(provider_with_reasons)).with_state(health)
}

fn routes(all: MethodRouter<Arc<Health>>, provider: MethodRouter<Arc<Health>>) -> Router<Arc<Health>> {
    Router::new()
        .route("/health", all.fallback(paths::only_read))
        .route("/health/live", get(live).fallback(paths::only_read))
        .route("/health/ready", get(ready).fallback(paths::only_read))
        .route("/api/webhooks/health/{provider}", provider.fallback(paths::only_read))
}

async fn live() -> Json<Value> {
    Json(json!({ "status": "healthy" }))
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let (log, ready) = (health.accepts(), health.is_ready());
    let body = json!({ "status": word(ready), "checks": { "eventLog": word(log) }, "stopping": health.is_stopping() });
    (code(ready), Json(body)).into_response()
}

async fn all(State(health): State<Arc<Health>>) -> Response {
    let (up, body) = health.all(true);
    (code(up), Json(body)).into_response()
}

async fn all_with_reasons(State(health): State<Arc<Health>>) -> Response {
    let (up, mut body) = health.all(health.observed().is_empty());
    body["version"] = json!(env!("CARGO_PKG_VERSION"));
    let (state, reason) = health.gate.state();
    body["circuitBreaker"] = json!({ "state": state.as_str(), "reason": reason });
    let (failing, in_all) = health.gate.failing();
    body["circuitBreaker"]["failingBranches"] = failing.iter().map(of_branch).collect();
    body["circuitBreaker"]["failingBranchesInAll"] = in_all.into();
    let acknowledging = health.journal.acknowledging();
    body["credentials"] = health.expiring.report();
    body["observed"] = health.observed().into_iter().collect();
    body["reasons"] = json!({
        "nats": health.journal.connection().unreachable(),
        "eventLog": acknowledging.trouble().map(|trouble| trouble.to_string()),
        "database": health.database_seen.trouble(),
    });
    body["eventLog"] = json!({
        "secondsSinceAcknowledgement": acknowledging.last().map(|last| last.elapsed().as_secs()),
        "servers": health.nats_servers.all(),
        "identity": health.journal.identity().finding().map(|found| json!({
            "at": found.at.to_rfc3339_opts(SecondsFormat::Millis, true),
            "by": found.by,
            "found": found.what,
            "advice": finding::Finding::ADVICE,
            "shownUntil": (found.at + finding::SHOWN_FOR).to_rfc3339_opts(SecondsFormat::Secs, true),
        })),
        "aboutToForget": health.journal.identity().risk(),
    });
    body["tables"] = health.tables();
    body["instance"] = json!({ "id": health.instance_id, "stages": health.journal.roles().all() });
    (code(up), Json(body)).into_response()
}

/// A branch that the backend fails for.
fn of_branch(failing: &FailingBranch) -> Value {
    let since = TimeDelta::from_std(failing.since).ok().map(|ago| Utc::now() - ago);
    json!({
        "branch": &*failing.branch,
        "since": since.map(|since| since.to_rfc3339_opts(SecondsFormat::Secs, true)),
        "waiting": failing.waiting,
        "code": failing.code.as_deref(),
        "retryInSeconds": failing.remaining.as_secs(),
    })
}

/// The provider that a path names.
type ProviderName = Result<Path<String>, PathRejection>;

async fn provider(State(health): State<Arc<Health>>, name: ProviderName, headers: HeaderMap) -> Response {
    let known = name.ok().and_then(|Path(name)| health.registry.get(&name));
    let Some(enabled) = known else {
        return paths::unknown_provider(&headers);
    };
    let (up, body) = health.of_provider(enabled);
    (code(up), Json(body)).into_response()
}

async fn provider_with_reasons(State(health): State<Arc<Health>>, name: ProviderName, headers: HeaderMap) -> Response {
    let known = name.ok().and_then(|Path(name)| health.registry.get(&name));
    let Some(enabled) = known else {
        return paths::unknown_provider(&headers);
    };
    let (up, mut body) = health.of_provider(enabled);
    if let Some(until) = observed_until(enabled, Utc::now()) {
        body["configuration"]["signatureValidation"] = false.into();
        body["configuration"]["signaturesObservedUntil"] = until.into();
    }
    (code(up), Json(body)).into_response()
}

/// Until when a provider's signatures are only observed; none if they are insisted on.
fn observed_until(enabled: &Enabled, now: DateTime<Utc>) -> Option<String> {
    let observation = enabled.observation.as_ref();
    observation.filter(|one| one.is_on(now)).map(Observation::text)
}

impl Health {
    /// Checks the database repeatedly, until it is stopped.
    ///
    /// # Errors
    /// None; as a task of the hub has it.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        loop {
            let trouble = self.database_trouble().await;
            let tables = self.journal.tables();
            match &trouble {
                Some(error) => tables.failed(TroubleSource::Question, error),
                None => tables.works(TroubleSource::Question),
            }
            let trouble = trouble.map(|error| format!("{error:#}"));
            metrics::gauge!("database_up").set(if trouble.is_none() { 1.0 } else { 0.0 });
            let pause = if trouble.is_none() { CHECK_EVERY } else { CHECK_AGAIN };
            self.database_seen.set(trouble);
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn database_trouble(&self) -> Option<anyhow::Error> {
        let ask = async {
            let connection = self.database.connect().await?;
            connection.simple_query("SELECT 1").await?;
            // The instance that writes the tables knows its position. Before the migration there is none, which is no fault.
            if !self.journal.roles().all().contains(&PROJECTION)
                && let Ok(Some(position)) = writer::position(&connection).await
            {
                self.journal.tables().at(position);
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(CHECK_TIMEOUT, ask).await {
            Ok(asked) => asked.err(),
            Err(_) => Some(database::Error::Deadline(CHECK_TIMEOUT).into()),
        }
    }

    /// How far the tables are, and why they do not go on.
    fn tables(&self) -> Value {
        let tables = self.journal.tables();
        let lag = tables.lag();
        let trouble = tables.trouble().map(|trouble| {
            json!({
                "class": trouble.class.as_str(),
                "message": trouble.message,
                "forSeconds": trouble.since.elapsed().as_secs(),
            })
        });
        json!({
            "position": tables.position(),
            "lagEvents": lag.map(|lag| lag.events),
            "lagSeconds": lag.map(|lag| lag.age.as_secs()),
            "trouble": trouble,
            "retentionRefused": tables.retention_refused(),
        })
    }

    /// Whether webhooks are accepted.
    fn accepts(&self) -> bool {
        self.journal.acknowledging().trouble().is_none()
    }

    /// The providers with signatures that are only observed, and until when. Not for the public port: it would say which way is open.
    fn observed(&self) -> Vec<(String, Value)> {
        let now = Utc::now();
        let observed = self.registry.iter().filter_map(|enabled| {
            let until = observed_until(enabled, now)?;
            Some((enabled.name.to_string(), until.into()))
        });
        observed.collect()
    }

    fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Whether this instance is to get webhooks.
    fn is_ready(&self) -> bool {
        self.accepts() && !self.is_stopping()
    }

    /// In one sentence, for the service manager.
    pub fn sentence(&self) -> String {
        match self.journal.acknowledging().trouble() {
            None => "webhooks are accepted".to_owned(),
            Some(trouble) => format!("webhooks are not accepted: {trouble}"),
        }
    }

    /// Whether a provider's webhooks are accepted, and how, as the public port says it.
    fn of_provider(&self, enabled: &Enabled) -> (bool, Value) {
        let up = self.accepts();
        let body = json!({
            "status": word(up),
            "provider": &*enabled.name,
            "timestamp": Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            "endpoint": format!("/api/webhooks/{}", enabled.name),
            "configuration": {
                "signatureValidation": !enabled.scheme.is_none(),
                "signatureScheme": enabled.scheme.label(),
                "rateLimiting": self.rate_limiting,
                "ipWhitelisting": !enabled.allow_list.is_open(),
            },
        });
        (up, body)
    }

    /// Whether this instance is to get webhooks, and all checks. `insists`: no provider's signatures are only observed, as far as the
    /// one who asks may know.
    fn all(&self, insists: bool) -> (bool, Value) {
        let (up, ready) = (self.accepts(), self.is_ready());
        let credentials = !self.expiring.is_close();
        let database = self.database_seen.trouble().is_none();
        let tables = self.journal.tables().follow();
        let (state, _) = self.gate.state();
        let backend = state == breaker::BreakerState::Closed;
        let forgets = self.journal.identity().risk().is_some();
        let retention = self.journal.tables().retention_refused().is_empty();
        let status = match (
            ready,
            database && tables && backend && credentials && retention && !forgets && insists,
        ) {
            (false, _) => "unhealthy",
            (true, false) => "degraded",
            (true, true) => "healthy",
        };
        let body = json!({
            "status": status,
            "service": self.service_name,
            "uptime": self.started.elapsed().as_secs(),
            "checks": {
                "eventLog": word(up),
                "database": word(database),
                // Whether the tables follow the log, which a query of PostgreSQL does not show.
                "tables": word(tables),
                "backendConnection": word(backend),
                // Retries are on the log, so their state is the log's.
                "retryQueue": word(up),
                "credentials": word(credentials),
                // Whether old rows can be deleted, if RETENTION_… is set.
                "retention": word(retention),
            },
            "stopping": self.is_stopping(),
            "circuitBreaker": { "state": state.as_str() },
        });
        (ready, body)
    }
}

const fn word(healthy: bool) -> &'static str {
    if healthy { "healthy" } else { "unhealthy" }
}

const fn code(up: bool) -> StatusCode {
    if up {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}
