//! The types of events, and what is known of each.

use std::{fmt, str::FromStr};

use crate::text::words;

words! {
    /// The type of an event. The text form is the `ce-type`; its first word names the subject's root, except that events about a branch's items
    /// and its state have subjects beside those of its menus, for which rights exist.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum EventType {
        /// A provider's request, verified, byte for byte.
        WebhookReceived = "webhook.received",
        /// The body for the backend, ready to be forwarded.
        OrderTransformed = "order.transformed",
        /// Nothing to do: a duplicate, a test order, an unwanted event.
        OrderIgnored = "order.ignored",
        /// It can never be forwarded as it is; no retry.
        OrderRejected = "order.rejected",
        /// One attempt failed; another one follows.
        OrderForwardFailed = "order.forward_failed",
        /// The backend has it.
        OrderForwarded = "order.forwarded",
        /// Given up on, with the last answer; a person may send it again.
        OrderDeadLettered = "order.dead_lettered",
        /// A retry of a dead letter was requested.
        OrderRetryRequested = "order.retry_requested",
        /// A webhook only refers to its order: the order has to be fetched from the provider.
        OrderFetchRequested = "order.fetch_requested",
        /// One attempt to fetch it failed; another one follows, or a dead letter.
        OrderFetchFailed = "order.fetch_failed",
        /// The provider's document, byte for byte.
        OrderFetched = "order.fetched",
        /// A status is to be sent to the provider.
        OrderStatusRequested = "order.status_requested",
        /// One attempt to send it failed; another one follows, or a dead letter.
        OrderStatusPushFailed = "order.status_push_failed",
        /// The status was sent to the provider, or the provider takes none.
        OrderStatusPushed = "order.status_pushed",
        /// The provider is to get a menu.
        MenuSyncRequested = "menu.sync_requested",
        /// The provider took a menu and will say later what it makes of it.
        MenuSyncAccepted = "menu.sync_accepted",
        /// A webhook in which it says so.
        MenuSyncReported = "menu.sync_reported",
        /// One attempt failed, or the provider refused the menu.
        MenuSyncFailed = "menu.sync_failed",
        /// The provider has the menu.
        MenuSynced = "menu.synced",
        /// The provider is to be sent which items can be ordered.
        ItemsRequested = "items.availability_requested",
        /// The provider has answered about some of them.
        ItemsProgressed = "items.availability_progressed",
        /// One attempt failed; another one follows, or a dead letter.
        ItemsPushFailed = "items.availability_push_failed",
        /// The provider has answered about all of them.
        ItemsPushed = "items.availability_pushed",
        /// The provider is to be sent whether a branch takes orders.
        StoreRequested = "store.state_requested",
        /// One attempt failed; another one follows, or a dead letter.
        StorePushFailed = "store.state_push_failed",
        /// The provider has the branch's state.
        StorePushed = "store.state_pushed",
        /// An operator of the hub did something: once before the act, once with its result.
        OperatorActed = "operator.acted",
        /// An operator started a job: retries of all dead letters that match a filter.
        JobStarted = "operator.job_started",
        /// How far a job is.
        JobProgressed = "operator.job_progressed",
        /// An operator stopped a job.
        JobStopped = "operator.job_stopped",
        /// An operator resumed a job.
        JobResumed = "operator.job_resumed",
        /// A job ended.
        JobEnded = "operator.job_ended",
    }
}

impl EventType {
    /// Its place in [`Self::ALL`].
    pub const fn place(self) -> usize {
        self as usize
    }

