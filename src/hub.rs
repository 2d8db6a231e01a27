//! The running hub: builds all tasks, supervises them and drains them. Only this module spawns tasks.
//!
//! A task that ends before it was stopped stops the whole hub, with its reason: half a hub that looks alive is worse than none.
//! After SIGTERM the hub continues for `SHUTDOWN_DELAY` although it is no longer ready (`stopping`). Then it drains in the order
//! of the flow: the intake stops accepting webhooks, the stages stop pulling and finish their tasks, and the log's writer ends
//! once nothing writes.

use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use self::budget::Budget;
use crate::{
    branches::Branches,
    config::{self, Config, ProviderConfig},
    database::Database,
    delivery::{
        gate::{Gate, shared},
        stage,
    },
    forward::{Forward, ProviderRules, client::BackendClient},
    intake::{self, Intake, reload::Reload},
    integration::{self, Integration, token::ServiceTokens},
    jobs,
    journal::{
        Journal,
        connection::{Connection, HUB_INBOX},
        streams, unreachable,
    },
    memory::Orders,
    observer::{
        self, Servers,
        expiry::Expiry,
        health::{self, DatabaseSeen, Health},
    },
    process::notify::Manager,
    projection::live::Live,
    push::Push,
    reconcile,
    registry::Registry,
    serving::{audit::Audit, body, certificate::Certificate, heavy::Heavy, limit, limit::Limits},
    telemetry::{self, LastWebhooks},
    transform::Transform,
};

mod budget;
mod registry;
mod servers;
mod stopping;
mod watch;

use self::{
    registry::registry,
    servers::{Ports, listen},
};

/// Pause between two looks at a NATS that is not there yet.
const VERIFY_AGAIN: Duration = Duration::from_millis(500);

/// What the hub needs beside its configuration; tests and `dev` provide their own.
pub struct Inputs {
    /// All settings.
    pub config: Config,
    /// The public port.
    pub listener: TcpListener,
    /// The port of metrics, where they are on.
    pub metrics: Option<(TcpListener, PrometheusHandle)>,
}

impl Inputs {
    /// Opens the ports that the configuration names and installs the metrics recorder.
    ///
    /// # Errors
    /// If a port is taken.
    pub fn open(config: Config) -> anyhow::Result<Self> {
        let listener =
            listen(config.http.listen).with_context(|| format!("PORT: cannot listen on {}", config.http.listen))?;
        let metrics = match config.http.metrics_listen {
            Some(address) => {
                let listener = listen(address)
                    .with_context(|| format!("METRICS_HOST, METRICS_PORT: cannot listen on {address}"))?;
                Some((listener, telemetry::metrics::install()?))
            }
            None => None,
        };
        Ok(Self {
            config,
            listener,
            metrics,
        })
    }
}

/// Runs the hub until it is stopped, or until a part of it fails. `at_once` ends the time that it goes on for after being told.
///
/// # Errors
/// The reason of the part that failed, or what did not end within `SHUTDOWN_GRACE`.
pub async fn run(inputs: Inputs, stop: CancellationToken, at_once: CancellationToken) -> anyhow::Result<()> {
    let config::Stopping { delay, grace } = inputs.config.stopping;
    let mut tasks = Tasks::default();
    let built = build(inputs, &mut tasks, &stop).await;
    let failure = match built {
        Ok(()) => match tasks.first_failure(&stop).await {
            None => tasks.go_on_for(delay, &at_once).await.err(),
            failure => failure,
        },
        Err(error) => Some(error),
    };
    let drained = tasks.drain(grace).await;
    match failure {
        Some(error) => Err(error),
        None => drained,
    }
}

