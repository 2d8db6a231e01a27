//! What a provider's file reads of a request before the hub accepts it.

use std::borrow::Cow;

use crate::{
    event::EventId, json::structure::Malformed, order::sanitise::sanitise, text::segment, verification::Verified,
};

/// Longest order id that is taken, in bytes; the longest real one has 36.
pub const MAX_ORDER_ID_BYTES: usize = 128;

/// Why a provider refuses a request that was verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionRefusal {
    /// Not what the provider sends; says what was expected, never what was sent.
    #[error("invalid webhook payload: {0}")]
    InvalidPayload(String),
}

impl From<Malformed> for AdmissionRefusal {
    fn from(Malformed(why): Malformed) -> Self {
        Self::InvalidPayload(why)
    }
}

/// A request that was let in.
#[derive(Debug)]
pub struct Admission {
    /// The event's id: the same for each repeat of the same webhook.
    pub event_id: EventId,
    /// The provider's order id.
    pub external_order_id: String,
    /// The type of the webhook: `order_created` …
    pub webhook_type: Cow<'static, str>,
}

impl Admission {
    /// Of a verified request; there is none of any other.
    ///
    /// # Errors
    /// If the order id is empty, longer than [`MAX_ORDER_ID_BYTES`], is not one segment of a path (see [`segment`]), or would
    /// not reach the backend as it is: it must be the same in paths, tables and bodies.
    pub fn new(
        _verified: &Verified<'_>,
        event_id: EventId,
        external_order_id: String,
        webhook_type: impl Into<Cow<'static, str>>,
    ) -> Result<Self, AdmissionRefusal> {
        if external_order_id.trim().is_empty() {
            return Err(AdmissionRefusal::InvalidPayload("the order id is empty".into()));
        }
        if external_order_id.len() > MAX_ORDER_ID_BYTES {
            return Err(AdmissionRefusal::InvalidPayload(format!(
                "the order id is longer than {MAX_ORDER_ID_BYTES} bytes"
            )));
        }
        if let Err(why) = segment::check(&external_order_id) {
            return Err(AdmissionRefusal::InvalidPayload(format!("the order id {why}")));
        }
        if matches!(sanitise(&external_order_id), Cow::Owned(_)) {
            return Err(AdmissionRefusal::InvalidPayload(
                "the order id holds markup or hidden characters".into(),
            ));
        }
        Ok(Self {
            event_id,
            external_order_id,
            webhook_type: webhook_type.into(),
        })
    }
}
