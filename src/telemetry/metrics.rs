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

/// Counters, and what they count.
const COUNTERS: &[(&str, &str)] = &[
    (
        "webhooks_received_total",
        "Total webhooks received by provider, verified ones only",
    ),
    (
        "webhooks_processed_total",
        "Total webhooks processed, by provider and status (success, failed, ignored)",
    ),
    (
        "webhooks_rejected_total",
        "Total requests refused at the door, by provider and reason",
    ),
    (
        "signature_failures_total",
        "Total requests with a missing or wrong signature, by provider",
    ),
    (
        "refusals_lost_total",
        "Total samples of refused requests that did not get to the stream REFUSALS",
    ),
    (
        "sanitised_fields_total",
        "Total texts that did not go to the backend as they came, by provider",
    ),
    (
        "order_flags_total",
        "Total flags of orders and of news about them, by provider and flag; unknown_event: ignored for an unknown word",
    ),
    (
        "events_appended_total",
        "Total events that this instance appended to the log, by type",
    ),
    (
        "integration_requests_total",
        "Total requests of the backend for providers, by kind (status_request, menu_sync) and code",
    ),
    (
        "rate_limited_total",
        "Total requests refused by a rate limit, by provider and scope (address: it is blocked; provider: over its quota)",
    ),
    ("backend_requests_total", "Total requests to the backend, by outcome"),
    (
        "provider_requests_total",
        "Total requests to providers' interfaces, by provider and outcome",
    ),
    ("dead_letters_total", "Total orders given up on, by provider"),
    (
        "lane_full_total",
        "Total events given up because too many of their order wait already, by stage and provider",
    ),
    (
        "events_left_total",
        "Total events left to an instance of a newer version, and those behind them in their orders, by stage",
    ),
    (
        "panics_total",
        "Total panics that were caught while an event was handled, by stage",
    ),
    (
        "projection_skipped_total",
        "Total events left out of the tables and noted in hub.skipped_events",
    ),
    (
        "database_statements_given_up_total",
        "Total statements without an answer in time: cancelled, and their connections closed",
    ),
    (
        "duplicate_orders_total",
        "Total orders that were announced again and went no further, by provider and whether lines or total differ",
    ),
    (
        "projection_unstorable_total",
        "Total events whose payload PostgreSQL could not keep as jsonb",
    ),
    (
        "webhook_secret_used_total",
        "Total webhooks let in, by provider and the name, origin and index of the secret that matched",
    ),
];
/// Gauges, and what they show; seconds where the name says so.
const GAUGES: [(&str, &str); 14] = [
    ("blocks_active", "Addresses and providers that are blocked"),
    (
        "rate_limit_instances",
        "Instances that share rate limits, as this one knows them",
    ),
    ("stage_pending", "Messages that wait for a stage"),
    (
        "order_memory_entries",
        "Webhooks that are known again when they, or their orders, come once more",
    ),
    (
        "order_memory_warm",
        "1 where the log was read for known orders; before that the instance takes no stage over",
    ),
    (
        "order_memory_reach_seconds",
        "How far back they are known; less than ORDER_MEMORY where the log is younger, or more came than are remembered",
    ),
    (
        "stage_lag_seconds",
        "How long the last message had waited for the stage",
    ),
    (
        "circuit_breaker_state",
        "1 for the state that the breaker is in, 0 for the others",
    ),
    (
        "provider_circuit_breaker_state",
        "1 for the state that the breaker before a provider's interface is in, 0 for the others",
    ),
    ("projection_position", "Sequence of the last event in the tables"),
    (
        "projection_lag_events",
        "Events on the log that are not in the tables yet",
    ),
    ("database_up", "1 where PostgreSQL gave a connection when last asked"),
    ("event_log_up", "1 while the event log acknowledges appends"),
    ("backend_up", "1 while the circuit breaker is closed"),
];
/// Histograms, and what they measure; seconds where the name says so.
const HISTOGRAMS: [(&str, &str); 6] = [
    (
        "webhook_accept_duration_seconds",
        "From the request's headers to its place on the log",
    ),
    (
        "webhook_processing_duration_seconds",
        "Webhook processing duration, from accepted to forwarded",
    ),
    (
        "backend_request_duration_seconds",
        "Time the backend took for a request",
    ),
    (
        "provider_request_duration_seconds",
        "Time a provider took for a request, a new token included",
    ),
    ("append_round_size", "Events that were appended in one round"),
    (
        "append_round_duration_seconds",
        "From the last message of a round to its acknowledgement",
    ),
];

fn describe() {
    for (name, text) in COUNTERS.iter().copied() {
        describe_counter!(name, text);
    }
    for (name, text) in GAUGES {
        describe_gauge!(name, unit(name), text);
    }
    for (name, text) in HISTOGRAMS {
        describe_histogram!(name, unit(name), text);
    }
}

fn unit(name: &str) -> Unit {
    if name.ends_with("_seconds") {
        Unit::Seconds
    } else {
        Unit::Count
    }
}
