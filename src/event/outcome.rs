//! Payloads of the outcome events, which subscribers and the projections read.
//!
//! They are part of the contract with the subscribers of `orders.>`: fields are added, never renamed or removed.
//! [`crate::order::body`] makes the payload of `order.transformed`.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{EventId, EventType, Recorded};

/// Label of the event that ends what a stage was given, whatever it says: an event has one (see
/// [`EventId::derive`](super::EventId::derive)).
pub const OUTCOME: &str = "outcome";
/// Code of what was too old when its turn came.
pub const ORDER_EXPIRED: &str = "ORDER_EXPIRED";

/// Code of what found no room behind an event of its order that is tried again: no request of it was made.
pub const LANE_FULL: &str = "LANE_FULL";
/// Code of what was not completed before the log is about to delete it.
pub const EVENT_AGED: &str = "EVENT_AGED";
/// Code of what failed while another order with its number waited behind it.
pub const NUMBER_USED_AGAIN: &str = "NUMBER_USED_AGAIN";
/// Code of what a branch's secret tried to do to another branch.
pub const NOT_YOURS: &str = "NOT_YOURS";
/// Code of an order that was called off while it was asked for: the backend may have it.
pub const CALLED_OFF: &str = "CALLED_OFF";
/// Code of a status that waited while its order number was used again, and of news of an order that the backend does not have, while it
/// has another one with the number.
pub const ANOTHER_ORDER: &str = "ANOTHER_ORDER";
/// Code of an announcement of an order that the provider was told is lost ([`ErrorReport::reported_lost`]).
pub const REPORTED_LOST: &str = "REPORTED_LOST";
/// Code of news about an order number that several branches have, without a branch.
pub const ORDER_AMBIGUOUS: &str = "ORDER_AMBIGUOUS";

/// The class of an error; it decides what follows (see [`crate::forward::classify`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ErrorType {
    /// This order is at fault; trying again cannot help.
    Validation,
    /// Our own or the backend's set-up is at fault; people must act, no order is to blame.
    Configuration,
    /// It may well work later.
    Temporary,
    /// Not understood; treated as temporary and counted apart.
    Unknown,
}

impl ErrorType {
    /// Its text in `delivery_error_logs.error_type` and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Validation => "validation",
            Self::Configuration => "configuration",
            Self::Temporary => "temporary",
            Self::Unknown => "unknown",
        }
    }
}

/// An error in events, tables and logs. It never holds a secret or customers' data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorReport {
    /// Its class.
    #[serde(rename = "type")]
    pub error_type: ErrorType,
    /// For machines: `BRANCH_NOT_FOUND`, `BACKEND_500` …
    pub code: String,
    /// For people: what is wrong and, if known, the remedy.
    pub message: String,
    /// Details, e.g. each fault of a payload with its JSON pointer.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl ErrorReport {
    /// Of an order with an id that an earlier version accepted and that no path can hold, and why: no request about it can be made.
    pub fn of_order_id(why: impl fmt::Display) -> Self {
        let message = format!("the order id {why}; no request about this order can be made");
        Self::new(ErrorType::Validation, "ORDER_ID_NO_PATH_SEGMENT", message)
    }

    /// The error of an order that its provider was told is lost: its announcement at this time was given up.
    pub fn reported_lost(announced_at: DateTime<Utc>) -> Self {
        let message = format!(
            "the provider was told that this order is lost, after its announcement at {} was given up: it is made without the backend; if it \
             is to be at the backend as well, retry this dead letter",
            announced_at.to_rfc3339_opts(SecondsFormat::Secs, true)
        );
        Self::new(ErrorType::Validation, REPORTED_LOST, message)
    }

    /// Without details.
    pub fn new(error_type: ErrorType, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            error_type,
            code: code.into(),
            message: message.into(),
            details: Value::Null,
        }
    }

    /// Whether it says that the order was refused, and so that the backend does not have it.
    pub fn is_refusal(&self) -> bool {
        self.error_type == ErrorType::Validation && self.code != ORDER_EXPIRED
    }

    /// With what else is known.
    #[must_use]
    pub fn with(self, details: Value) -> Self {
        Self { details, ..self }
    }
}

/// Reason of an `order.ignored`: the order exists already.
pub const DUPLICATE_ORDER: &str = "DUPLICATE_ORDER";
/// Reason of an `order.ignored`: a cancellation that was retried, of an order that the backend does not have.
pub const NOTHING_TO_CANCEL: &str = "NOTHING_TO_CANCEL";
/// Reason of an `order.ignored`: this very webhook was there before.
pub const DUPLICATE_WEBHOOK: &str = "DUPLICATE_WEBHOOK";
/// Reason of an `order.ignored`: something newer took its place.
pub const SUPERSEDED: &str = "SUPERSEDED";
/// Reason of an `order.ignored`: a test order, which the backend is not to have.
pub const TEST_ORDER: &str = "TEST_ORDER";

/// Payload of `order.ignored`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ignored {
    /// For machines: `DUPLICATE_ORDER` …
    pub reason: String,
    /// For people.
    pub message: String,
    /// The order that exists already, where that is the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_order_id: Option<String>,
    /// Place on the log of the body that went no further, where a person may retry it as an order of its own: by a retry
    /// in the stage `forward`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The order was announced again with other lines or another total, at another time, by another customer or for another
    /// address. A person must check it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
}

/// Payload of `order.rejected`: a dead letter for which no request was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// Why it cannot be forwarded as it is.
    pub error: ErrorReport,
    /// The stage that rejected it; a retry begins there. Absent in events of earlier versions: their stage was
    /// `transform`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Place on the log of the event that was rejected. Absent in events of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
}

