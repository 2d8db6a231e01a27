//! Tells a provider that an order is lost when this stage gives the order up.
//!
//! Some providers must be told whether the backend has an order (`confirm_within`). When such a provider is told that the order is lost, the
//! restaurant makes the order without the backend. So an order that was reported as lost does not go on.

use std::sync::atomic::Ordering;

use super::{NotYet, Transform, dead_letter, goes_on};
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport, NOT_YOURS},
        push,
    },
    retry::Failure,
};

impl Transform {
    /// What tells a provider that waits for the word whether the backend has an order that it will not; none if it waits for nothing, or
    /// another announcement of the order was or is forwarded.
    ///
    /// # Errors
    /// While the log does not say.
    pub(super) async fn lost(&self, received: &Recorded, outcome: &NewEvent) -> Result<Option<NewEvent>, Failure> {
        let is_end = matches!(
            outcome.envelope.event_type,
            EventType::OrderDeadLettered | EventType::OrderRejected
        );
        if !is_end || !self.is_awaited(received) || is_anothers(outcome) {
            return Ok(None);
        }
        let is_there = self.orders.may_be_created(received).await;
        if is_there.map_err(NotYet::Log)? || self.was_reported_lost(received).await? {
            return Ok(None);
        }
        Ok(Some(push::lost(received, outcome)))
    }

    /// The outcome of a webhook; a dead letter in place of one that goes on where an instance that died has reported the order as lost, and
    /// not recorded the end. What it lacked, a branch for one, may be there by now.
    ///
    /// # Errors
    /// While the log does not say.
    pub(super) async fn unless_reported_lost(
        &self,
        received: &Recorded,
        outcome: NewEvent,
    ) -> Result<NewEvent, Failure> {
        if !goes_on(&outcome) || !self.is_awaited(received) || !self.was_reported_lost(received).await? {
            return Ok(outcome);
        }
        let error = ErrorReport::reported_lost(received.envelope.received_at);
        Ok(dead_letter(received, error))
    }

    /// Whether an instance that had the stage before reported the order of this very webhook as lost.
    async fn was_reported_lost(&self, received: &Recorded) -> Result<bool, Failure> {
        if received.sequence > self.handed_out.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let was_reported = self.orders.was_reported(received, received.sequence).await;
        Ok(was_reported.map_err(NotYet::Log)?)
    }

    /// Whether its provider waits for the word whether the backend has the order. What a person has retried is for that person to judge.
    fn is_awaited(&self, received: &Recorded) -> bool {
        let enabled = self.registry.get(&received.envelope.provider);
        let remote = enabled.and_then(|enabled| enabled.outbound.as_ref());
        let waits = remote.is_some_and(|remote| remote.spec.confirm_within.is_some());
        waits && received.run.is_none() && received.envelope.is_creation()
    }
}

/// Whether a webhook ended as one about something of another branch: nothing is told of that on its behalf.
fn is_anothers(outcome: &NewEvent) -> bool {
    let dead = serde_json::from_slice::<DeadLettered>(&outcome.payload);
    dead.is_ok_and(|dead| dead.error.code == NOT_YOURS)
}