/// Builds and spawns everything, in the order of the flow.
async fn build(inputs: Inputs, tasks: &mut Tasks, stop: &CancellationToken) -> anyhow::Result<()> {
    let Inputs {
        config,
        listener,
        metrics,
    } = inputs;
    let address = listener.local_addr()?;
    let metrics_address = metrics
        .as_ref()
        .map(|(listener, _)| listener.local_addr())
        .transpose()?;
    let limits_of_process = Budget::find(&config);
    limits_of_process.tell();
    let certificate = config.http.tls.as_ref().map(Certificate::load).transpose()?;
    let expiry = Expiry::of(&config);
    let registry = Arc::new(registry(&config)?);
    let instance_id = telemetry::instance_id();
    let providers: Vec<_> = registry.iter().map(|enabled| enabled.name.to_string()).collect();
    telemetry::metrics::from_start(&config.service_name, &instance_id, &providers);
    let connection = Arc::new(Connection::open(&config.nats, &config.service_name, HUB_INBOX).await?);
    let (journal, writer) = Journal::open(Arc::clone(&connection), config.event_log);
    let database = Database::new(&config.database)?;
    let gate = Arc::new(Gate::new(config.breaker));
    let limits = Arc::new(Limits::new(&config.limits));
    let last_webhooks = Arc::new(LastWebhooks::default());
    let health = Arc::new(Health {
        service_name: config.service_name.clone(),
        started: Instant::now(),
        registry: Arc::clone(&registry),
        journal: journal.clone(),
        database: database.clone(),
        database_seen: DatabaseSeen::default(),
        gate: Arc::clone(&gate),
        rate_limiting: limits.is_enabled(),
        nats_servers: Servers::default(),
        last_webhooks: Arc::clone(&last_webhooks),
        instance_id: instance_id.clone(),
        expiring: expiry.found(),
        stopping: stop.clone(),
    });
    let (looking, observing, nats) = (Arc::clone(&health), Arc::clone(&health), config.nats.clone());
    tasks.spawn("health", Phase::Log, |stop| looking.run(stop));
    tasks.spawn("observer", Phase::Log, |stop| observer::run(observing, nats, stop));
    tasks.spawn("event log", Phase::Log, |_| writer.run());
    let telling = Arc::clone(&connection);
    tasks.spawn("NATS", Phase::Log, |stop| unreachable::tell(telling, stop));
    tasks.spawn("expiry", Phase::Log, |stop| expiry.run(stop));
    tasks.spawn("process", Phase::Log, watch::run);
    let log = journal.clone();
    tasks.spawn("identity of the log", Phase::Log, |stop| log.watch_identity(stop));
    if limits.is_enabled() {
        let (connection, limits) = (Arc::clone(&connection), Arc::clone(&limits));
        tasks.spawn("rate limits", Phase::Log, |stop| {
            limit::shared::run(connection, limits, stop)
        });
    }
    let branches = Arc::new(Branches::new(database.clone()));
    let keeping_fresh = Arc::clone(&branches);
    tasks.spawn("branches", Phase::Stages, move |stop| keeping_fresh.run(stop));
    let reload = Reload::new(Arc::clone(&registry), config.providers.clone());
    tasks.spawn("secrets", Phase::Intake, |stop| reload.run(stop));
    let (audit, refusals) = Audit::new();
    let on = Arc::clone(&connection);
    tasks.spawn("refusals", Phase::Log, |stop| refusals.run(on, stop));
    let rooms = (body::BodyBudget::all(limits_of_process.body_bytes), Heavy::default());
    let for_providers = Arc::new(integration(&config, &registry, &journal, &rooms, &limits));
    let (budget, heavy) = rooms;
    let orders = Arc::new(Orders::new(&journal, config.order_memory));
    let intake = Arc::new(Intake {
        registry: Arc::clone(&registry),
        journal: journal.clone(),
        orders: Arc::clone(&orders),
        settings: config.http.clone(),
        branches: Arc::clone(&branches),
        budget,
        heavy,
        limits,
        last_webhooks,
        stopping: stop.clone(),
        audit,
    });
    let ports = Ports {
        listener,
        metrics,
        certificate,
        connections: Arc::clone(&intake).connections(limits_of_process.connections),
        router: intake::router(
            intake,
            integration::router(for_providers),
            health::router(Arc::clone(&health)),
        ),
    };
    servers::spawn(tasks, &config, Arc::clone(&health), ports);
    if let Some(reached) = metrics_address.filter(|address| !address.ip().is_loopback()) {
        tracing::info!(address = %reached, "METRICS_HOST: other machines reach metrics and health with its reasons");
    }
    match Manager::of_process() {
        Ok(None) => {}
        Ok(Some(manager)) => {
            let stopping = stop.clone();
            tasks.spawn("service manager", Phase::Log, |stop| {
                manager.run(move || health.sentence(), stopping, stop)
            });
        }
        // Another program may have left the variable in the environment; the hub works without it.
        Err(error) => tracing::warn!(%error, "NOTIFY_SOCKET: cannot report the hub's state to the service manager"),
    }
    tracing::info!(
        %address,
        metrics_address = metrics_address.map(|address| address.to_string()),
        tls = config.http.tls.is_some(),
        providers = providers.join(","),
        instance_id,
        "listening"
    );
    // Webhooks are accepted from here on. The stages start once the set-up of NATS has been verified.
    let found = tasks.while_all_run(stop, verified(&connection, stop)).await?;
    if found.transpose()? == Some(true) {
        spawn_stages(tasks, &config, registry, journal, database, branches, (gate, orders))?;
        tracing::info!(partitions = config.event_log.partitions, "serving");
    }
    Ok(())
}

