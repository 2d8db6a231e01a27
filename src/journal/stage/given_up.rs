//! What a stage gives up.

use chrono::Utc;

use super::Stage;
use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport},
    },
    journal::settle::Schedule,
};

/// Gives an event up after so many requests: counts it, says so, and returns what is to be recorded. `label` makes the
/// new event's id (see [`crate::event::EventId::derive`]).
pub fn give_up<S: Stage>(event: &Recorded, label: &str, requests: u32, error: ErrorReport) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("dead_letters_total", "provider" => provider).increment(1);
    tracing::error!(
        stage = S::NAME,
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        event = %event.envelope.event_type,
        attempts = requests,
        code = error.code,
        error = error.message,
        "dead-lettered: somebody must act"
    );
    let dead = DeadLettered {
        attempts: requests,
        retries: Schedule::retries(requests),
        stage: S::NAME.into(),
        sequence: event.sequence,
        error,
    };
    NewEvent::new(event.follow(label, EventType::OrderDeadLettered, Utc::now()), &dead)
}
