//! What the events of an order say about it.

use super::{End, history::Says, payload};
use crate::{
    event::{
        EventType, Recorded,
        outcome::{DeadLettered, Forwarded, NOT_YOURS},
        stage::TRANSFORM,
    },
    order::{
        body,
        status::{OrderStatus, Status},
    },
};

/// What became of the body or the webhook that an outcome is about.
pub(super) fn end_of(outcome: &Recorded) -> Option<End> {
    let end = End::of(&outcome.envelope, &outcome.payload);
    end.or_else(|| is_dead_of_transform(outcome).then_some(End::Unposted))
}

/// Whether a dead letter says that a webhook about an event's order never became a body, because its branch was not found, for example. One
/// that another branch's secret proved, or that was about another's order, says nothing of this one.
pub(crate) fn is_untransformed(dead: &Recorded, event: &Recorded) -> bool {
    let proven_for = dead.envelope.principal.branch().map(|branch| &**branch);
    dead.envelope.branch.is_none()
        && proven_for.is_none_or(|branch| event.envelope.branch.as_deref() == Some(branch))
        && is_dead_of_transform(dead)
}

fn is_dead_of_transform(outcome: &Recorded) -> bool {
    let is_dead = outcome.envelope.event_type == EventType::OrderDeadLettered;
    is_dead
        && payload::<DeadLettered>(outcome)
            .is_some_and(|dead| dead.stage == TRANSFORM.name && dead.error.code != NOT_YOURS)
}

/// The status that a body or an outcome says, and what it is about.
pub(crate) fn event_says(event: &Recorded) -> (Option<Status>, Says) {
    if event.envelope.event_type == EventType::OrderTransformed {
        body_says(event)
    } else {
        outcome_says(event)
    }
}

fn body_says(body: &Recorded) -> (Option<Status>, Says) {
    let content = body::announced(&body.payload).ok();
    let status = content.as_ref().and_then(|content| content.status);
    let says = if body.envelope.is_creation() {
        Says::Order(content.map(Box::new))
    } else if body.envelope.is_amendment() {
        if body::changes_only_lines(&body.payload) {
            Says::Lines
        } else if body::has_lines(&body.payload) {
            Says::LinesAndRefund
        } else {
            Says::Other
        }
    } else {
        let word = body::summary(&body.payload).map(|summary| summary.provider_status);
        if status.is_some() || word.is_ok_and(|word| !word.is_empty()) {
            Says::Status
        } else {
            Says::Other
        }
    };
    (status, says)
}

/// What an outcome says of its body, or of the webhook that never became one. Of the lines of an amendment it says nothing.
fn outcome_says(outcome: &Recorded) -> (Option<Status>, Says) {
    if outcome.envelope.is_cancellation() && is_dead_of_transform(outcome) {
        return (Some(Status::Cancelled), Says::Status);
    }
    let order = payload::<Forwarded>(outcome).map(|has| has.order).unwrap_or_default();
    let is_cancelled = order.status.as_deref() == Some(OrderStatus::Cancelled.as_str());
    let says = if outcome.envelope.is_creation() {
        Says::Order(None)
    } else if outcome.envelope.is_amendment() || order.provider_status.is_empty() {
        Says::Other
    } else {
        Says::Status
    };
    (is_cancelled.then_some(Status::Cancelled), says)
}
