//! What a provider's webhook means.

use chrono::{DateTime, Utc};

use crate::order::{
    fault::{Fault, counted},
    model::{Order, StatusChange},
};

/// What a webhook tells, in nobody's format but ours.
#[derive(Debug)]
pub struct Fact {
    /// The provider's own time of it, where it sent one.
    pub timestamp: Option<DateTime<Utc>>,
    /// The store that the payload names, where it does; the merchant header goes before it.
    pub store_ref: Option<String>,
    /// Whether it is about a test order.
    pub is_test: bool,
    /// The news.
    pub content: Content,
}

/// The news of a webhook.
#[derive(Debug)]
pub enum Content {
    /// There is a new order.
    NewOrder(Box<Order>),
    /// Something happened to one that exists.
    StatusChange(Box<StatusChange>),
    /// Nothing that the backend wants, with the provider's word for it.
    Ignored(Option<String>),
    /// The webhook is thin: the order is at the provider and has to be fetched.
    Elsewhere,
}

/// Why a webhook can never be understood.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// Not JSON; cannot come from the intake, but whatever is on the log must end.
    #[error("the payload is not JSON")]
    NotJson,
    /// Fields are missing or wrong: every fault, each with its place.
    #[error("the payload has {}, the first at {}: {}", counted(.0), .0[0].pointer, .0[0].message)]
    Faults(Vec<Fault>),
}
