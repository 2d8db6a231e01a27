//! The events of a batch with their payloads, each decoded once for all projections.

use std::{ops::Deref, panic::AssertUnwindSafe, sync::OnceLock};

use serde::de::DeserializeOwned;

use crate::{
    event::{
        EventType, Recorded,
        outcome::{DeadLettered, ForwardFailed, Forwarded, Ignored, Rejected},
        push::PushFailed,
    },
    journal::read::Entry,
    order::body::{self, Facts},
};

/// An event and what its payload says.
#[derive(Debug)]
pub struct Event {
    /// The event as it is on the log.
    recorded: Recorded,
    /// Its payload, once it is wanted.
    decoded: OnceLock<DecodedPayload>,
}

/// A payload, as far as a projection reads it.
#[derive(Debug)]
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

impl Event {
    /// Its payload is read when it is wanted.
    pub const fn new(recorded: Recorded) -> Self {
        Self {
            recorded,
            decoded: OnceLock::new(),
        }
    }

    /// The event, with its payload read, for code that reads ahead of the transaction that wants it. If that panics, it does so again in the
    /// transaction, which then finds the event that it is.
    pub(super) fn read(recorded: Recorded) -> Self {
        let event = Self::new(recorded);
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| {
            event.decoded();
        }));
        event
    }

    /// The event as it is on the log.
    pub(super) const fn recorded(&self) -> &Recorded {
        &self.recorded
    }

    /// What its payload says.
    pub(super) fn decoded(&self) -> &DecodedPayload {
        self.decoded.get_or_init(|| DecodedPayload::of(&self.recorded))
    }
}

impl Deref for Event {
    type Target = Recorded;

    fn deref(&self) -> &Recorded {
        &self.recorded
    }
}

/// A message of the log.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all messages are events")]
pub(super) enum LogMessage {
    /// An event.
    Event(Event),
    /// None that this version can read.
    Unreadable {
        /// Its place on the log.
        sequence: u64,
        /// The part that this version does not know, if a later version wrote it.
        newer: Option<String>,
    },
}

impl LogMessage {
    /// With a payload that is read later.
    pub(super) fn of(entry: Entry) -> Self {
        Self::with(entry, Event::new)
    }

    /// With its payload read.
    pub(super) fn read(entry: Entry) -> Self {
        Self::with(entry, Event::read)
    }

    fn with(entry: Entry, event: fn(Recorded) -> Event) -> Self {
        match entry {
            Entry::Event(recorded) => Self::Event(event(*recorded)),
            Entry::Unreadable { sequence, newer } => Self::Unreadable { sequence, newer },
        }
    }

    /// The event, if it is one.
    pub(super) fn event(self) -> Option<Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Unreadable { .. } => None,
        }
    }

    /// Its place on the log.
    pub(super) fn sequence(&self) -> u64 {
        match self {
            Self::Event(event) => event.sequence,
            Self::Unreadable { sequence, .. } => *sequence,
        }
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
