//! Payloads of requests to a provider: statuses, menus, and fetched orders.
//!
//! As those of [`super::outcome`], they are part of the contract with subscribers: fields are added, never renamed or
//! removed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Envelope, EventId, EventType, NewEvent, Recorded, outcome::ErrorReport};
use crate::text::words;

/// `webhookType` of the backend's requests to send an order's status to its provider.
pub const STATUS_REQUEST: &str = "status_request";
/// `webhookType` of the backend's requests about a branch: a menu for a provider, items of it, the branch's state.
pub const MENU_SYNC: &str = "menu_sync";

/// Label of the request to tell a provider that the backend will not have an order (see [`EventId::derive`]).
const LOSS: &str = "loss";

/// Whether an event belongs to a request of the backend, not to a webhook.
pub fn is_of_backend(envelope: &Envelope) -> bool {
    matches!(&*envelope.webhook_type, STATUS_REQUEST | MENU_SYNC)
}

/// Replaces an order's id in the events of a branch's menus, so that those of one branch follow one another.
pub fn menu_subject(branch: &str) -> String {
    format!("menu:{branch}")
}

words! {
    /// A status of an order for its provider, in the hub's own words.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum PushStatus {
        /// The restaurant took it.
        Accepted = "accepted",
        /// The restaurant does not take it.
        Rejected = "rejected",
        /// In the kitchen.
        Preparing = "preparing",
        /// Waits for the courier or the customer.
        Ready = "ready",
        /// On its way.
        PickedUp = "picked_up",
        /// With the customer.
        Delivered = "delivered",
        /// Will not happen after all.
        Cancelled = "cancelled",
        /// The kitchen needs longer.
        Delayed = "delayed",
        /// The backend has the order. The hub alone asks for it.
        Received = "received",
        /// The backend will not have the order, so the provider must tell the restaurant itself. The hub alone asks for it.
        Lost = "lost",
    }
}

impl PushStatus {
    /// Those that the backend may ask for.
    pub fn of_backend() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|word| !matches!(word, Self::Received | Self::Lost))
    }

    /// Whether the backend does not want the order.
    pub const fn is_called_off(self) -> bool {
        matches!(self, Self::Rejected | Self::Cancelled)
    }

    /// Reads a word of the backend's, or the one of the platform's `order_status` that means the same.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "confirmed" => Self::Accepted,
            "ready_for_pickup" => Self::Ready,
            "out_for_delivery" => Self::PickedUp,
            same => return Self::of_backend().find(|one| one.as_str() == same),
        })
    }
}

words! {
    /// Why an order is not taken or not made, in the hub's own words. A provider's file says what it calls them.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum ReasonCode {
        /// Something that was ordered is not there.
        OutOfStock = "out_of_stock",
        /// The restaurant is closed.
        Closed = "closed",
        /// The kitchen has too much to do.
        TooBusy = "too_busy",
        /// There is no courier for it.
        NoCourier = "no_courier",
        /// It cannot be brought there.
        Address = "address",
        /// A price, or the menu, is wrong.
        Menu = "menu",
        /// What the customer asks for cannot be done.
        Wish = "wish",
        /// The customer asked for it.
        Customer = "customer",
        /// Something does not work.
        Technical = "technical",
        /// Anything else.
        Other = "other",
    }
}

/// Payload of `order.status_requested`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusRequested {
    /// The status to send.
    pub status: PushStatus,
    /// Why, for people; of a rejection or a cancellation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why, as one of the hub's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<ReasonCode>,
    /// How long the kitchen needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation_minutes: Option<u32>,
    /// The backend's own id of the order, where it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Whether the hub requested it because the branch accepts every order (`auto_accept_orders`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub automatic: bool,
}

/// A status that the hub asks for itself, because of an event. It begins something of its own: what becomes of it is not what
/// becomes of the webhook. `cause` is the event that it follows from, where that is another.
fn automatic(event: &Recorded, label: &str, cause: EventId, wanted: &StatusRequested) -> NewEvent {
    let follows = event.follow(label, EventType::OrderStatusRequested, Utc::now());
    let envelope = Envelope {
        root_id: follows.id,
        cause_id: Some(cause),
        webhook_type: STATUS_REQUEST.into(),
        received_at: follows.time,
        ..follows
    };
    NewEvent::new(envelope, wanted)
}

