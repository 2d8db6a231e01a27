//! What became of a body in the stage `forward`, by the outcomes on the log. Pure.

use serde::de::DeserializeOwned;

use crate::event::{
    Envelope, EventType,
    outcome::{DUPLICATE_ORDER, DeadLettered, Forwarded, Ignored, NOT_YOURS, NOTHING_TO_CANCEL},
    stage::FORWARD,
};

/// What became of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The backend created the order by it.
    Created,
    /// The backend created an order of its own by it, because a person said that it is one.
    OfItsOwn,
    /// The backend has it, as a change of the order.
    Told,
    /// The same, of an announcement that changed only lines: its status was no news.
    Amended,
    /// The backend has it as a change of the order, though it was superseded: a person wanted it nevertheless.
    OutOfTurn,
    /// An announcement with the content that the backend had for certain.
    Same,
    /// An announcement with other content, which was not told; perhaps its status was.
    Differs,
    /// A cancellation of an order that the backend never had.
    NothingToCancel,
    /// An announcement that was given up. The backend has its lines, and not its status.
    HalfTold,
    /// The same, and the backend may have its status.
    HalfUncertain,
    /// It was given up, and the backend does not have it.
    Refused,
    /// It was given up, and the backend may have it.
    Uncertain,
    /// It was given up without a request.
    Unposted,
    /// It was ended without a request, because it says nothing any more.
    LeftOut,
}

impl End {
    /// The end that an outcome records; none if it records none of a body.
    pub fn of(envelope: &Envelope, outcome: &[u8]) -> Option<Self> {
        match envelope.event_type {
            EventType::OrderForwarded => {
                let forwarded: Forwarded = read(outcome)?;
                Some(if forwarded.only_lines {
                    Self::Amended
                } else if forwarded.as_news || !envelope.is_creation() {
                    Self::Told
                } else {
                    Self::Created
                })
            }
            EventType::OrderIgnored => {
                let ignored: Ignored = read(outcome)?;
                Some(match ignored.reason.as_str() {
                    DUPLICATE_ORDER if ignored.differs => Self::Differs,
                    DUPLICATE_ORDER => Self::Same,
                    NOTHING_TO_CANCEL => Self::NothingToCancel,
                    _ => Self::LeftOut,
                })
            }
            EventType::OrderDeadLettered => {
                let dead = read::<DeadLettered>(outcome).filter(|dead| dead.stage == FORWARD.name)?;
                (dead.error.code != NOT_YOURS).then_some(if dead.amended && dead.error.is_refusal() {
                    Self::HalfTold
                } else if dead.amended {
                    Self::HalfUncertain
                } else if dead.is_unposted() {
                    Self::Unposted
                } else if dead.is_refused() {
                    Self::Refused
                } else {
                    Self::Uncertain
                })
            }
            _ => None,
        }
    }

    /// What holds of a word with this end once it ends again, by a retry. What the backend has it keeps, and an end without a request
    /// says nothing of the requests before.
    #[must_use]
    pub const fn then(self, next: Self) -> Self {
        match (self, next) {
            (Self::Created | Self::OfItsOwn | Self::Told | Self::Amended | Self::OutOfTurn, _)
            | (Self::HalfUncertain, Self::Uncertain)
            | (
                Self::Uncertain | Self::HalfTold | Self::HalfUncertain,
                Self::LeftOut | Self::Differs | Self::Unposted,
            ) => self,
            (Self::Same | Self::Differs, Self::Created) => Self::OfItsOwn,
            (Self::Differs | Self::LeftOut, Self::Told | Self::Amended) => Self::OutOfTurn,
            (Self::HalfTold | Self::HalfUncertain, Self::Refused) => Self::Uncertain,
            _ => next,
        }
    }

    /// Whether the backend has an order by it.
    pub(super) const fn is_created(self) -> bool {
        matches!(self, Self::Created | Self::OfItsOwn)
    }

    /// Whether the backend has it, or has its content for certain.
    pub(super) const fn is_told(self) -> bool {
        matches!(
            self,
            Self::Created
                | Self::Told
                | Self::Amended
                | Self::OutOfTurn
                | Self::Same
                | Self::HalfTold
                | Self::HalfUncertain
        )
    }

    /// Whether the backend has it or a part of it, or may have it, as a word about an order that was there.
    pub(crate) const fn is_heard(self) -> bool {
        let is_change = self.is_told() && !matches!(self, Self::Created);
        is_change || matches!(self, Self::Differs | Self::Uncertain)
    }
}

fn read<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}
