//! How an outcome names the event that it belongs to.

use std::collections::{HashMap, VecDeque};

use crate::event::{Envelope, EventId, Recorded};

/// What an outcome names: the id of its cause. Acceptances of one webhook share theirs, so with the place on the log where the
/// cause is what all began with and the outcome says where that is.
pub(super) fn named(outcome: &Envelope) -> Option<EventId> {
    let cause = outcome.cause_id?;
    match outcome.cause_sequence {
        Some(acceptance) if cause == outcome.root_id => Some(cause.at(acceptance)),
        _ => Some(cause),
    }
}

/// The name in an event's outcome; the second is the name in an outcome of an older version.
pub(super) fn outcome_of(event: &Recorded) -> [EventId; 2] {
    let id = event.envelope.id;
    if id == event.envelope.root_id {
        [id.at(event.sequence), id]
    } else {
        [id, id]
    }
}

/// Open acceptances of each webhook, for outcomes of older versions: those do not say which one they are about.
#[derive(Default)]
pub(super) struct Acceptances(HashMap<EventId, VecDeque<EventId>>);

impl Acceptances {
    /// Notes an open event, and says what its outcome names.
    pub(super) fn note(&mut self, event: &Recorded) -> EventId {
        let [name, of_older] = outcome_of(event);
        if name != of_older {
            self.0.entry(of_older).or_default().push_back(name);
        }
        name
    }

    /// The event that an outcome, or an attempt, names. The first acceptance ended first.
    pub(super) fn named(&mut self, event: &Recorded) -> Option<EventId> {
        let cause = named(&event.envelope)?;
        let of_older = self
            .0
            .get_mut(&cause)
            .filter(|_| event.envelope.cause_sequence.is_none());
        let first = of_older.and_then(|names| {
            let first = names.front().copied();
            if !event.envelope.event_type.is_attempt() {
                names.pop_front();
            }
            first
        });
        first.or(Some(cause))
    }
}
