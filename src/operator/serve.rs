//! `serve`: runs the hub.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Environment, Misspelt, misspelt, without_effect},
    hub::{self, Inputs},
    process::descriptors,
    telemetry,
};

/// Runs until SIGTERM or SIGINT, then goes on for `SHUTDOWN_DELAY`, which a second signal ends, and drains.
///
/// # Errors
/// If the configuration is wrong or a part of the hub fails.
pub async fn run(environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = Config::from_environment(environment)?;
    telemetry::logs::init(&config.logs)?;
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "the limit of file descriptors cannot be raised");
    }
    for Misspelt { variable, meant } in misspelt(environment)? {
        tracing::warn!(variable, meant, "unknown variable: it has no effect");
    }
    if config.providers.is_empty() {
        tracing::warn!("no provider is enabled: every webhook is answered 404; set <PROVIDER>_ENABLED=true");
    }
    for variable in without_effect(environment) {
        tracing::warn!(variable, "this version ignores this variable");
    }
    for parameter in &config.database.without_effect {
        tracing::warn!(parameter, "DATABASE_URL: the hub ignores this parameter");
    }
    let inputs = Inputs::open(config)?;
    let (stop, at_once) = (CancellationToken::new(), CancellationToken::new());
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
    );
    let running = hub::run(inputs, stop.clone(), at_once.clone());
    tokio::pin!(running);
    let ended = loop {
        let signal = tokio::select! {
            ended = &mut running => break ended,
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal, "stopping");
        // The first signal asks it to stop, the second one ends the delay.
        if stop.is_cancelled() {
            at_once.cancel();
        }
        stop.cancel();
    };
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "the hub stops");
    }
    ended.map(|()| ExitCode::SUCCESS)
}
