//! A request before and after a provider let it in.

use std::borrow::Cow;

use axum::http::HeaderMap;

use super::signature::Verified;
use crate::{event::EventId, order::sanitise::sanitise};

/// Longest order id that is taken, in bytes; the longest real one has 36.
pub const MAX_ORDER_ID_BYTES: usize = 128;

/// A request that nobody has vouched for yet.
#[derive(Debug, Clone, Copy)]
pub struct Unverified<'a> {
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl<'a> Unverified<'a> {
    /// A request's headers and its body, decompressed and otherwise byte for byte.
    pub const fn new(headers: &'a HeaderMap, body: &'a [u8]) -> Self {
        Self { headers, body }
    }

    /// Request headers.
    pub const fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Raw bytes.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// Why a provider refuses a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Missing, malformed or wrong.
    #[error("webhook signature validation failed")]
    InvalidSignature,
    /// Not what the provider sends; says what was expected, never what was sent.
    #[error("invalid webhook payload: {0}")]
    InvalidPayload(String),
}

/// A request that was let in.
#[derive(Debug)]
pub struct Admission {
    verified: Verified,
    /// The event's id: the same for each repeat of the same webhook.
    pub event_id: EventId,
    /// The provider's order id.
    pub external_order_id: String,
    /// What the provider wanted to tell: `order_created` …
    pub webhook_type: &'static str,
}

impl Admission {
    /// Of a verified request.
    ///
    /// # Errors
    /// Where the order id is empty, longer than [`MAX_ORDER_ID_BYTES`], holds control characters, or would not reach the
    /// backend as it is: it must be the same in paths, tables and bodies.
    pub fn new(
        verified: Verified,
        event_id: EventId,
        external_order_id: String,
        webhook_type: &'static str,
    ) -> Result<Self, Refusal> {
        if external_order_id.trim().is_empty() {
            return Err(Refusal::InvalidPayload("the order id is empty".into()));
        }
        if external_order_id.len() > MAX_ORDER_ID_BYTES {
            return Err(Refusal::InvalidPayload(format!(
                "the order id is longer than {MAX_ORDER_ID_BYTES} bytes"
            )));
        }
        if external_order_id.chars().any(char::is_control) {
            return Err(Refusal::InvalidPayload("the order id holds control characters".into()));
        }
        if matches!(sanitise(&external_order_id), Cow::Owned(_)) {
            return Err(Refusal::InvalidPayload(
                "the order id holds markup or hidden characters".into(),
            ));
        }
        Ok(Self {
            verified,
            event_id,
            external_order_id,
            webhook_type,
        })
    }

    /// How it was verified.
    pub const fn verified(&self) -> &Verified {
        &self.verified
    }
}
