//! What is recorded about a message that is no event, and about a retry whose event is gone.

use std::sync::Arc;

use async_nats::jetstream::Message;
use chrono::Utc;
use serde_json::json;

use crate::{
    event::{
        Envelope, EventId, EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, OUTCOME, Rejected},
    },
    journal::codec,
};

/// What is recorded about a message that is no event.
pub(super) fn unreadable(message: &Message, sequence: u64, error: &codec::CodecError) -> NewEvent {
    let id = EventId::of_unreadable(sequence);
    let provider = message.subject.split('.').nth(2).unwrap_or("_");
    let error = ErrorReport::new(
        ErrorType::Validation,
        "UNREADABLE_EVENT",
        format!("message {sequence} of the event log cannot be read: {error}"),
    )
    .with(json!({ "sequence": sequence, "subject": message.subject.as_str() }));
    let now = Utc::now();
    let envelope = Envelope {
        id: id.derive("rejected"),
        event_type: EventType::OrderRejected,
        root_id: id,
        cause_id: Some(id),
        provider: Arc::from(provider),
        external_order_id: "_".into(),
        webhook_type: String::new(),
        branch: None,
        time: now,
        received_at: now,
        request_id: String::new(),
        traceparent: None,
        request: None,
    };
    NewEvent::new(envelope, &Rejected { error })
}

/// What is recorded about a retry whose event is not on the log any more.
pub(super) fn gone(request: &Recorded, stage: &str, sequence: u64) -> NewEvent {
    let error = ErrorReport::new(
        ErrorType::Validation,
        "EVENT_GONE",
        format!("event {sequence}, which was to be taken up again, is not on the log any more (see max_age of EVENTS)"),
    )
    .with(json!({ "sequence": sequence }));
    let dead = DeadLettered {
        attempts: 0,
        retries: 0,
        stage: stage.to_owned(),
        sequence,
        error,
    };
    let envelope = request.follow(OUTCOME, EventType::OrderDeadLettered, Utc::now());
    NewEvent::new(envelope, &dead)
}
