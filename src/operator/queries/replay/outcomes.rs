//! Which event an outcome of the transformation belongs to.

use crate::{
    delivery::stage::Stage as _,
    event::{EventId, EventType, Recorded, outcome::DeadLettered},
    transform::Transform,
};

/// The event that the transformation ended with this outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// At this sequence.
    At(u64),
    /// With this id: an event of an older version, which does not say the sequence.
    Named(EventId),
}

/// The cause of an outcome of the transformation; none if the event is none.
pub(super) fn cause(event: &Recorded) -> Option<Cause> {
    let envelope = &event.envelope;
    let id = envelope.cause_id?;
    let is_outcome = match envelope.event_type {
        EventType::OrderTransformed | EventType::OrderFetchRequested | EventType::MenuSyncReported => true,
        // These are outcomes of other stages, too.
        EventType::OrderIgnored | EventType::OrderRejected => is_named_by_transform(event, id),
        EventType::OrderDeadLettered => {
            let dead = serde_json::from_slice::<DeadLettered>(&event.payload);
            dead.is_ok_and(|dead| dead.stage == Transform::NAME)
        }
        _ => false,
    };
    is_outcome.then_some(envelope.cause_sequence.map_or(Cause::Named(id), Cause::At))
}

/// Whether the id of an event derives from its cause by the label of the transformation. The place on the log is part of an id once
/// where its webhook is the beginning, and again where an earlier acceptance of the same webhook had that id.
fn is_named_by_transform(event: &Recorded, cause: EventId) -> bool {
    let id = cause.derive(Transform::LABEL);
    let Some(sequence) = event.envelope.cause_sequence else {
        return event.envelope.id == id;
    };
    let ids = [id, id.at(sequence), id.at(sequence).at(sequence)];
    ids.contains(&event.envelope.id)
}
