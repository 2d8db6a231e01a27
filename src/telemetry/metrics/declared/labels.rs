//! Labels of metrics, and their values that are known in advance.

use super::{Label, Values};
use crate::event::stage;

pub(super) const fn of(name: &'static str, values: &'static [&'static str]) -> Label {
    Label {
        name,
        values: Values::Of(values),
    }
}

pub(super) const fn open(name: &'static str) -> Label {
    Label {
        name,
        values: Values::Open,
    }
}

pub(super) const PROVIDER: Label = Label {
    name: "provider",
    values: Values::Providers,
};
pub(super) const EVENT: Label = Label {
    name: "type",
    values: Values::EventTypes,
};
pub(super) const FLAG: Label = Label {
    name: "flag",
    values: Values::Flags,
};
pub(super) const STAGE: Label = of("stage", &stage::NAMES);
/// Stages, and the writing of the tables.
pub(super) const ROLE: Label = of("stage", &stage::READERS);
/// What can find that the log is another one.
pub(super) const BY: Label = of(
    "by",
    const { &stage::names_and::<3, { stage::ALL.len() + 3 }>(["hub", "tables", "orders"]) },
);
/// Tables that old rows are deleted from.
pub(super) const RETAINED: Label = of(
    "table",
    &[
        "webhook_logs",
        "delivery_error_logs",
        "provider_order_logs",
        "hub.orders",
        "hub.skipped_events",
    ],
);
/// States of a circuit breaker.
pub(super) const STATE: Label = of("state", &["closed", "open", "half_open"]);
/// The outcomes of a request of the backend.
pub(super) const CODE: Label = of(
    "code",
    &[
        "ACCEPTED",
        "INVALID_TOKEN",
        "PROVIDER_NOT_FOUND",
        "OUTBOUND_NOT_CONFIGURED",
        "INVALID_REQUEST",
        "IDEMPOTENCY_KEY_REUSED",
        "EVENT_LOG_UNAVAILABLE",
        "INTERNAL_ERROR",
    ],
);
/// Why a webhook is refused.
pub(super) const REASON: Label = of(
    "reason",
    &[
        "INVALID_PAYLOAD",
        "INVALID_SIGNATURE",
        "SIGNATURE_EXPIRED",
        "INVALID_TOKEN",
        "IP_NOT_ALLOWED",
        "HTTPS_REQUIRED",
        "REQUEST_TIMEOUT",
        "PAYLOAD_TOO_LARGE",
        "RATE_LIMITED",
        "OVERLOADED",
        "EVENT_LOG_NEARLY_FULL",
        "EVENT_LOG_UNAVAILABLE",
        "SECRETS_UNAVAILABLE",
        "INTERNAL_ERROR",
    ],
);

/// Where an event of a stage waits.
pub(super) const WHERE: Label = of("where", &["queued", "breaker", "branches", "held", "parked"]);
/// Classes of errors of PostgreSQL; see [`crate::database::trouble`].
pub(super) const CLASS: Label = of(
    "class",
    &[
        "no_connection",
        "refused_login",
        "read_only",
        "no_space",
        "time_limit",
        "lock",
        "too_many_connections",
        "missing_right",
        "schema",
        "pooler",
        "log",
        "other",
    ],
);

/// Reasons of `event_log_trouble`: why the log does not acknowledge.
pub const LOG_TROUBLE: [&str; 6] = [
    "no_connection",
    "no_answer",
    "no_stream",
    "restoring",
    "no_room",
    "stores_nothing",
];
