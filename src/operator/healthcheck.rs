//! `healthcheck`: for a container, which has no curl.

use std::{process::ExitCode, time::Duration};

use serde_json::json;

use super::print;
use crate::config::Environment;

/// A hub that takes longer is not healthy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Exit status 0 where the hub takes webhooks.
///
/// # Errors
/// Where PORT is no port.
pub async fn run(environment: &Environment, url: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    let port = environment.port("PORT", 3002, 0)?;
    let scheme = if environment.path("TLS_CERT")?.is_some() {
        "https"
    } else {
        "http"
    };
    let client = reqwest::Client::builder()
        .timeout(TIMEOUT)
        .no_proxy()
        // Ourselves, on this machine, by an address that no certificate names.
        .tls_danger_accept_invalid_certs(url.is_none())
        .build()?;
    let url = url.map_or_else(|| format!("{scheme}://127.0.0.1:{port}"), str::to_owned);
    let asked = client
        .get(format!("{}/health/ready", url.trim_end_matches('/')))
        .send()
        .await;
    let healthy = asked.is_ok_and(|answer| answer.status().is_success());
    let word = if healthy { "healthy" } else { "unhealthy" };
    print(as_json, &json!({ "status": word }), word)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