/// Builds the handler of the backend's requests to providers.
fn integration(
    config: &Config,
    registry: &Arc<Registry>,
    journal: &Journal,
    (budget, heavy): &(body::BodyBudget, Heavy),
    limits: &Arc<Limits>,
) -> Integration {
    Integration {
        registry: Arc::clone(registry),
        journal: journal.clone(),
        tokens: ServiceTokens::new(&config.backend.service_tokens),
        settings: config.http.clone(),
        budget: budget.clone(),
        heavy: heavy.clone(),
        limits: Arc::clone(limits),
    }
}

/// Waits for NATS and looks whether it is set up as it must be; false when the hub stops before.
async fn verified(connection: &Connection, stop: &CancellationToken) -> anyhow::Result<bool> {
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            outcome = async {
                connection.wait_up().await;
                streams::verify(connection).await
            } => outcome,
        };
        match outcome {
            Ok(()) => return Ok(true),
            Err(error) if streams::is_verdict(&error) => return Err(error),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "NATS does not answer yet"),
        }
        tokio::time::sleep(VERIFY_AGAIN).await;
    }
}

fn spawn_stages(
    tasks: &mut Tasks,
    config: &Config,
    registry: Arc<Registry>,
    journal: Journal,
    database: Database,
    branches: Arc<Branches>,
    (gate, orders): (Arc<Gate>, Arc<Orders>),
) -> anyhow::Result<()> {
    let memory = Arc::clone(&orders);
    tasks.spawn("orders", Phase::Stages, move |stop| memory.run(stop));
    // In the last phase, so that changes while the stage drains still reach the other instances.
    let (connection, breaker) = (Arc::clone(journal.connection()), Arc::clone(&gate));
    tasks.spawn("breaker", Phase::Log, |stop| shared::run(connection, breaker, stop));
    let remotes = registry.iter().filter_map(|enabled| enabled.outbound.clone());
    let push = Arc::new(Push::new(
        remotes,
        Arc::clone(&branches),
        database.clone(),
        (journal.clone(), Arc::clone(&orders)),
        config.retries.clone(),
    ));
    let needs = reconcile::Needs {
        registry: Arc::clone(&registry),
        journal: journal.clone(),
        branches: Arc::clone(&branches),
        orders: Arc::clone(&orders),
    };
    tasks.spawn("reconciliation", Phase::Stages, |stop| reconcile::run(needs, stop));
    let transform = Arc::new(Transform::new(
        Arc::clone(&registry),
        branches,
        Arc::clone(&orders),
        database.clone(),
        Arc::clone(journal.connection()),
    ));
    let forward = Arc::new(Forward::new(
        BackendClient::new(&config.backend)?,
        gate,
        (orders, Arc::clone(journal.connection())),
        config.retries.clone(),
        rules(&config.providers),
    ));
    let (log, other, grace) = (journal.clone(), journal.clone(), config.stopping.grace);
    tasks.spawn("transform", Phase::Stages, move |stop| {
        stage::run(transform, log, grace, stop)
    });
    tasks.spawn("forward", Phase::Stages, move |stop| {
        stage::run(forward, other, grace, stop)
    });
    let log = journal.clone();
    tasks.spawn("push", Phase::Stages, move |stop| stage::run(push, log, grace, stop));
    let enabled = registry
        .iter()
        .map(|enabled| (Arc::clone(&enabled.name), enabled.provider.display_name().to_owned()))
        .collect();
    let jobs = jobs::Runner::new(journal.clone(), config.event_log.format);
    tasks.spawn("jobs", Phase::Stages, move |stop| jobs.run(stop));
    let live = Live::new(journal, database, enabled, config.retention);
    tasks.spawn("projection", Phase::Stages, move |stop| live.run(stop));
    Ok(())
}

