//! `healthcheck`: the health check for containers, which have no curl.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
    time::Duration,
};

use axum::http::{HeaderMap, Method};
use serde_json::json;

use super::print;
use crate::{
    config::{ClientTls, ConfigError, Environment},
    http::{Client, MAX_ANSWER_BYTES, Request, Target},
    tls,
};

/// A hub that takes longer to answer counts as unhealthy.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Exits with 0 if the hub accepts webhooks. The request goes to the private port, which strangers cannot keep busy, or to the
/// public one if there is no private port.
///
/// # Errors
/// If a port or an address is invalid.
pub async fn run(environment: &Environment, url: Option<&str>, as_json: bool) -> anyhow::Result<ExitCode> {
    // The hub of this machine, by a loopback address, which no certificate names.
    let tls = if url.is_none() {
        tls::unverified()?
    } else {
        tls::client(&ClientTls::of_machine("HUB"))?
    };
    let client = Client::new(TIMEOUT, 1, HeaderMap::new(), tls);
    let url = url.map_or_else(|| own_url(environment), |url| Ok(url.to_owned()))?;
    let target = Target::parse(&format!("{}/health/ready", url.trim_end_matches('/')));
    let asked = client.ask(Request::new(Method::GET, target), MAX_ANSWER_BYTES).await;
    let healthy = asked.is_ok_and(|answer| (200..300).contains(&answer.status));
    let word = if healthy { "healthy" } else { "unhealthy" };
    print(as_json, &json!({ "status": word }), word)?;
    Ok(if healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The URL at which this machine's hub answers.
fn own_url(environment: &Environment) -> Result<String, ConfigError> {
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let here = |address: IpAddr| if address.is_unspecified() { loopback } else { address };
    let private = environment.port("METRICS_PORT", 9090, 0)?;
    if environment.flag("METRICS_ENABLED", true)? && private > 0 {
        let host = here(environment.address("METRICS_HOST", loopback)?);
        return Ok(format!("http://{}", SocketAddr::new(host, private)));
    }
    let port = environment.port("PORT", 3002, 0)?;
    let tls = environment.path("TLS_CERT")?.is_some();
    let scheme = if tls { "https" } else { "http" };
    Ok(format!("{scheme}://127.0.0.1:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_port_is_preferred() {
        for (variables, expected) in [
            (&[][..], "http://127.0.0.1:9090"),
            (
                &[("METRICS_HOST", "0.0.0.0"), ("METRICS_PORT", "9191")],
                "http://127.0.0.1:9191",
            ),
            (&[("METRICS_HOST", "10.1.2.3")], "http://10.1.2.3:9090"),
            (&[("METRICS_HOST", "::1")], "http://[::1]:9090"),
            (
                &[("METRICS_ENABLED", "false"), ("PORT", "3000")],
                "http://127.0.0.1:3000",
            ),
            (&[("METRICS_PORT", "0"), ("TLS_CERT", "/x")], "https://127.0.0.1:3002"),
        ] {
            let environment: Environment = variables.iter().copied().collect();
            assert_eq!(own_url(&environment).unwrap(), expected);
        }
    }
}
