//! What is to be done for an event of the log: a request to take another event up again is for that one, and what something newer
//! has replaced is not handled.

use super::{Stage, Worker};
use crate::{
    delivery::superseded::{self, NewerEvent},
    event::{EventType, Recorded, outcome::RetryRequested},
    journal::{codec::CodecError, read::decoded_at},
};

/// What to do for an event of the log.
pub(super) enum EventAction {
    /// Handle this.
    Handle(Box<Recorded>),
    /// It requests a retry by another stage.
    NotOurs,
    /// It requests a retry of an event that is not on the log any more, or is there (true) and none that this stage can handle.
    Gone(u64, bool),
    /// It requests a retry of an event of a newer version.
    Left,
    /// A newer event has superseded it, or the backend has it by the same webhook.
    Superseded(Box<Recorded>, NewerEvent),
}

impl<S: Stage> Worker<S> {
    /// What is to be handled: the event itself, or the one that it asks to take up again.
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
        let run = Some(recorded.envelope.id);
        self.unless_superseded(Recorded { run, ..original }, requests).await
    }

    /// What was taken up again must not be put over what came after it. What was sent once since then goes on: later events
    /// of its order wait behind it.
    async fn unless_superseded(&self, event: Recorded, requests: u32) -> anyhow::Result<EventAction> {
        let newer = if requests == 0 && superseded::may_be(&event) {
            let partitions = self.journal.partitions();
            let acceptances = self.stage.acceptances();
            superseded::by(self.journal.connection(), &event, partitions, &acceptances).await?
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

/// Whether an event is for this stage: one of its types, or a request to retry one of them. A request that cannot be
/// read belongs to no stage.
pub(super) fn is_ours<S: Stage>(event: &Recorded) -> bool {
    match event.envelope.event_type {
        EventType::OrderRetryRequested => retry_request(event).is_some_and(|request| request.stage == S::NAME),
        event_type => S::TAKES.contains(&event_type),
    }
}
