//! What became of the event that an entry of the index points at.

use crate::{
    delivery::superseded::End,
    event::{Envelope, EventType},
};

/// The state of the event that an entry points at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum EntryState {
    /// `order.transformed` with a change, no outcome yet.
    NewsOpen,
    /// The backend has it.
    NewsForwarded,
    /// It was given up, and the backend may have it.
    NewsGivenUp,
    /// It was ended as nothing new.
    NewsIgnored,
    /// `order.transformed` with a new order, no outcome yet.
    Creation,
    /// The backend has it.
    CreationForwarded,
    /// It was given up, and the backend does not have it: it refused it, or it was not posted.
    CreationRefused,
    /// It was given up, and the backend may have it: there is no answer on the log that says.
    CreationUncertain,
    /// It was ended without a request, or told no more than its status.
    CreationIgnored,
    /// It was forwarded as news of an order that the backend had.
    CreationAsNews,
    /// The same, after it had been ended: a person wanted it nevertheless.
    CreationOutOfTurn,
    /// It was ended as a duplicate: its content is what the backend had for certain.
    CreationSame,
    /// It was given up after the backend had accepted its amendment.
    CreationHalfTold,
    /// `order.forwarded` of a new order.
    Created,
    /// The outcome of the transformation of a webhook, other than a body.
    Ended,
    /// `order.transformed` with a change that was given up, and the backend does not have it.
    NewsRefused,
}

impl EntryState {
    pub(super) const ALL: [Self; 16] = [
        Self::NewsOpen,
        Self::NewsForwarded,
        Self::NewsGivenUp,
        Self::NewsIgnored,
        Self::Creation,
        Self::CreationForwarded,
        Self::CreationRefused,
        Self::CreationUncertain,
        Self::CreationIgnored,
        Self::CreationAsNews,
        Self::CreationOutOfTurn,
        Self::CreationSame,
        Self::CreationHalfTold,
        Self::Created,
        Self::Ended,
        Self::NewsRefused,
    ];

    /// The state of a body with this end.
    pub(super) const fn of(end: End, is_creation: bool) -> Self {
        match (end, is_creation) {
            (End::Created | End::OfItsOwn, true) => Self::CreationForwarded,
            (End::Told | End::Amended, true) => Self::CreationAsNews,
            (End::OutOfTurn, true) => Self::CreationOutOfTurn,
            (End::Same, true) => Self::CreationSame,
            (End::HalfTold | End::HalfUncertain, true) => Self::CreationHalfTold,
            (End::Refused | End::Unposted, true) => Self::CreationRefused,
            (End::Uncertain, true) => Self::CreationUncertain,
            (End::Differs | End::NothingToCancel | End::LeftOut, true) => Self::CreationIgnored,
            (End::Created | End::OfItsOwn | End::Told | End::Amended | End::OutOfTurn, false) => Self::NewsForwarded,
            (End::HalfTold | End::HalfUncertain | End::Uncertain, false) => Self::NewsGivenUp,
            (End::Refused | End::Unposted, false) => Self::NewsRefused,
            (End::Same | End::Differs | End::NothingToCancel | End::LeftOut, false) => Self::NewsIgnored,
        }
    }

    /// The end of the body that it points at; none if it has none. Of what was ended without a request perhaps the status was told.
    pub(crate) const fn end(self) -> Option<End> {
        Some(match self {
            Self::NewsForwarded | Self::CreationAsNews => End::Told,
            Self::NewsGivenUp | Self::CreationUncertain => End::Uncertain,
            Self::NewsIgnored => End::LeftOut,
            Self::CreationForwarded => End::Created,
            Self::CreationRefused | Self::NewsRefused => End::Refused,
            Self::CreationIgnored => End::Differs,
            Self::CreationOutOfTurn => End::OutOfTurn,
            Self::CreationSame => End::Same,
            Self::CreationHalfTold => End::HalfTold,
            Self::NewsOpen | Self::Creation | Self::Created | Self::Ended => return None,
        })
    }

    /// The state of a body in this state once it ends in another one.
    pub(super) fn then(self, next: Self) -> Self {
        match self.end().zip(next.end()) {
            Some((end, next_end)) => Self::of(end.then(next_end), next.is_creation()),
            None => next,
        }
    }

    /// Whether it points at a new order's `order.transformed`.
    pub(crate) const fn is_creation(self) -> bool {
        matches!(
            self,
            Self::Creation
                | Self::CreationForwarded
                | Self::CreationRefused
                | Self::CreationUncertain
                | Self::CreationIgnored
                | Self::CreationAsNews
                | Self::CreationOutOfTurn
                | Self::CreationSame
                | Self::CreationHalfTold
        )
    }

    /// Whether an entry of this state points at an event of this kind. A stale one, of a log that was replaced, may not.
    pub(super) fn is_of(self, envelope: &Envelope) -> bool {
        let is_body = envelope.event_type == EventType::OrderTransformed;
        match self {
            Self::Created => envelope.event_type == EventType::OrderForwarded,
            Self::Ended => true,
            Self::NewsOpen | Self::NewsForwarded | Self::NewsGivenUp | Self::NewsRefused | Self::NewsIgnored => {
                is_body && !envelope.is_creation()
            }
            _ => is_body && envelope.is_creation(),
        }
    }

    /// Whether it has no outcome.
    pub(crate) const fn is_open(self) -> bool {
        matches!(self, Self::NewsOpen | Self::Creation)
    }

    /// Whether it needs nothing more, and no retry of it can have been requested.
    pub(crate) const fn is_certain(self) -> bool {
        self.is_final() || matches!(self, Self::Created | Self::Ended)
    }

    /// A forwarded order stays forwarded; no later event changes that.
    const fn is_final(self) -> bool {
        matches!(
            self,
            Self::NewsForwarded | Self::CreationForwarded | Self::CreationAsNews | Self::CreationOutOfTurn
        )
    }
}
