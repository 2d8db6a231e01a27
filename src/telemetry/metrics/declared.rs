//! Every metric of the hub: its name, kind, help text and labels. The code uses none that is not here.

pub mod labels;
mod metric;

pub use self::metric::{Kind, Label, Metric, Values};
use self::{
    labels::{BY, CLASS, CODE, EVENT, FLAG, PROVIDER, REASON, RETAINED, ROLE, STAGE, STATE, WHERE, of, open},
    metric::{counter, gauge, histogram, late},
};
use crate::event::stage;

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
        "When the last webhook of a provider with a signature that matched was accepted, from any of its branches, in seconds since 1970: read from the log at the start, then counted by this instance; use the maximum over all instances. Webhooks whose signature is only observed, and those that the hub made of a list of orders, do not count. 0 if the log has none",
    ),
    histogram(
        "webhook_accept_duration_seconds",
        &[PROVIDER],
        "From the request's headers to the acknowledgement of the log",
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
        "response_waits_total",
        &[PROVIDER, of("result", &["forwarded", "not_forwarded", "late", "full"])],
        "Total answers that waited for the outcome of their webhook, by what came of it (late: RESPONSE_WAIT was over; full: too many waited)",
    ),
    counter(
        "webhooks_rejected_total",
        &[PROVIDER, REASON],
        "Total requests refused, by provider (_ if unknown) and reason",
    ),
    counter(
        "signature_failures_total",
        &[PROVIDER],
        "Total requests with a missing or wrong signature, by provider",
    ),
    counter(
        "webhook_secret_used_total",
        &[PROVIDER, open("secret"), open("origin"), open("index")],
        "Total webhooks accepted, by provider and the name, origin and index of the secret that matched",
    ),
    counter(
        "webhooks_observed_total",
        &[PROVIDER],
        "Total webhooks accepted although their signature does not match, because the provider's signatures are only observed (OBSERVE_UNTIL)",
    ),
    late(
        "webhooks_observed_until_timestamp_seconds",
        &[PROVIDER],
        "Until when a provider's signatures are only observed, in seconds since 1970; absent if OBSERVE_UNTIL is not set",
    ),
    counter(
        "refusals_lost_total",
        &[],
        "Total samples of refused requests that did not reach the stream REFUSALS",
    ),
    counter(
        "rate_limited_total",
        &[
            PROVIDER,
            of("scope", &["address", "provider", "branch", "bytes", "repeat"]),
        ],
        "Total requests refused by a rate limit, by provider and scope (address: it is blocked; provider: over its quota; branch: over its share of the quota; bytes: over its quota of bytes; repeat: an address sent one webhook too often)",
    ),
    gauge(
        "connections_open",
        &[of("class", &["unknown", "known"])],
        "Connections of the public port, by class of their address (unknown, known)",
    ),
    counter(
        "connections_refused_total",
        &[of("reason", &["share", "strangers", "full", "replaced"])],
        "Total connections that were not accepted or ended early, by exhausted limit (share: of its address; strangers: of unknown addresses; full: of all connections) or because a newer connection took their room (replaced: they were idle)",
    ),
    gauge("body_bytes_held", &[], "Bytes of request bodies in memory"),
    counter(
        "bodies_refused_total",
        &[of("reason", &["room", "provider", "holds_most"])],
        "Total bodies refused for lack of memory, by exhausted limit (room: of their class; provider: the share of their provider; holds_most: unfinished, ended for others because their address uses most memory)",
    ),
    counter(
        "heavy_work_total",
        &[of("outcome", &["done", "refused"])],
        "Total large bodies that waited to be decompressed or verified, by outcome",
    ),
    gauge("blocks_active", &[], "Addresses and providers that are blocked"),
    gauge(
        "rate_limit_instances",
        &[],
        "Instances that share rate limits, as known to this one",
    ),
    counter(
        "integration_requests_total",
        &[
            of(
                "kind",
                &["status_request", "menu_sync", "items_availability", "store_state"],
            ),
            CODE,
        ],
        "Total requests of the backend for providers, by kind and code",
    ),
    // Reconciliation.
    counter(
        "reconciliation_found_total",
        &[PROVIDER, of("type", &["order_created", "order_cancelled"])],
        "Total webhooks that never came and were made of the provider's list of orders, by provider and type; reported by the instance that works on push",
    ),
    counter(
        "reconciliation_readings_total",
        &[
            PROVIDER,
            of(
                "outcome",
                &[
                    "complete",
                    "misconfigured",
                    "refused",
                    "unavailable",
                    "log",
                    "handed_over",
                ],
            ),
        ],
        "Total readings of a provider's lists of orders, by provider and outcome (of several causes the last); reported by the instance that works on push",
    ),
    counter(
        "reconciliation_unreadable_total",
        &[PROVIDER],
        "Total orders of a provider's lists that never came and of which no webhook can be made, counted at each reading",
    ),
    late(
        "reconciliation_last_complete_timestamp_seconds",
        &[PROVIDER],
        "Since when each of a provider's lists of orders was read to its end at least once, in seconds since 1970; use the maximum over all instances",
    ),
    // Orders.
    counter(
        "sanitised_fields_total",
        &[PROVIDER],
        "Total texts that were changed before they were sent to the backend, by provider",
    ),
    counter(
        "order_flags_total",
        &[PROVIDER, FLAG],
        "Total flags of orders and of news about them, by provider and flag; unknown_event: ignored because of an unknown type",
    ),
    counter(
        "duplicate_orders_total",
        &[PROVIDER, of("differs", &["true", "false"])],
        "Total orders that were announced again and not created twice, by provider and whether lines, total, time, customer or address differ",
    ),
    gauge(
        "order_memory_entries",
        &[],
        "Webhooks that the hub recognises when they, or their orders, come again",
    ),
    gauge(
        "order_memory_warm",
        &[],
        "1 once the log was read for known orders; before that the instance takes over no stage",
    ),
    gauge(
        "order_memory_reach_seconds",
        &[],
        "How far back orders are recognised; less than ORDER_MEMORY if the log is younger, or if more orders came than the memory can contain",
    ),
    // Stages.
    gauge(
        "stage_active",
        &[ROLE],
        "1 on the instance that runs the stage now (projection: that writes the tables), 0 on the others",
    ),
    gauge(
        "stage_pending",
        &[STAGE],
        "Messages on the log that were not yet delivered to the stage; 0 on instances that do not run it",
    ),
    gauge(
        "stage_lag_seconds",
        &[STAGE],
        "How long the last message waited for the stage; 0 on instances that do not run it",
    ),
    gauge(
        "orders_waiting",
        &[STAGE, WHERE],
        "Events that a stage has not completed, by where they wait: queued (on the log, not yet delivered to the stage), breaker (queued or held, while the circuit breaker is open), branches (queued or held, while the branches were never read), held (in memory, in progress or between quick attempts), parked (until their next attempt). For transform and forward these are orders, and news about them, that are not at the backend yet; for push, requests to providers. 0 on instances that do not run the stage",
    ),
    gauge(
        "oldest_waiting_seconds",
        &[STAGE],
        "Age on the log of the oldest event that a stage has not completed; 0 on instances that do not run it",
    ),
    gauge(
        "retries_parked",
        &[PROVIDER],
        "Orders that are parked until their next attempt, by provider, for all stages that this instance runs",
    ),
    counter(
        "lane_full_total",
        &[STAGE, PROVIDER],
        "Total events given up because too many events of their order wait already, by stage and provider",
    ),
    counter(
        "parked_events_lost_total",
        &[STAGE],
        "Total parked events that were not on the log when they were due, and have no outcome: the log deleted them while no instance worked, or it went back, by stage",
    ),
    counter(
        "events_left_total",
        &[STAGE],
        "Total events left to another instance: events of a newer version, later events of the same orders, and one each time that the stage is left for a provider that is not enabled, by stage",
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
        "Dead letters that are neither retried nor confirmed by another announcement, by stage, cause and provider; read from the log, so it is the same on every instance: use the maximum",
    ),
    gauge(
        "dead_letters_known",
        &[],
        "1 once the log was read for dead letters and dead_letters_open is complete",
    ),
    gauge(
        "retry_jobs_running",
        &[],
        "Jobs that retry dead letters and have neither ended nor been stopped; read from the log, so it is the same on every instance: use the maximum",
    ),
    counter(
        "not_yours_total",
        &[
            of("stage", &[stage::TRANSFORM.name, stage::FORWARD.name, stage::PUSH.name]),
            PROVIDER,
        ],
        "Total webhooks by which a branch's secret tried to act for another branch, and requests to a provider that it would have taken for another branch's order, by provider and stage",
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
        "1 for the current state of the breaker, 0 for the others",
    ),
    gauge(
        "circuit_breaker_failing_branches",
        &[],
        "Branches that the backend fails for: their orders wait, and the orders of other branches do not",
    ),
    counter(
        "provider_requests_total",
        &[
            PROVIDER,
            of("outcome", &["success", "configuration", "temporary", "refused"]),
        ],
        "Total requests to providers' APIs, by provider and outcome",
    ),
    histogram(
        "provider_request_duration_seconds",
        &[PROVIDER],
        "Time a provider took for a request, including a new token",
    ),
    gauge(
        "provider_circuit_breaker_state",
        &[open("provider"), open("state")],
        "1 for the current state of the breaker of a provider's API, 0 for the others",
    ),
    // The log.
    gauge("event_log_up", &[], "1 while the event log acknowledges appends"),
    gauge(
        "event_log_trouble",
        &[of("reason", &labels::LOG_TROUBLE)],
        "1 for the reason why the event log does not acknowledge appends, 0 for the others. stores_nothing: NATS answers, but neither stores nor refuses what it receives, as after its disk was full; restart it. restoring: EVENTS is being restored, or a restore was interrupted",
    ),
    late(
        "event_log_last_sequence",
        &[],
        "Sequence of the last event on the log, as last checked; a mirror that is promoted should have reached it",
    ),
    gauge("event_log_bytes", &[], "Size of the stream EVENTS in bytes"),
    gauge(
        "event_log_max_bytes",
        &[],
        "Maximum size of the stream (max_bytes); 0: no limit",
    ),
    gauge(
        "event_log_fill_ratio",
        &[],
        "Size of the stream EVENTS as a share of its max_bytes, 0 to 1",
    ),
    counter(
        "event_log_nearly_full_refused_total",
        &[PROVIDER],
        "Total webhooks refused because the log is nearly full and their provider recently filled more of it than is left",
    ),
    counter(
        "events_appended_total",
        &[EVENT],
        "Total events that this instance appended to the log, by type",
    ),
    histogram("append_round_size", &[], "Events appended in one round"),
    histogram(
        "append_round_duration_seconds",
        &[],
        "From the last message of a round to its acknowledgement",
    ),
    late(
        "nats_healthy",
        &[open("server")],
        "1 if a NATS server's own health check (/healthz of NATS_MONITORING_URL) succeeds",
    ),
    late(
        "nats_store_bytes",
        &[open("server")],
        "Bytes stored in the streams of a NATS server",
    ),
    late(
        "nats_store_limit_bytes",
        &[open("server")],
        "Maximum number of bytes in its streams (max_file_store)",
    ),
    late(
        "nats_disk_free_bytes",
        &[open("server")],
        "Bytes free on the disk of a NATS server's store; only if NATS_MONITORING_URL is a loopback address",
    ),
    late("nats_disk_size_bytes", &[open("server")], "Size of that disk"),
    gauge(
        "consumer_missing",
        &[of("consumer", &stage::READERS)],
        "1 while this instance waits for a durable consumer that was deleted, by consumer",
    ),
    counter(
        "log_identity_changes_total",
        &[BY],
        "Total detections of a log that went back or was replaced, by the component with the position that did not match",
    ),
    late(
        "log_left_seconds",
        &[of("reader", &stage::READERS)],
        "Seconds until the log deletes (max_age) the first event that a reader has not read or not completed (parked events, and events that are retried, count on the instance that runs the stage); max_age if there is none",
    ),
    late(
        "log_left_bytes",
        &[],
        "Bytes until EVENTS is full, if it has max_bytes; then it refuses events, or deletes its oldest ones (discard)",
    ),
    // PostgreSQL.
    gauge(
        "database_up",
        &[],
        "1 if PostgreSQL gave a connection at the last check",
    ),
    counter(
        "database_statements_given_up_total",
        &[],
        "Total statements that were cancelled because they timed out; their connections were closed",
    ),
    counter(
        "database_errors_total",
        &[CLASS],
        "Total errors that prevented writing the tables, or failed a health check of PostgreSQL, by class",
    ),
    gauge(
        "database_trouble",
        &[CLASS],
        "1 for the class of the error that now prevents this instance from writing the tables or checking PostgreSQL; 0 for the others",
    ),
    gauge(
        "projection_position",
        &[],
        "Sequence of the last event in the tables, as known to this instance",
    ),
    gauge(
        "projection_lag_events",
        &[],
        "Events on the log beyond the tables' position; on every instance, also while PostgreSQL is down",
    ),
    gauge(
        "projection_lag_seconds",
        &[],
        "Age on the log of the oldest event that is not in the tables; on every instance, also while PostgreSQL is down",
    ),
    counter(
        "projection_skipped_total",
        &[],
        "Total events left out of the tables and noted in hub.skipped_events",
    ),
    counter(
        "projection_gap_events_total",
        &[],
        "Total events that the log deleted before the tables read them; noted in hub.log_gaps",
    ),
    counter(
        "projection_unstorable_total",
        &[],
        "Total events with a payload that PostgreSQL could not store as jsonb",
    ),
    counter(
        "retention_deleted_rows_total",
        &[RETAINED],
        "Total rows deleted because of their age (RETENTION_…), by table",
    ),
    gauge(
        "retention_oldest_row_age_seconds",
        &[RETAINED],
        "Age of the oldest row that stays, at the last pass over the table; 0 if rows are kept for ever, and on instances that do not write the tables",
    ),
    gauge(
        "retention_refused",
        &[RETAINED],
        "1 while old rows of a table stay because the role may not delete them (RETENTION_… is set); otherwise 0, and 0 on instances that do not write the tables",
    ),
    // The process.
    late(
        "hub_info",
        &[open("version"), open("service"), open("instance_id")],
        "1; its labels are the version, SERVICE_NAME and the instance's name in the log",
    ),
    late(
        "process_open_fds",
        &[],
        "Files and connections that the process has open",
    ),
    late(
        "process_max_fds",
        &[],
        "Maximum number of files and connections that it may have open",
    ),
    late("process_resident_memory_bytes", &[], "Resident memory of the process"),
    counter(
        "accept_paused_total",
        &[],
        "Total times that a port stopped accepting connections because its maximum was open",
    ),
    counter(
        "accept_failures_total",
        &[],
        "Total connections that could not be accepted because file descriptors ran out",
    ),
    counter(
        "log_lines_lost_total",
        &[of("reason", &["full", "unwritable"])],
        "Total log lines that were not written (full: standard output was too slow; unwritable: it failed)",
    ),
    late(
        "credential_days_left",
        &[open("variable")],
        "Days until a certificate, an authority or a token expires, by the variable that names it",
    ),
];
