//! Every metric of the hub: its name, kind, help text and labels. The code uses none that is not here.

pub mod labels;
mod metric;

pub use self::metric::{Kind, Label, Metric, Values};
use self::{
    labels::{CLASS, CODE, EVENT, FLAG, PROVIDER, REASON, RETAINED, ROLE, STAGE, STATE, WHERE, of, open},
    metric::{counter, gauge, histogram, late},
};

/// All of them, in the order of the flow.
pub const METRICS: &[Metric] = &[
    // Webhooks.
    counter(
        "webhooks_received_total",
        &[PROVIDER],
        "Total webhooks received by provider, verified ones only",
    ),
    gauge(
        "webhook_last_received_timestamp_seconds",
        &[PROVIDER],
        "When the last webhook of a provider was accepted, in seconds since 1970: read from the log at the start, then of this instance; take the largest of all instances. 0 where the log has none",
    ),
    histogram(
        "webhook_accept_duration_seconds",
        &[PROVIDER],
        "From the request's headers to its place on the log",
    ),
    counter(
        "webhooks_processed_total",
        &[PROVIDER, of("status", &["success", "failed", "ignored"])],
        "Total webhooks processed, by provider and status",
    ),
    histogram(
        "webhook_processing_duration_seconds",
        &[PROVIDER],
        "Webhook processing duration, from accepted to forwarded",
    ),
    counter(
        "webhooks_rejected_total",
        &[PROVIDER, REASON],
        "Total requests refused, by provider (_ where it is not known) and reason",
    ),
    counter(
        "signature_failures_total",
        &[PROVIDER],
        "Total requests with a missing or wrong signature, by provider",
    ),
    counter(
        "webhook_secret_used_total",
        &[PROVIDER, open("secret"), open("origin"), open("index")],
        "Total webhooks let in, by provider and the name, origin and index of the secret that matched",
    ),
    counter(
        "refusals_lost_total",
        &[],
        "Total samples of refused requests that did not get to the stream REFUSALS",
    ),
    counter(
        "rate_limited_total",
        &[
            PROVIDER,
            of("scope", &["address", "provider", "branch", "bytes", "repeat"]),
        ],
        "Total requests refused by a rate limit, by provider and scope (address: it is blocked; provider: over its quota; branch: over its part of that; bytes: over its quota of bytes; repeat: an address sent one webhook too often)",
    ),
    gauge(
        "connections_open",
        &[of("class", &["unknown", "known"])],
        "Connections of the public port, by class of their address",
    ),
    counter(
        "connections_refused_total",
        &[of("reason", &["share", "strangers", "full", "replaced"])],
        "Total connections that were not accepted or ended early, by reason (share: of its address; strangers: room of unknown addresses; full: all; replaced: idle, ended for a newer one)",
    ),
    gauge("body_bytes_held", &[], "Bytes of request bodies that are held"),
    counter(
        "bodies_refused_total",
        &[of("reason", &["room", "provider", "holds_most"])],
        "Total bodies that found no room, by reason (room: of their class; provider: its share; holds_most: unfinished, ended for others because its address holds most)",
    ),
    counter(
        "heavy_work_total",
        &[of("outcome", &["done", "refused"])],
        "Total large bodies that had to wait for a turn to be unpacked or verified, by outcome",
    ),
    gauge("blocks_active", &[], "Addresses and providers that are blocked"),
    gauge(
        "rate_limit_instances",
        &[],
        "Instances that share rate limits, as this one knows them",
    ),
    counter(
        "integration_requests_total",
        &[of("kind", &["status_request", "menu_sync"]), CODE],
        "Total requests of the backend for providers, by kind and code",
    ),
    // Orders.
    counter(
        "sanitised_fields_total",
        &[PROVIDER],
        "Total texts that did not go to the backend as they came, by provider",
    ),
    counter(
        "order_flags_total",
        &[PROVIDER, FLAG],
        "Total flags of orders and of news about them, by provider and flag; unknown_event: ignored for an unknown word",
    ),
    counter(
        "duplicate_orders_total",
        &[PROVIDER, of("differs", &["true", "false"])],
        "Total orders that were announced again and went no further, by provider and whether lines or total differ",
    ),
    gauge(
        "order_memory_entries",
        &[],
        "Webhooks that are known again when they, or their orders, come once more",
    ),
    gauge(
        "order_memory_warm",
        &[],
        "1 where the log was read for known orders; before that the instance takes no stage over",
    ),
    gauge(
        "order_memory_reach_seconds",
        &[],
        "How far back they are known; less than ORDER_MEMORY where the log is younger, or more came than are remembered",
    ),
    // Stages.
    gauge(
        "stage_active",
        &[ROLE],
        "1 on the instance that works on a stage now (projection: that writes the tables), 0 on the others",
    ),
    gauge(
        "stage_pending",
        &[STAGE],
        "Messages on the log that were not handed to a stage yet; of the instance that works on it, 0 on the others",
    ),
    gauge(
        "stage_lag_seconds",
        &[STAGE],
        "How long the last message had waited for the stage; of the instance that works on it, 0 on the others",
    ),
    gauge(
        "orders_waiting",
        &[STAGE, WHERE],
        "Events that a stage has not ended, by where they wait: queued (on the log, not handed out), breaker (the same and what is held, while the circuit breaker lets nothing through), branches (the same, while the branches were never read), held (in memory, at work or between quick attempts), parked (in a lane until their next attempt). Of transform and forward: orders, and news about them, that are not at the backend yet; of push: what providers are to be told. Of the instance that works on the stage, 0 on the others: sum over all",
    ),
    gauge(
        "oldest_waiting_seconds",
        &[STAGE],
        "For how long the oldest event that a stage has not ended is on the log; of the instance that works on it, 0 on the others",
    ),
    gauge(
        "retries_parked",
        &[PROVIDER],
        "Orders that are parked until their next attempt, by provider, of all stages that this instance works on",
    ),
    counter(
        "lane_full_total",
        &[STAGE, PROVIDER],
        "Total events given up because too many of their order wait already, by stage and provider",
    ),
    counter(
        "events_left_total",
        &[STAGE],
        "Total events left to another instance: of a newer version, those behind them in their orders, and one for each provider that is not enabled, by stage",
    ),
    counter(
        "panics_total",
        &[ROLE],
        "Total panics that were caught while an event was handled, by stage",
    ),
    counter(
        "dead_letters_total",
        &[PROVIDER],
        "Total orders given up on, by provider",
    ),
    gauge(
        "dead_letters_open",
        &[open("stage"), open("code"), open("provider")],
        "Dead letters that were not retried yet, by stage, cause and provider; read from the log, so it is the same on every instance: take the largest",
    ),
    gauge(
        "dead_letters_known",
        &[],
        "1 where the log was read for dead letters, so that dead_letters_open is complete",
    ),
    counter(
        "not_yours_total",
        &[of("stage", &["transform", "forward"]), PROVIDER],
        "Total webhooks by which a branch's secret tried to act for another branch, by provider and stage",
    ),
    // Backend and providers.
    counter(
        "backend_requests_total",
        &[of(
            "outcome",
            &[
                "success",
                "validation",
                "unknown_order",
                "temporary",
                "unknown",
                "configuration",
            ],
        )],
        "Total requests to the backend, by outcome",
    ),
    histogram(
        "backend_request_duration_seconds",
        &[],
        "Time the backend took for a request",
    ),
    gauge("backend_up", &[], "1 while the circuit breaker is closed"),
    gauge(
        "circuit_breaker_state",
        &[STATE],
        "1 for the state that the breaker is in, 0 for the others",
    ),
    counter(
        "provider_requests_total",
        &[
            PROVIDER,
            of("outcome", &["success", "configuration", "temporary", "refused"]),
        ],
        "Total requests to providers' interfaces, by provider and outcome",
    ),
    histogram(
        "provider_request_duration_seconds",
        &[PROVIDER],
        "Time a provider took for a request, a new token included",
    ),
    gauge(
        "provider_circuit_breaker_state",
        &[open("provider"), open("state")],
        "1 for the state that the breaker before a provider's interface is in, 0 for the others",
    ),
    // The log.
    gauge("event_log_up", &[], "1 while the event log acknowledges appends"),
    gauge(
        "event_log_trouble",
        &[of("reason", &labels::LOG_TROUBLE)],
        "1 for the reason why the event log does not acknowledge appends, 0 for the others. stores_nothing: NATS answers, but what is sent to it is neither stored nor refused, as after its disk was full; it must be restarted. restoring: EVENTS is being restored, or that was interrupted",
    ),
    late(
        "event_log_last_sequence",
        &[],
        "Sequence of the last event on the log when last looked at; a mirror that is to take the log's place must reach it",
    ),
    gauge("event_log_bytes", &[], "Bytes that the stream EVENTS holds"),
    gauge(
        "event_log_max_bytes",
        &[],
        "Bytes that it may hold (max_bytes); 0: without a limit",
    ),
    gauge(
        "event_log_fill_ratio",
        &[],
        "How much of its max_bytes the stream EVENTS holds, 0 to 1",
    ),
    counter(
        "event_log_nearly_full_refused_total",
        &[PROVIDER],
        "Total webhooks refused because the log is nearly full and their provider filled more of it lately than is left",
    ),
    counter(
        "events_appended_total",
        &[EVENT],
        "Total events that this instance appended to the log, by type",
    ),
    histogram("append_round_size", &[], "Events that were appended in one round"),
    histogram(
        "append_round_duration_seconds",
        &[],
        "From the last message of a round to its acknowledgement",
    ),
    late(
        "nats_healthy",
        &[open("server")],
        "1 where a NATS server's own health check (/healthz of NATS_MONITORING_URL) says that all is well",
    ),
    late(
        "nats_store_bytes",
        &[open("server")],
        "Bytes that a NATS server has stored in its streams",
    ),
    late(
        "nats_store_limit_bytes",
        &[open("server")],
        "Bytes that it may store (max_file_store)",
    ),
    late(
        "nats_disk_free_bytes",
        &[open("server")],
        "Bytes free on the disk of a NATS server's store; only where NATS_MONITORING_URL names this machine by a loopback address",
    ),
    late("nats_disk_size_bytes", &[open("server")], "Size of that disk"),
    gauge(
        "consumer_missing",
        &[of("consumer", &["transform", "forward", "push", "projection"])],
        "1 while a durable consumer was deleted and this instance waits for it, by consumer",
    ),
    counter(
        "log_identity_changes_total",
        &[of("by", &["hub", "tables", "orders", "transform", "forward", "push"])],
        "Total times that the log was found to have gone back or to be another, by the reader that noticed it",
    ),
    late(
        "log_left_seconds",
        &[of("reader", &["transform", "forward", "push", "projection"])],
        "Seconds until the log forgets (max_age) the first event that a reader has not read; max_age where it has read all",
    ),
    late(
        "log_left_bytes",
        &[],
        "Bytes until EVENTS is full, where it has max_bytes; then it refuses events, or forgets its oldest ones (discard)",
    ),
    // PostgreSQL.
    gauge(
        "database_up",
        &[],
        "1 where PostgreSQL gave a connection when last asked",
    ),
    counter(
        "database_statements_given_up_total",
        &[],
        "Total statements without an answer in time: cancelled, and their connections closed",
    ),
    counter(
        "database_errors_total",
        &[CLASS],
        "Total errors for which the tables were not written, or PostgreSQL did not answer health's question, by class",
    ),
    gauge(
        "database_trouble",
        &[CLASS],
        "1 for the class of the error that keeps this instance from writing the tables, or from asking PostgreSQL, now; 0 for the others",
    ),
    gauge(
        "projection_position",
        &[],
        "Sequence of the last event in the tables, as this instance knows it",
    ),
    gauge(
        "projection_lag_events",
        &[],
        "Events on the log beyond the tables' position; on every instance, also while PostgreSQL is away",
    ),
    gauge(
        "projection_lag_seconds",
        &[],
        "For how long the oldest event that is not in the tables is on the log; on every instance, also while PostgreSQL is away",
    ),
    counter(
        "projection_skipped_total",
        &[],
        "Total events left out of the tables and noted in hub.skipped_events",
    ),
    counter(
        "projection_gap_events_total",
        &[],
        "Total events that the log had forgotten before the tables came to them; noted in hub.log_gaps",
    ),
    counter(
        "projection_unstorable_total",
        &[],
        "Total events whose payload PostgreSQL could not keep as jsonb",
    ),
    counter(
        "retention_deleted_rows_total",
        &[RETAINED],
        "Total rows that were deleted because of their age (RETENTION_…), by table",
    ),
    gauge(
        "retention_oldest_row_age_seconds",
        &[RETAINED],
        "Time since the oldest row that stays was made, as the last pass over the table saw it; 0 where rows are kept for ever, and on instances that do not write the tables",
    ),
    gauge(
        "retention_refused",
        &[RETAINED],
        "1 while old rows of a table stay because the role may not delete them (RETENTION_… is set); 0 else, and on instances that do not write the tables",
    ),
    // The process.
    late(
        "hub_info",
        &[open("version"), open("service"), open("instance_id")],
        "1; its labels are the version, SERVICE_NAME and the name that this instance has in the log of all of them",
    ),
    late(
        "process_open_fds",
        &[],
        "Files and connections that the process has open",
    ),
    late("process_max_fds", &[], "How many it may have open"),
    late(
        "process_resident_memory_bytes",
        &[],
        "Memory of the process that is in use",
    ),
    counter(
        "accept_paused_total",
        &[],
        "Total times that a port stopped accepting connections because all that it may have were open",
    ),
    counter(
        "accept_failures_total",
        &[],
        "Total connections that could not be accepted because no file descriptor was left",
    ),
    counter(
        "log_lines_lost_total",
        &[of("reason", &["full", "unwritable"])],
        "Total log lines that were not written (full: standard output was too slow; unwritable: it refused them)",
    ),
    late(
        "credential_days_left",
        &[open("variable")],
        "Days until a certificate, an authority or a token ends, by the variable that names it",
    ),
];
