//! Every metric: its name, what it says, and the recorder that renders them for Prometheus.

use std::time::Duration;

use anyhow::Context as _;
use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

/// How often old samples of histograms are folded away; without it they pile up.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// Buckets in seconds: from a quick accept to an order that waited for hours.
const SECONDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0, 600.0, 3600.0,
];
/// Buckets in messages.
const MESSAGES: [f64; 8] = [1.0, 3.0, 10.0, 30.0, 100.0, 200.0, 300.0, 500.0];

/// Installs the recorder of this process.
///
/// # Errors
/// Where one is installed already.
pub fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("append_round_size".into()), &MESSAGES)?
        .install_recorder()
        .context("metrics")?;
    describe();
    Ok(handle)
}

/// Keeps the recorder tidy until told to stop.
///
/// # Errors
/// Never.
pub async fn keep_up(handle: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    while tokio::time::timeout(UPKEEP_EVERY, stop.cancelled()).await.is_err() {
        handle.run_upkeep();
    }
    Ok(())
}

fn describe() {
    describe_counter!(
        "webhooks_received_total",
        "Total webhooks received by provider, verified ones only"
    );
    describe_counter!(
        "webhooks_processed_total",
        "Total webhooks processed, by provider and status (success, failed, ignored)"
    );
    describe_counter!(
        "webhooks_rejected_total",
        "Total requests refused at the door, by provider and reason"
    );
    describe_counter!(
        "signature_failures_total",
        "Total requests with a missing or wrong signature, by provider"
    );
    describe_counter!(
        "refusals_lost_total",
        "Total samples of refused requests that did not get to the stream REFUSALS"
    );
    describe_counter!(
        "sanitised_fields_total",
        "Total texts that did not go to the backend as they came, by provider"
    );
    describe_counter!(
        "events_appended_total",
        "Total events that this instance appended to the log, by type"
    );
    describe_counter!(
        "integration_requests_total",
        "Total requests of the backend for providers, by kind (status_request, menu_sync) and code"
    );
    describe_counter!(
        "rate_limited_total",
        "Total requests refused by a rate limit, by provider and scope (address: it is blocked; provider: over its quota)"
    );
    describe_gauge!("blocks_active", "Addresses and providers that are blocked");
    describe_gauge!(
        "rate_limit_instances",
        "Instances that share rate limits, as this one knows them"
    );
    describe_counter!("backend_requests_total", "Total requests to the backend, by outcome");
    describe_counter!(
        "provider_requests_total",
        "Total requests to providers' interfaces, by provider and outcome"
    );
    describe_counter!("dead_letters_total", "Total orders given up on, by provider");
    describe_counter!(
        "projection_unstorable_total",
        "Total events whose payload PostgreSQL could not keep as jsonb"
    );
    describe_histogram!(
        "webhook_accept_duration_seconds",
        Unit::Seconds,
        "From the request's headers to its place on the log"
    );
    describe_histogram!(
        "webhook_processing_duration_seconds",
        Unit::Seconds,
        "Webhook processing duration, from accepted to forwarded"
    );
    describe_histogram!(
        "backend_request_duration_seconds",
        Unit::Seconds,
        "Time the backend took for a request"
    );
    describe_histogram!(
        "provider_request_duration_seconds",
        Unit::Seconds,
        "Time a provider took for a request, a new token included"
    );
    describe_histogram!("append_round_size", "Events that were appended in one round");
    describe_histogram!(
        "append_round_duration_seconds",
        Unit::Seconds,
        "From the last message of a round to its acknowledgement"
    );
    describe_gauge!("stage_pending", "Messages that wait for a stage");
    describe_gauge!(
        "stage_lag_seconds",
        Unit::Seconds,
        "How long the last message had waited for the stage"
    );
    describe_gauge!(
        "circuit_breaker_state",
        "1 for the state that the breaker is in, 0 for the others"
    );
    describe_gauge!(
        "provider_circuit_breaker_state",
        "1 for the state that the breaker before a provider's interface is in, 0 for the others"
    );
    describe_gauge!("projection_position", "Sequence of the last event in the tables");
    describe_gauge!(
        "projection_lag_events",
        "Events on the log that are not in the tables yet"
    );
    describe_gauge!("database_up", "1 where PostgreSQL gave a connection when last asked");
    describe_gauge!("event_log_up", "1 while the connection to NATS stands");
    describe_gauge!("backend_up", "1 while the circuit breaker is closed");
}
