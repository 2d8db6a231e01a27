//! Decides what a stage does with an event of the log: a request for a retry leads to the event that it names, and an event that
//! something newer has superseded is not handled.

use super::{Stage, Worker};
use crate::{
    delivery::{
        lanes::Lane,
        superseded::{self, NewerEvent},
    },
    event::{EventType, Recorded, outcome::RetryRequested},
    journal::{codec::CodecError, read::decoded_at},
};

/// What a stage does with an event of the log.
pub(super) enum EventAction {
    /// Handle this.
    Handle(Box<Recorded>),
    /// It requests a retry by another stage.
    NotOurs,
    /// It requests a retry of an event that has left the log, or is there (true) and cannot be handled by this stage.
    Gone(u64, bool),
    /// It requests a retry of an event of a newer version.
    Left,
    /// A newer event has superseded it, or the backend has it from the same webhook.
    Superseded(Box<Recorded>, NewerEvent),
}

impl<S: Stage> Worker<S> {
    /// The event to handle: this one, or the dead letter's event if this is a request to retry it.
    pub(super) async fn order(&self, recorded: Recorded, requests: u32) -> anyhow::Result<EventAction> {
        if recorded.envelope.event_type != EventType::OrderRetryRequested {
            return self.unless_superseded(recorded, requests).await;
        }
        let Some(request) = retry_request(&recorded).filter(|request| request.stage == S::NAME) else {
            return Ok(EventAction::NotOurs);
        };
        let original = match decoded_at(self.journal.connection(), request.sequence).await? {
            Some(Err(CodecError::Newer(_))) => return Ok(EventAction::Left),
            Some(Ok(event)) if S::TAKES.contains(&event.envelope.event_type) => event,
            found => return Ok(EventAction::Gone(request.sequence, found.is_some())),
        };
        let event = Recorded {
            run: Some(recorded.envelope.id),
            is_again: request.again,
            ..original
        };
        self.unless_superseded(event, requests).await
    }

    /// A retried event must not overwrite something newer. After its first request this is no longer checked: later events of its
    /// order wait behind it.
    async fn unless_superseded(&self, event: Recorded, requests: u32) -> anyhow::Result<EventAction> {
        let newer = if requests == 0 && superseded::may_be(&event) {
            let acceptances = self.stage.acceptances();
            superseded::by(self.journal.connection(), &event, &acceptances).await?
        } else {
            None
        };
        Ok(match newer {
            Some(newer) => EventAction::Superseded(Box::new(event), newer),
            None => EventAction::Handle(Box::new(event)),
        })
    }
}

fn retry_request(event: &Recorded) -> Option<RetryRequested> {
    serde_json::from_slice(&event.payload).ok()
}

/// The event that this one requests a retry of; none for any other event. It is older, and the retry needs it on the log.
pub(super) fn retried(event: &Recorded) -> Option<u64> {
    let is_request = event.envelope.event_type == EventType::OrderRetryRequested;
    let request = is_request.then(|| retry_request(event)).flatten()?;
    Some(request.sequence)
}

/// Notes in a lane what it needs to know of an event that it holds.
pub(super) fn note(lane: &mut Lane, event: &Recorded) {
    lane.note_retried(event.sequence, retried(event));
    lane.note_branch(event.envelope.branch.as_deref());
}

/// Whether an event is for this stage: one of its types, or a request to retry one of them. A request that cannot be
/// read belongs to no stage.
pub(super) fn is_ours<S: Stage>(event: &Recorded) -> bool {
    match event.envelope.event_type {
        EventType::OrderRetryRequested => retry_request(event).is_some_and(|request| request.stage == S::NAME),
        event_type => S::TAKES.contains(&event_type),
    }
}
