//! What the tasks of the hub share, and how health and the routes are built of it.

use std::{sync::Arc, time::Instant};

use axum::Router;
use tokio_util::sync::CancellationToken;

use super::{Phase, Tasks, budget::Budget, registry::registry, watch};
use crate::{
    branches::Branches,
    config::Config,
    database::Database,
    delivery::gate::Gate,
    intake::{self, Intake, reload::Reload},
    integration::{self, Integration, token::ServiceTokens},
    journal::{
        Journal,
        append::AppendWriter,
        connection::{Connection, HUB_INBOX},
        identity::watch::NeededAge,
        unreachable,
    },
    memory::Orders,
    observer::{
        self, Servers,
        expiry::Expiry,
        health::{self, DatabaseSeen, Health},
    },
    registry::Registry,
    serving::{audit::Audit, body, connections::Connections, heavy::Heavy, limit, limit::Limits},
    telemetry::{self, LastWebhooks},
};

/// What the tasks share.
pub(super) struct Parts {
    pub(super) config: Config,
    pub(super) registry: Arc<Registry>,
    pub(super) connection: Arc<Connection>,
    pub(super) journal: Journal,
    pub(super) database: Database,
    pub(super) branches: Arc<Branches>,
    pub(super) orders: Arc<Orders>,
    pub(super) gate: Arc<Gate>,
    pub(super) instance_id: String,
    limits: Arc<Limits>,
    last_webhooks: Arc<LastWebhooks>,
    stopping: CancellationToken,
}

impl Parts {
    /// Makes them; also what writes to the log. `stopping` is cancelled at SIGTERM.
    ///
    /// # Errors
    /// If a setting cannot work.
    pub(super) async fn new(config: Config, stopping: CancellationToken) -> anyhow::Result<(Self, AppendWriter)> {
        let registry = Arc::new(registry(&config)?);
        let instance_id = telemetry::instance_id();
        let providers: Vec<_> = registry.iter().map(|enabled| enabled.name.to_string()).collect();
        telemetry::metrics::from_start(&config.service_name, &instance_id, &providers);
        let connection = Arc::new(Connection::open(&config.nats, &config.service_name, HUB_INBOX).await?);
        let (journal, writer) = Journal::open(Arc::clone(&connection), config.event_log);
        let database = Database::new(&config.database)?;
        let parts = Self {
            branches: Arc::new(Branches::new(database.clone())),
            orders: Arc::new(Orders::new(&journal, config.order_memory)),
            gate: Arc::new(Gate::new(config.breaker)),
            limits: Arc::new(Limits::new(&config.limits)),
            last_webhooks: Arc::default(),
            config,
            registry,
            connection,
            journal,
            database,
            instance_id,
            stopping,
        };
        Ok((parts, writer))
    }

    /// The enabled providers, for people.
    pub(super) fn providers(&self) -> String {
        let names: Vec<_> = self.registry.iter().map(|enabled| &*enabled.name).collect();
        names.join(",")
    }

    /// The state of the whole.
    pub(super) fn health(&self, expiry: &Expiry) -> Arc<Health> {
        Arc::new(Health {
            service_name: self.config.service_name.clone(),
            started: Instant::now(),
            registry: Arc::clone(&self.registry),
            journal: self.journal.clone(),
            database: self.database.clone(),
            database_seen: DatabaseSeen::default(),
            gate: Arc::clone(&self.gate),
            rate_limiting: self.limits.is_enabled(),
            nats_servers: Servers::default(),
            last_webhooks: Arc::clone(&self.last_webhooks),
            instance_id: self.instance_id.clone(),
            expiring: expiry.found(),
            stopping: self.stopping.clone(),
        })
    }

    /// Starts what watches the hub and its surroundings, and what the routes depend on.
    pub(super) fn watch(&self, tasks: &mut Tasks, health: &Arc<Health>, expiry: Expiry) {
        let (looking, observing, nats) = (Arc::clone(health), Arc::clone(health), self.config.nats.clone());
        tasks.spawn("health", Phase::Log, |stop| looking.run(stop));
        tasks.spawn("observer", Phase::Log, |stop| observer::run(observing, nats, stop));
        let connection = Arc::clone(&self.connection);
        tasks.spawn("NATS", Phase::Log, |stop| unreachable::tell(connection, stop));
        tasks.spawn("expiry", Phase::Log, |stop| expiry.run(stop));
        tasks.spawn("process", Phase::Log, watch::run);
        let log = self.journal.clone();
        let needed = NeededAge {
            longest_retry: self.config.retries.longest(),
            order_memory: self.config.order_memory,
        };
        tasks.spawn("identity of the log", Phase::Log, move |stop| {
            log.watch_identity(needed, stop)
        });
        if self.limits.is_enabled() {
            let (connection, limits) = (Arc::clone(&self.connection), Arc::clone(&self.limits));
            tasks.spawn("rate limits", Phase::Log, |stop| {
                limit::shared::run(connection, limits, stop)
            });
        }
        let branches = Arc::clone(&self.branches);
        tasks.spawn("branches", Phase::Stages, move |stop| branches.run(stop));
        let reload = Reload::new(Arc::clone(&self.registry), self.config.providers.clone());
        tasks.spawn("secrets", Phase::Intake, |stop| reload.run(stop));
    }

    /// The routes of the public port, and which of its connections stay open.
    pub(super) fn public(
        &self,
        tasks: &mut Tasks,
        health: &Arc<Health>,
        budget: &Budget,
    ) -> (Router, Arc<Connections>) {
        let (audit, refusals) = Audit::new();
        let connection = Arc::clone(&self.connection);
        tasks.spawn("refusals", Phase::Log, |stop| refusals.run(connection, stop));
        let (bodies, heavy) = (body::BodyBudget::all(budget.body_bytes), Heavy::default());
        let integration = Arc::new(Integration {
            registry: Arc::clone(&self.registry),
            journal: self.journal.clone(),
            tokens: ServiceTokens::new(&self.config.backend.service_tokens),
            settings: self.config.http.clone(),
            budget: bodies.clone(),
            heavy: heavy.clone(),
            limits: Arc::clone(&self.limits),
        });
        let intake = Arc::new(Intake {
            registry: Arc::clone(&self.registry),
            journal: self.journal.clone(),
            orders: Arc::clone(&self.orders),
            settings: self.config.http.clone(),
            branches: Arc::clone(&self.branches),
            budget: bodies,
            heavy,
            limits: Arc::clone(&self.limits),
            last_webhooks: Arc::clone(&self.last_webhooks),
            stopping: self.stopping.clone(),
            audit,
        });
        let connections = Arc::clone(&intake).connections(budget.connections);
        let health = health::router(Arc::clone(health));
        (
            intake::router(intake, integration::router(integration), health),
            connections,
        )
    }
}