/// The status that a provider gets for an order because the backend has it; `forwarded` is the evidence.
pub fn of_forwarded(
    event: &Recorded,
    label: &str,
    forwarded: &NewEvent,
    status: PushStatus,
    order_id: Option<String>,
) -> NewEvent {
    let wanted = StatusRequested {
        status,
        reason: None,
        reason_code: None,
        preparation_minutes: None,
        order_id,
        automatic: true,
    };
    automatic(event, label, forwarded.envelope.id, &wanted)
}

/// The status that a provider gets for a new order that the backend will not have, whichever stage ends it. `end` is recorded after it, and
/// is its cause: the status does not count as the outcome of the event if the process dies in between.
pub fn lost(event: &Recorded, end: &NewEvent) -> NewEvent {
    let wanted = StatusRequested {
        status: PushStatus::Lost,
        reason: Some("the restaurant's system did not take the order in time".into()),
        reason_code: Some(ReasonCode::Technical),
        preparation_minutes: None,
        order_id: None,
        automatic: true,
    };
    automatic(event, LOSS, end.envelope.id, &wanted)
}

/// Whether the payload of an `order.status_requested` is that of [`lost`].
pub fn is_loss(payload: &[u8]) -> bool {
    let requested = serde_json::from_slice::<StatusRequested>(payload);
    requested.is_ok_and(|requested| requested.automatic && requested.status == PushStatus::Lost)
}

/// Payload of `order.status_pushed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusPushed {
    /// The status that was sent to the provider.
    pub status: PushStatus,
    /// Nothing was sent: this provider has no call for that status.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// The provider had it in that state already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already: bool,
    /// The provider's HTTP status; absent where nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_status: Option<u16>,
    /// How many requests it took, the last one included.
    pub attempts: u32,
    /// When the backend requested it.
    pub requested_at: DateTime<Utc>,
    /// When the provider had answered.
    pub pushed_at: DateTime<Utc>,
}

/// Payload of `order.status_push_failed`, `order.fetch_failed`, `menu.sync_failed`, `items.availability_push_failed` and
/// `store.state_push_failed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PushFailed {
    /// Which request failed, from 1.
    pub attempt: u32,
    /// How many of the retries that count (`RETRY_MAX_ATTEMPTS`) are used up.
    pub retries: u32,
    /// After how many of those it is given up.
    pub max_attempts: u32,
    /// The error.
    pub error: ErrorReport,
    /// When the next attempt is due; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// It was given up: an `order.dead_lettered` of stage `push` follows.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

/// Payload of `menu.sync_accepted`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncAccepted {
    /// Which request it was, from 1.
    pub attempt: u32,
    /// The provider's HTTP status.
    pub provider_status: u16,
    /// What the provider calls the job, where it said so.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// When its result is polled next, or given up.
    pub next_attempt_at: DateTime<Utc>,
    /// Until when its result is waited for.
    pub result_due_at: DateTime<Utc>,
    /// Sequence of the last word about a menu of this branch before this one was sent, 0 where there was none: what comes
    /// after it may be about this menu, also if it comes before this event. Absent in events of older hubs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reports_before: Option<u64>,
}

/// Payload of `menu.sync_reported`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SyncReported {
    /// What the provider calls the job, where it says so.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Whether it has the menu now.
    pub ok: bool,
    /// The provider's message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Payload of `menu.synced`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Synced {
    /// What the provider calls the job, where it said so.
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Nothing was sent: this provider takes no menus.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// The provider's HTTP status; absent where nothing was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_status: Option<u16>,
    /// How many requests it took.
    pub attempts: u32,
    /// When the backend requested it.
    pub requested_at: DateTime<Utc>,
    /// When the provider had said yes.
    pub synced_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_the_platforms_mean_the_same() {
        for word in PushStatus::ALL {
            assert_eq!(serde_json::to_value(word).unwrap(), word.as_str());
        }
        for word in PushStatus::of_backend() {
            assert_eq!(PushStatus::parse(word.as_str()), Some(word));
        }
        assert_eq!(PushStatus::parse("lost"), None, "only the hub says so");
        for code in ReasonCode::ALL {
            assert_eq!(ReasonCode::from_word(code.as_str()), Some(code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert_eq!(PushStatus::parse("ready_for_pickup"), Some(PushStatus::Ready));
        assert_eq!(PushStatus::parse("refunded"), None);
    }
}
