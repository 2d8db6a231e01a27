//! The running hub: builds all tasks, supervises them and drains them. Only this module spawns tasks.
//!
//! A task that ends before it was stopped stops the whole hub, with its reason: half a hub that looks alive is worse than none.
//! After SIGTERM the hub continues for `SHUTDOWN_DELAY` although it is no longer ready (`stopping`). Then it drains in the order
//! of the flow: the intake stops accepting webhooks, the stages stop pulling and finish their tasks, and the log's writer ends
//! once nothing writes.

use std::{net::TcpListener, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, Config},
    journal::{connection::Connection, streams},
    observer::{expiry::Expiry, health::Health},
    process::notify::Manager,
    serving::certificate::Certificate,
    telemetry,
};

mod budget;
mod parts;
mod registry;
mod servers;
mod stages;
mod stopping;
mod watch;

use self::{
    budget::Budget,
    parts::Parts,
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
    let budget = Budget::find(&config);
    budget.tell();
    let certificate = config.http.tls.as_ref().map(Certificate::load).transpose()?;
    let expiry = Expiry::of(&config);
    let (parts, writer) = Parts::new(config, stop.clone()).await?;
    tasks.spawn("event log", Phase::Log, |_| writer.run());
    let health = parts.health(&expiry);
    parts.watch(tasks, &health, expiry);
    let (router, connections) = parts.public(tasks, &health, &budget);
    let ports = Ports {
        listener,
        metrics,
        certificate,
        connections,
        router,
    };
    servers::spawn(tasks, &parts.config, Arc::clone(&health), ports);
    if let Some(reached) = metrics_address.filter(|address| !address.ip().is_loopback()) {
        tracing::info!(address = %reached, "METRICS_HOST: other machines reach metrics and health with its reasons");
    }
    tell_service_manager(tasks, health, stop);
    tracing::info!(
        %address,
        metrics_address = metrics_address.map(|address| address.to_string()),
        tls = parts.config.http.tls.is_some(),
        providers = parts.providers(),
        instance_id = parts.instance_id,
        "listening"
    );
    // Webhooks are accepted from here on. The stages start once the set-up of NATS has been verified.
    let found = tasks.while_all_run(stop, verified(&parts.connection, stop)).await?;
    if found.transpose()? == Some(true) {
        parts.stages(tasks)?;
        tracing::info!(partitions = parts.config.event_log.partitions, "serving");
    }
    Ok(())
}

/// Starts the reports to the service manager, where the process has one.
fn tell_service_manager(tasks: &mut Tasks, health: Arc<Health>, stop: &CancellationToken) {
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
