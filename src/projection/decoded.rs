//! The events of a batch with their payloads, each decoded once for all projections.

use std::ops::Deref;

use serde::de::DeserializeOwned;

use crate::{
    event::{
        EventType, Recorded,
        outcome::{DeadLettered, ForwardFailed, Forwarded, Ignored, Rejected},
        push::PushFailed,
    },
    order::body::{self, Facts},
};

/// An event and what its payload says.
pub(super) struct Event<'a> {
    /// The event as it is on the log.
    pub(super) recorded: &'a Recorded,
    /// Its payload.
    pub(super) decoded: DecodedPayload,
}

/// A payload, as far as a projection reads it.
pub(super) enum DecodedPayload {
    /// No projection reads the payload of its type, or this version cannot read it.
    Nothing,
    /// `order.transformed`.
    Transformed(Box<Facts>),
    /// `order.forwarded`.
    Forwarded(Box<Forwarded>),
    /// `order.ignored`.
    Ignored(Ignored),
    /// `order.rejected`.
    Rejected(Rejected),
    /// `order.forward_failed`.
    ForwardFailed(ForwardFailed),
    /// `order.fetch_failed`, `order.status_push_failed`, `menu.sync_failed`.
    PushFailed(PushFailed),
    /// `order.dead_lettered`.
    DeadLettered(DeadLettered),
}

impl<'a> Event<'a> {
    /// Reads the payload.
    pub(super) fn of(recorded: &'a Recorded) -> Self {
        Self {
            recorded,
            decoded: DecodedPayload::of(recorded),
        }
    }
}

impl Deref for Event<'_> {
    type Target = Recorded;

    fn deref(&self) -> &Recorded {
        self.recorded
    }
}

impl DecodedPayload {
    fn of(event: &Recorded) -> Self {
        let decoded = match event.envelope.event_type {
            // A body that cannot be read here ends as a dead letter in its stage, with the reason.
            EventType::OrderTransformed => body::facts(&event.payload).ok().map(Box::new).map(Self::Transformed),
            EventType::OrderForwarded => payload(event).map(Box::new).map(Self::Forwarded),
            EventType::OrderIgnored => payload(event).map(Self::Ignored),
            EventType::OrderRejected => payload(event).map(Self::Rejected),
            EventType::OrderForwardFailed => payload(event).map(Self::ForwardFailed),
            EventType::OrderDeadLettered => payload(event).map(Self::DeadLettered),
            EventType::OrderFetchFailed
            | EventType::OrderStatusPushFailed
            | EventType::MenuSyncFailed
            | EventType::ItemsPushFailed
            | EventType::StorePushFailed => payload(event).map(Self::PushFailed),
            EventType::WebhookReceived
            | EventType::OrderRetryRequested
            | EventType::OrderFetchRequested
            | EventType::OrderFetched
            | EventType::OrderStatusRequested
            | EventType::OrderStatusPushed
            | EventType::MenuSyncRequested
            | EventType::MenuSyncAccepted
            | EventType::MenuSyncReported
            | EventType::MenuSynced
            | EventType::ItemsRequested
            | EventType::ItemsProgressed
            | EventType::ItemsPushed
            | EventType::StoreRequested
            | EventType::StorePushed
            | EventType::OperatorActed
            | EventType::JobStarted
            | EventType::JobProgressed
            | EventType::JobStopped
            | EventType::JobResumed
            | EventType::JobEnded => None,
        };
        decoded.unwrap_or(Self::Nothing)
    }
}

/// An outcome's payload; none, and a line in the log, where a later version wrote something that this one cannot read.
fn payload<T: DeserializeOwned>(event: &Recorded) -> Option<T> {
    let read = serde_json::from_slice(&event.payload);
    if let Err(error) = &read {
        tracing::error!(sequence = event.sequence, event = %event.envelope.event_type, %error, "an outcome's payload cannot be read");
    }
    read.ok()
}
