//! The body for the backend, which is also the payload of `order.transformed`, byte for byte.
//!
//! Amounts are JSON numbers with all of the currency's decimals (`16.240`). Fields that a provider did not send are
//! left out; none is ever `null`. `docs/backend-body.md` and the schema [`SCHEMA`] describe every field; tests check real bodies
//! against the schema.

use chrono::{DateTime, FixedOffset, Utc};

use super::model::{Amendment, Order, StatusChange};

mod amendment;
mod content;
mod facts;
mod lines;
mod news;
mod shape;
mod summary;

pub use self::{
    facts::{Facts, facts},
    lines::{changes_only_lines, has_lines},
    news::{AnnouncedContent, Difference, announced, are_two_orders, as_amendment, as_news, were_placed_apart},
    summary::{summary, zone},
};

/// Version of this format, `metadata.version`.
pub const VERSION: &str = "1.0.0";
/// JSON Schema (2020-12) of the bodies.
pub const SCHEMA: &str = include_str!("../../docs/backend-body.schema.json");

/// Branch and company that an order belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BranchRef {
    /// `branch_delivery_configs.branch_id`.
    pub branch_id: String,
    /// `branch_delivery_configs.company_id`.
    pub company_id: String,
    /// `branch_delivery_configs.auto_accept_orders`: the acceptance is sent to the provider as soon as the backend
    /// has it.
    pub auto_accept: bool,
}

/// The source of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodySource<'a> {
    /// The provider's name.
    pub provider: &'a str,
    /// The type of the webhook, `order_created`.
    pub webhook_type: &'a str,
    /// The provider's order id.
    pub external_order_id: &'a str,
    /// The provider's time; if it sent none, when the webhook was received.
    pub timestamp: DateTime<Utc>,
    /// When the event that it is made from was recorded: the same for every repetition.
    pub transformed_at: DateTime<Utc>,
    /// The zone of the branch, if times were read by it.
    pub zone: Option<FixedOffset>,
    /// Whether the hub accepts the order at the provider as soon as the backend has it.
    pub auto_accept: bool,
}

/// The body for a new order.
///
/// # Errors
/// Only if a value cannot be written as JSON, which does not happen.
pub fn new_order(order: &Order, branch: &BranchRef, origin: BodySource<'_>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&shape::Body::of_order(order, branch, origin))
}

/// The body for a change of an order that exists.
///
/// # Errors
/// The same as [`new_order`].
pub fn status_change(change: &StatusChange, branch: &BranchRef, origin: BodySource<'_>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&shape::Body::of_change(change, branch, origin))
}

/// The body for an amendment of an order that exists.
///
/// # Errors
/// The same as [`new_order`].
pub fn amendment(amendment: &Amendment, place: &BranchRef, origin: BodySource<'_>) -> serde_json::Result<Vec<u8>> {
    serde_json::to_vec(&shape::Body::of_amendment(amendment, place, origin))
}