    /// First two tokens of the subject: `orders.forwarded` for `order.forwarded`. What operators do is below `webhooks`, which
    /// no subscriber may read: a new first token would change the subjects of `EVENTS`, and hubs of earlier versions refuse to
    /// start on a stream with other subjects than theirs.
    pub const fn subject_root(self) -> &'static str {
        match self {
            Self::WebhookReceived => "webhooks.received",
            Self::OrderTransformed => "orders.transformed",
            Self::OrderIgnored => "orders.ignored",
            Self::OrderRejected => "orders.rejected",
            Self::OrderForwardFailed => "orders.forward_failed",
            Self::OrderForwarded => "orders.forwarded",
            Self::OrderDeadLettered => "orders.dead_lettered",
            Self::OrderRetryRequested => "orders.retry_requested",
            Self::OrderFetchRequested => "orders.fetch_requested",
            Self::OrderFetchFailed => "orders.fetch_failed",
            Self::OrderFetched => "orders.fetched",
            Self::OrderStatusRequested => "orders.status_requested",
            Self::OrderStatusPushFailed => "orders.status_push_failed",
            Self::OrderStatusPushed => "orders.status_pushed",
            Self::MenuSyncRequested => "menus.sync_requested",
            Self::MenuSyncAccepted => "menus.sync_accepted",
            Self::MenuSyncReported => "menus.sync_reported",
            Self::MenuSyncFailed => "menus.sync_failed",
            Self::MenuSynced => "menus.synced",
            Self::ItemsRequested => "menus.availability_requested",
            Self::ItemsProgressed => "menus.availability_progressed",
            Self::ItemsPushFailed => "menus.availability_push_failed",
            Self::ItemsPushed => "menus.availability_pushed",
            Self::StoreRequested => "menus.store_requested",
            Self::StorePushFailed => "menus.store_push_failed",
            Self::StorePushed => "menus.store_pushed",
            Self::OperatorActed
            | Self::JobStarted
            | Self::JobProgressed
            | Self::JobStopped
            | Self::JobResumed
            | Self::JobEnded => "webhooks.operator",
        }
    }

    /// Whether what it belongs to, a webhook or a request of the backend, has ended with it (invariant 2: every event on the
    /// log ends).
    pub const fn ends(self) -> bool {
        matches!(
            self,
            Self::OrderIgnored
                | Self::OrderRejected
                | Self::OrderForwarded
                | Self::OrderDeadLettered
                | Self::OrderStatusPushed
                | Self::MenuSyncReported
                | Self::MenuSynced
                | Self::ItemsPushed
                | Self::StorePushed
        )
    }

    /// Whether it reports an attempt at its cause, and is no outcome of it.
    pub const fn is_attempt(self) -> bool {
        matches!(
            self,
            Self::OrderForwardFailed
                | Self::OrderFetchFailed
                | Self::OrderStatusPushFailed
                | Self::MenuSyncAccepted
                | Self::MenuSyncFailed
                | Self::ItemsProgressed
                | Self::ItemsPushFailed
                | Self::StorePushFailed
        )
    }

    /// Whether it is about what an operator of the hub does, or a job: about no webhook and no request, so that no stage takes it
    /// and it has no rows.
    pub const fn is_of_operator(self) -> bool {
        matches!(
            self,
            Self::OperatorActed
                | Self::JobStarted
                | Self::JobProgressed
                | Self::JobStopped
                | Self::JobResumed
                | Self::JobEnded
        )
    }

    /// Whether it is about a request of the backend to a provider; it belongs to no webhook.
    pub const fn is_for_provider(self) -> bool {
        matches!(
            self,
            Self::OrderStatusRequested
                | Self::OrderStatusPushFailed
                | Self::OrderStatusPushed
                | Self::MenuSyncRequested
                | Self::MenuSyncAccepted
                | Self::MenuSyncFailed
                | Self::MenuSynced
                | Self::ItemsRequested
                | Self::ItemsProgressed
                | Self::ItemsPushFailed
                | Self::ItemsPushed
                | Self::StoreRequested
                | Self::StorePushFailed
                | Self::StorePushed
        )
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_word(text).ok_or_else(|| UnknownEventType(text.to_owned()))
    }
}

/// A `ce-type` that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown event type {0:?}")]
pub struct UnknownEventType(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_read_back() {
        for (place, one) in EventType::ALL.into_iter().enumerate() {
            assert_eq!(one.as_str().parse::<EventType>().unwrap(), one);
            assert_eq!(one.place(), place);
        }
        assert!("order.eaten".parse::<EventType>().is_err());
    }
}
