//! `serve`: the hub.

use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Environment, without_effect},
    hub::{self, Inputs},
    telemetry,
};

/// Runs until SIGTERM or SIGINT, then drains.
///
/// # Errors
/// Where the configuration is wrong or a part of the hub fails.
pub async fn run(environment: &Environment) -> anyhow::Result<ExitCode> {
    let config = Config::from_environment(environment)?;
    telemetry::logs::init(&config.logs)?;
    for variable in without_effect(environment) {
        tracing::warn!(variable, "this version takes no notice of it");
    }
    for parameter in &config.database.without_effect {
        tracing::warn!(parameter, "DATABASE_URL: the hub takes no notice of this parameter");
    }
    let inputs = Inputs::open(config)?;
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?,
        signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?,
    );
    let running = hub::run(inputs, stop.clone());
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        _ = terminate.recv() => drain(&stop, running, "SIGTERM").await,
        _ = interrupt.recv() => drain(&stop, running, "SIGINT").await,
    };
    if let Err(error) = &ended {
        tracing::error!(error = format!("{error:#}"), "the hub stops");
    }
    ended.map(|()| ExitCode::SUCCESS)
}

async fn drain(
    stop: &CancellationToken,
    running: impl Future<Output = anyhow::Result<()>>,
    signal: &str,
) -> anyhow::Result<()> {
    tracing::info!(signal, "stopping");
    stop.cancel();
    running.await
}
