//! Metrics: the recorder that renders them for Prometheus, and what it shows from the start.
//!
//! [`declared`] is the one list of all metrics: name, kind, help text, labels. `docs/metrics.md` is the same list for operators; a
//! test compares the two with the names that the code uses.

use std::time::Duration;

use anyhow::Context as _;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

pub mod declared;
mod from_start;
pub mod kept;
mod process;

use self::declared::{Kind, METRICS};
pub use self::from_start::from_start;

/// How often old samples of histograms are folded away; without it they pile up. The figures of the process are read as often.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Buckets in seconds: from a quick accept to an order that waited for hours.
const SECONDS: [f64; 22] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1800.0, 3600.0, 14_400.0,
];
/// Buckets in messages.
const MESSAGES: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 300.0, 500.0];

/// Installs the recorder of this process.
///
/// # Errors
/// If one is installed already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("append_round_size".into()), &MESSAGES)?
        .install_recorder()
        .context("metrics")?;
    describe();
    Ok(handle)
}

/// Runs the recorder's upkeep, and keeps the process's figures up to date, until it is stopped.
///
/// # Errors
/// Never.
pub async fn keep_up(handle: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    process::show();
    while tokio::time::timeout(UPKEEP_EVERY, stop.cancelled()).await.is_err() {
        handle.run_upkeep();
        process::show();
    }
    Ok(())
}

fn describe() {
    for metric in METRICS {
        let unit = unit(metric.name);
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, unit, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, unit, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

fn unit(name: &str) -> Unit {
    if name.ends_with("_seconds") {
        Unit::Seconds
    } else if name.ends_with("_bytes") {
        Unit::Bytes
    } else {
        Unit::Count
    }
}

#[cfg(test)]
mod tests;
