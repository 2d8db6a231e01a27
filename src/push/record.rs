//! The events that the stage records.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::Push;
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport},
        push::PushFailed,
    },
    journal::stage::Stage,
};

/// Label of the event that ends a request (see [`crate::event::EventId::derive`]).
pub(super) const OUTCOME: &str = "outcome";

/// What went wrong, and how far the schedule is.
pub(super) struct Given {
    pub(super) retries: u32,
    pub(super) max_attempts: u32,
    pub(super) error: ErrorReport,
}

/// Which event tells of an attempt at this one.
const fn failure_of(event_type: EventType) -> EventType {
    match event_type {
        EventType::OrderFetchRequested => EventType::OrderFetchFailed,
        EventType::MenuSyncRequested => EventType::MenuSyncFailed,
        _ => EventType::OrderStatusPushFailed,
    }
}

/// An attempt failed; the next one comes after this pause.
pub(super) fn failed(event: &Recorded, request: u32, given: Given, pause: Duration) -> NewEvent {
    tracing::warn!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        event = %event.envelope.event_type,
        attempt = request,
        next_in_ms = pause.as_millis() as u64,
        code = given.error.code,
        error = given.error.message,
        "the provider was not reached, trying again"
    );
    let next = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
    attempt(event, &format!("push_failed/{request}"), request, given, Some(next))
}

fn attempt(event: &Recorded, label: &str, request: u32, given: Given, next: Option<DateTime<Utc>>) -> NewEvent {
    let payload = PushFailed {
        attempt: request,
        retries: given.retries,
        max_attempts: given.max_attempts,
        error: given.error,
        next_attempt_at: next,
        given_up: next.is_none(),
    };
    follow(event, label, failure_of(event.envelope.event_type), &payload)
}

/// It is given up: a person may take it up again.
pub(super) fn given_up(event: &Recorded, requests: u32, given: Given) -> Vec<NewEvent> {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("dead_letters_total", "provider" => provider).increment(1);
    tracing::error!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        event = %event.envelope.event_type,
        attempts = requests,
        code = given.error.code,
        error = given.error.message,
        "what was for a provider is dead-lettered: somebody must act"
    );
    let dead = DeadLettered {
        attempts: requests,
        retries: given.retries,
        stage: Push::NAME.into(),
        sequence: event.sequence,
        error: given.error.clone(),
    };
    let dead = follow(event, OUTCOME, EventType::OrderDeadLettered, &dead);
    if event.envelope.event_type == EventType::OrderFetchRequested {
        return vec![dead];
    }
    // For who listens to what becomes of statuses and menus; the dead letter last, for it is the end.
    vec![attempt(event, "given_up", requests, given, None), dead]
}

pub(super) fn follow(event: &Recorded, label: &str, event_type: EventType, payload: &impl Serialize) -> NewEvent {
    let payload = serde_json::to_vec(payload).expect("outcome payloads have only string keys and finite numbers");
    NewEvent {
        envelope: event.follow(label, event_type, Utc::now()),
        payload: Bytes::from(payload),
    }
}
