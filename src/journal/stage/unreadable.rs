//! What is recorded about a message that is no event, and about a retry whose event is gone.

use std::sync::Arc;

use async_nats::jetstream::Message;
use bytes::Bytes;
use chrono::Utc;
use serde_json::json;

use crate::{
    event::{
        Envelope, EventId, EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, Rejected},
    },
    journal::codec,
};

/// What is recorded about a message that is no event.
pub(super) fn unreadable(message: &Message, sequence: u64, error: &codec::CodecError) -> NewEvent {
    let id = EventId::of_unreadable(sequence);
    let provider = message.subject.split('.').nth(2).unwrap_or("_");
    let report = ErrorReport {
        error_type: ErrorType::Validation,
        code: "UNREADABLE_EVENT".into(),
        message: format!("message {sequence} of the event log cannot be read: {error}"),
        details: json!({ "sequence": sequence, "subject": message.subject.as_str() }),
    };
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
    let payload = serde_json::to_vec(&Rejected { error: report })
        .map(Bytes::from)
        .unwrap_or_default();
    NewEvent { envelope, payload }
}

/// What is recorded about a retry whose event is not on the log any more.
pub(super) fn gone(request: &Recorded, stage: &str, sequence: u64) -> NewEvent {
    let error = ErrorReport {
        error_type: ErrorType::Validation,
        code: "EVENT_GONE".into(),
        message: format!(
            "event {sequence}, which was to be taken up again, is not on the log any more (see max_age of EVENTS)"
        ),
        details: json!({ "sequence": sequence }),
    };
    let dead = DeadLettered {
        attempts: 0,
        retries: 0,
        stage: stage.to_owned(),
        sequence,
        error,
    };
    NewEvent {
        envelope: request.follow("outcome", EventType::OrderDeadLettered, Utc::now()),
        payload: serde_json::to_vec(&dead).map(Bytes::from).unwrap_or_default(),
    }
}