/// Payload of `order.forward_failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardFailed {
    /// Which request failed, from 1. A trial of a half-open breaker that comes after a counted retry does not count: it has
    /// the number of the request before it.
    pub attempt: u32,
    /// How many of the retries that count (`RETRY_MAX_ATTEMPTS`) are used up; the quick ones before them do not count.
    #[serde(default)]
    pub retries: u32,
    /// After how many of those it is given up.
    pub max_attempts: u32,
    /// The error.
    pub error: ErrorReport,
    /// When the next attempt is due.
    pub next_attempt_at: DateTime<Utc>,
    /// The backend does not know the order: it waits for the event that creates it, which may pass it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_order: bool,
}

/// Payload of `order.forwarded`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forwarded {
    /// The backend's own id of the order; absent where a status change was forwarded and the backend named none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal_order_id: Option<String>,
    /// The backend's HTTP status.
    pub backend_status: u16,
    /// The order's status in the backend's words, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_status: Option<String>,
    /// Why the backend's answer to a new order could not be read whole; it said yes, but its id of the order is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer_unread: Option<String>,
    /// How many attempts it took, this one included.
    pub attempts: u32,
    /// When the provider's webhook was accepted.
    pub received_at: DateTime<Utc>,
    /// When the backend had answered.
    pub forwarded_at: DateTime<Utc>,
    /// It announced an order that the backend had, and was sent as a change of its status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_news: bool,
    /// It was sent as an amendment, and differs in something that no amendment says: a person must know it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub differs: bool,
    /// It announced an order that the backend had, and was sent as an amendment alone: its status was no news.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_lines: bool,
    /// It was given up without knowing whether the backend has it. A later announcement of the order, at this place of the log,
    /// had it asked for once more, by the same key, and it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<u64>,
    /// The order in short, so that subscribers and tables need not look up the transformed one.
    pub order: OrderSummary,
}

/// Payload of `order.dead_lettered`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLettered {
    /// How many requests were made; 0 where none could be.
    pub attempts: u32,
    /// How many of the retries that count were used up.
    #[serde(default)]
    pub retries: u32,
    /// The stage that gave up, `transform` or `forward`; a retry begins there.
    pub stage: String,
    /// Place on the log of the event that was given up.
    pub sequence: u64,
    /// The last error.
    pub error: ErrorReport,
    /// It is a dead letter since an earlier event, without knowing whether the backend has it. The request was repeated for another
    /// announcement of the order, at this sequence, and the backend refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<u64>,
    /// Its own request was not made: the requests repeated the one of another announcement of the order, at this sequence, which was
    /// given up before without an answer. So the backend cannot have the event by this attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirming: Option<u64>,
    /// No request of it was ever made, so the backend cannot have the event. Absent where that is not certain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unposted: bool,
    /// The backend has its lines and amounts, as an amendment. What failed is the status that it says in addition.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub amended: bool,
}

impl DeadLettered {
    /// Whether the backend does not have what was given up: it said so. That no request is counted does not say that none was made:
    /// the instance that made it may have died before it recorded that.
    pub fn is_refused(&self) -> bool {
        self.error.is_refusal() && !self.amended
    }

    /// Whether no request of what was given up was made by then: its turn was spent on another announcement, or never came.
    pub fn is_unposted(&self) -> bool {
        self.unposted || self.confirming.is_some() || self.error.code == LANE_FULL
    }
}

/// Whether an event only adds to an earlier dead letter of the same event ([`DeadLettered::confirmed_by`]).
pub fn is_confirmation(event: &Recorded) -> bool {
    event.envelope.event_type == EventType::OrderDeadLettered
        && serde_json::from_slice::<DeadLettered>(&event.payload).is_ok_and(|dead| dead.confirmed_by.is_some())
}

/// As much of `order.forwarded` as tells a confirmation.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConfirmationNote {
    #[serde(default)]
    confirmed_by: Option<u64>,
}

/// The place of the announcement that an event confirms: the backend has it, though it was given up ([`Forwarded::confirmed_by`]).
pub fn confirmed(event: &Recorded) -> Option<u64> {
    if event.envelope.event_type != EventType::OrderForwarded {
        return None;
    }
    let note: ConfirmationNote = serde_json::from_slice(&event.payload).ok()?;
    note.confirmed_by.and(event.envelope.cause_sequence)
}

/// Payload of `order.retry_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryRequested {
    /// The stage that takes it up again.
    pub stage: String,
    /// Sequence of the event that is retried.
    pub sequence: u64,
    /// How that event had ended: the error's code, or the reason for which it was ignored (`DUPLICATE_ORDER`). Absent in
    /// events of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_as: Option<String>,
    /// Who requested it.
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It is to be sent although the backend has it, under the same key. Versions that do not know this end it as a repeat.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// The job that requested it, by its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<EventId>,
}

/// The order in short; amounts are decimal text with the currency's number of decimals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase")]
pub struct OrderSummary {
    /// Number shown to people, `CAREEM-123456789`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_number: Option<String>,
    /// Branch of the restaurant.
    pub branch_id: String,
    /// Company that the branch belongs to.
    pub company_id: String,
    /// Status in the provider's words.
    pub provider_status: String,
    /// Status in the platform's words (`order_status`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Who delivers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_type: Option<String>,
    /// ISO 4217 code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Delivery fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery_fee: Option<String>,
    /// Service fee.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_fee: Option<String>,
    /// Total.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// `cash`, `prepaid` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_method: Option<String>,
    /// Whether nothing is left to collect.
    #[serde(default)]
    pub is_prepaid: bool,
    /// The courier, where the provider named one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captain_id: Option<String>,
    /// The courier's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captain_name: Option<String>,
    /// The courier's phone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captain_phone: Option<String>,
    /// The acceptance is sent to the provider automatically.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub auto_accept: bool,
}
