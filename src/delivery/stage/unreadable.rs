//! The events that are recorded for a message that is no event, and for a retry of an event that is gone or unreadable.

use std::sync::Arc;

use async_nats::jetstream::Message;
use chrono::Utc;
use serde_json::json;

use super::given_up::alarm;
use crate::{
    event::{
        Envelope, EventId, EventType, NewEvent, Principal, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, OUTCOME, Rejected},
    },
    journal::codec,
};

/// The message is on the log, and this version cannot read it.
const UNREADABLE: &str = "UNREADABLE_EVENT";

/// What is recorded about a message that is no event. It is a dead letter of the stage that it was for: a version that can
/// read it takes it up again.
pub(super) fn unreadable(stage: &str, message: &Message, sequence: u64, error: &codec::CodecError) -> NewEvent {
    let id = EventId::of_unreadable(sequence);
    let provider = message.subject.split('.').nth(2).unwrap_or("_");
    let error = ErrorReport::new(
        ErrorType::Validation,
        UNREADABLE,
        format!("message {sequence} of the event log cannot be read: {error}"),
    )
    .with(json!({ "sequence": sequence, "subject": message.subject.as_str() }));
    let now = Utc::now();
    let envelope = Envelope {
        id: id.derive("rejected"),
        event_type: EventType::OrderRejected,
        root_id: id,
        cause_id: Some(id),
        cause_sequence: Some(sequence),
        provider: Arc::from(provider),
        external_order_id: "_".into(),
        webhook_type: String::new(),
        branch: None,
        principal: Principal::of_backend(),
        time: now,
        received_at: now,
        request_id: String::new(),
        traceparent: None,
        request: None,
        idempotency_key: None,
    };
    alarm(stage, &envelope, 0, &error);
    let rejected = Rejected {
        error,
        stage: Some(stage.to_owned()),
        sequence: Some(sequence),
    };
    NewEvent::new(envelope, &rejected)
}

/// The event for a retry of one that has left the log, or is unreadable.
pub(super) fn gone(request: &Recorded, stage: &str, sequence: u64, is_there: bool) -> NewEvent {
    let (code, message) = if is_there {
        let message =
            format!("message {sequence}, which was to be taken up again, is nothing that this version can read");
        (UNREADABLE, message)
    } else {
        let message = format!(
            "event {sequence}, which was to be taken up again, is not on the log any more (see max_age of EVENTS)"
        );
        ("EVENT_GONE", message)
    };
    let error = ErrorReport::new(ErrorType::Validation, code, message).with(json!({ "sequence": sequence }));
    alarm(stage, &request.envelope, 0, &error);
    let dead = DeadLettered {
        attempts: 0,
        retries: 0,
        stage: stage.to_owned(),
        sequence,
        error,
        confirmed_by: None,
        confirming: None,
        unposted: false,
        amended: false,
    };
    let envelope = request.follow(OUTCOME, EventType::OrderDeadLettered, Utc::now());
    NewEvent::new(envelope, &dead)
}
