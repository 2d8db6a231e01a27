//! A later change of an order by its provider: lines, amounts, refunds.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::{
    flag::Flag,
    model::{Extra, Line, Pricing},
    money::Money,
};
use crate::text::words;

/// What of an order is another by now.
#[derive(Debug)]
pub struct Amendment {
    /// The provider's id of the order.
    pub external_id: String,
    /// The provider's own id of this message, where it has one.
    pub provider_event_id: Option<String>,
    /// What was done to it.
    pub kind: AmendmentKind,
    /// The same in the provider's words.
    pub provider_kind: Option<String>,
    /// Why, where the provider says so.
    pub reason: Option<String>,
    /// When it was amended, by the provider's clock.
    pub changed_at: Option<DateTime<Utc>>,
    /// The whole order as it is now; none where the provider sends only what is refunded.
    pub content: Option<AmendedContent>,
    /// What is to be paid back, where that is what it is about.
    pub refund: Option<Refund>,
    /// Notes for those who rely on it.
    pub flags: Vec<Flag>,
    /// What the provider sent that has no field here.
    pub extra: Extra,
}

/// What is cooked and charged, after an amendment.
#[derive(Debug)]
pub struct AmendedContent {
    /// All lines.
    pub lines: Vec<Line>,
    /// All amounts.
    pub pricing: Pricing,
}

words! {
    /// What was done to an order.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum AmendmentKind {
        /// It was picked, and differs from what was ordered.
        Picked = "picked",
        /// The restaurant or the platform changed it.
        Adjusted = "adjusted",
        /// The customer changed it.
        Edited = "edited",
        /// The customer wants money back.
        RefundRequested = "refund_requested",
    }
}

/// Money that a customer wants back.
#[derive(Debug)]
pub struct Refund {
    /// The provider's id of the refund.
    pub external_id: Option<String>,
    /// Its status in the provider's words.
    pub provider_status: Option<String>,
    /// How much.
    pub amount: Money,
    /// When the provider decides by itself, where the restaurant says nothing.
    pub decide_by: Option<DateTime<Utc>>,
    /// What it is for.
    pub lines: Vec<RefundLine>,
}

/// What a refund is for.
#[derive(Debug)]
pub struct RefundLine {
    /// The restaurant's own code of the item.
    pub merchant_ref: Option<String>,
    /// Name.
    pub name: String,
    /// How many, as its text.
    pub quantity: Box<RawValue>,
    /// How much of the refund.
    pub amount: Option<Money>,
}
