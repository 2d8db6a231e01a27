//! The status of an order: in canonical words, which keep every distinction that providers make, and in the platform's words,
//! the enum `order_status` of its database.

use serde::{Deserialize, Serialize};

/// The status of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Placed, not confirmed yet.
    Received,
    /// The restaurant took it.
    Accepted,
    /// The restaurant did not.
    Rejected,
    /// In the kitchen.
    Preparing,
    /// Waits for the courier or the customer.
    Ready,
    /// On its way.
    PickedUp,
    /// With the customer.
    Delivered,
    /// Cancelled.
    Cancelled,
    /// It did not work out.
    Failed,
    /// Paid back.
    Refunded,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 10] = [
        Self::Received,
        Self::Accepted,
        Self::Rejected,
        Self::Preparing,
        Self::Ready,
        Self::PickedUp,
        Self::Delivered,
        Self::Cancelled,
        Self::Failed,
        Self::Refunded,
    ];

    /// In canonical words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
            Self::Preparing => "preparing",
            Self::Ready => "ready",
            Self::PickedUp => "picked_up",
            Self::Delivered => "delivered",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Refunded => "refunded",
        }
    }

    /// Reads a canonical word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }

    /// How far an order is that has this status. What has ended is further than all that may still happen to it, and what was
    /// paid back further than that.
    const fn rank(self) -> u8 {
        match self {
            Self::Received => 0,
            Self::Accepted => 1,
            Self::Preparing => 2,
            Self::Ready => 3,
            Self::PickedUp => 4,
            Self::Delivered | Self::Rejected | Self::Cancelled | Self::Failed => 5,
            Self::Refunded => 6,
        }
    }

    /// Whether an order that had the other status may have this one next.
    pub const fn follows(self, other: Self) -> bool {
        self.rank() > other.rank()
    }

    /// The platform's word for it.
    pub const fn platform(self) -> OrderStatus {
        match self {
            Self::Received => OrderStatus::Pending,
            Self::Accepted => OrderStatus::Confirmed,
            Self::Preparing => OrderStatus::Preparing,
            Self::Ready => OrderStatus::ReadyForPickup,
            Self::PickedUp => OrderStatus::OutForDelivery,
            Self::Delivered => OrderStatus::Delivered,
            Self::Rejected | Self::Cancelled | Self::Failed => OrderStatus::Cancelled,
            Self::Refunded => OrderStatus::Refunded,
        }
    }
}

/// `order_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderStatus {
    /// Placed, not confirmed yet.
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