/// What the stage `forward` does differently for a provider.
fn rules(providers: &[ProviderConfig]) -> ProviderRules {
    let mut rules = ProviderRules::default();
    for provider in providers {
        let name = || provider.name.to_string();
        let confirm = provider
            .outbound
            .as_ref()
            .and_then(|outbound| outbound.spec.confirm_within);
        // An order that was reported as lost to its provider must not reach the kitchen later.
        let ttl = [provider.order_ttl, confirm].into_iter().flatten().min();
        rules.order_ttl.extend(ttl.map(|ttl| (name(), ttl)));
        let again = provider.file.events.announced_again;
        rules.announced_again.extend(again.map(|kind| (name(), kind)));
        rules.confirms.extend(confirm.map(|_| name()));
    }
    rules
}

/// When a task is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// First.
    Intake,
    /// When no more webhooks come in.
    Stages,
    /// When no task appends events.
    Log,
}

/// The tasks of a hub.
#[derive(Default)]
struct Tasks {
    set: JoinSet<anyhow::Result<()>>,
    names: Vec<(Id, &'static str, Phase)>,
    intake: CancellationToken,
    stages: CancellationToken,
    log: CancellationToken,
}

impl Tasks {
    fn spawn<F>(&mut self, name: &'static str, phase: Phase, start: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = match phase {
            Phase::Intake => &self.intake,
            Phase::Stages => &self.stages,
            Phase::Log => &self.log,
        };
        let handle = self.set.spawn(start(stop.clone()));
        self.names.push((handle.id(), name, phase));
    }

    /// The result of a long operation; none when the hub stops before.
    ///
    /// # Errors
    /// Why a task ended meanwhile: half a hub does not wait for anything.
    async fn while_all_run<T>(
        &mut self,
        stop: &CancellationToken,
        something: impl Future<Output = T>,
    ) -> anyhow::Result<Option<T>> {
        tokio::select! {
            biased;
            failure = self.first_failure(stop) => failure.map_or(Ok(None), Err),
            came = something => Ok(Some(came)),
        }
    }

    /// Waits until the hub is stopped (none) or until a task ends by itself (its reason).
    async fn first_failure(&mut self, stop: &CancellationToken) -> Option<anyhow::Error> {
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ended = self.set.join_next_with_id() => Some(match ended {
                Some(ended) => self.reason(ended),
                None => anyhow::anyhow!("nothing runs"),
            }),
        }
    }

    fn reason(&mut self, ended: Result<(Id, anyhow::Result<()>), tokio::task::JoinError>) -> anyhow::Error {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let name = self.forget(id);
        match ended {
            Ok((_, Ok(()))) => anyhow::anyhow!("{name} ended before it was stopped"),
            Ok((_, Err(error))) => error.context(format!("{name} failed")),
            Err(error) if error.is_panic() => anyhow::anyhow!("{name} panicked"),
            Err(_) => anyhow::anyhow!("{name} was cancelled"),
        }
    }

    fn forget(&mut self, id: Id) -> &'static str {
        let at = self.names.iter().position(|(known, _, _)| *known == id);
        at.map_or("a task", |at| self.names.swap_remove(at).1)
    }

    /// Tells the tasks to stop, phase by phase, and waits for each phase; what does not end in time is cut off.
    ///
    /// # Errors
    /// The tasks that did not end in time, else the first task that failed.
    async fn drain(mut self, grace: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + grace;
        let mut failure = None;
        for phase in [Phase::Intake, Phase::Stages, Phase::Log] {
            match phase {
                Phase::Intake => self.intake.cancel(),
                Phase::Stages => self.stages.cancel(),
                Phase::Log => self.log.cancel(),
            }
            while self.names.iter().any(|(_, _, of)| *of == phase) {
                match tokio::time::timeout_at(deadline, self.set.join_next_with_id()).await {
                    Ok(Some(Ok((id, Ok(()))))) => {
                        self.forget(id);
                    }
                    Ok(Some(ended)) => {
                        let reason = self.reason(ended).context("while the hub was stopping");
                        tracing::error!(error = format!("{reason:#}"), "a task failed");
                        failure.get_or_insert(reason);
                    }
                    Ok(None) => break,
                    Err(_) => {
                        let names: Vec<_> = self.names.iter().map(|(_, name, _)| *name).collect();
                        bail!(
                            "did not end within SHUTDOWN_GRACE: {}; nothing is lost, the log has it",
                            names.join(", ")
                        );
                    }
                }
            }
        }
        tracing::info!("stopped");
        failure.map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests;
