//! The status of an order in the platform's words, the enum `order_status` of its database.

use serde::{Deserialize, Serialize};

/// `order_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Placed, nobody has looked at it yet.
    Pending,
    /// The restaurant took it.
    Confirmed,
    /// In the kitchen.
    Preparing,
    /// Waits for the courier or the customer.
    ReadyForPickup,
    /// On its way.
    OutForDelivery,
    /// With the customer.
    Delivered,
    /// Will not happen.
    Cancelled,
    /// Paid back.
    Refunded,
}

impl OrderStatus {
    /// Every status.
    pub const ALL: [Self; 8] = [
        Self::Pending,
        Self::Confirmed,
        Self::Preparing,
        Self::ReadyForPickup,
        Self::OutForDelivery,
        Self::Delivered,
        Self::Cancelled,
        Self::Refunded,
    ];

    /// As the database spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Preparing => "preparing",
            Self::ReadyForPickup => "ready_for_pickup",
            Self::OutForDelivery => "out_for_delivery",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Refunded => "refunded",
        }
    }

    /// Reads the database's spelling.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}
