//! The status of an order: in canonical words, which keep every distinction that providers make, and in the platform's words,
//! the enum `order_status` of its database.

use serde::{Deserialize, Serialize};

use crate::text::words;

words! {
    /// The status of an order.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub enum Status {
        /// Placed, not confirmed yet.
        Received = "received",
        /// The restaurant took it.
        Accepted = "accepted",
        /// The restaurant did not.
        Rejected = "rejected",
        /// In the kitchen.
        Preparing = "preparing",
        /// Waits for the courier or the customer.
        Ready = "ready",
        /// On its way.
        PickedUp = "picked_up",
        /// With the customer.
        Delivered = "delivered",
        /// Cancelled.
        Cancelled = "cancelled",
        /// It did not work out.
        Failed = "failed",
        /// Paid back.
        Refunded = "refunded",
    }
}

impl Status {
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

    /// Whether an order that has this status is not to be made.
    pub const fn is_called_off(self) -> bool {
        matches!(self.platform(), OrderStatus::Cancelled)
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

words! {
    /// `order_status`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum OrderStatus {
        /// Placed, not confirmed yet.
        Pending = "pending",
        /// The restaurant took it.
        Confirmed = "confirmed",
        /// In the kitchen.
        Preparing = "preparing",
        /// Waits for the courier or the customer.
        ReadyForPickup = "ready_for_pickup",
        /// On its way.
        OutForDelivery = "out_for_delivery",
        /// With the customer.
        Delivered = "delivered",
        /// Will not happen.
        Cancelled = "cancelled",
        /// Paid back.
        Refunded = "refunded",
    }
}
