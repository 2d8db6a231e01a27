//! Makes the events that the stage `push` records.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::Push;
use crate::{
    delivery::stage::give_up,
    event::{
        EventType, NewEvent, Recorded,
        outcome::{ErrorReport, OUTCOME},
        push::PushFailed,
    },
    retry::Schedule,
};

/// The type of events that report attempts at this one.
const fn failure_of(event_type: EventType) -> EventType {
    match event_type {
        EventType::OrderFetchRequested => EventType::OrderFetchFailed,
        EventType::MenuSyncRequested => EventType::MenuSyncFailed,
        EventType::ItemsRequested => EventType::ItemsPushFailed,
        EventType::StoreRequested => EventType::StorePushFailed,
        _ => EventType::OrderStatusPushFailed,
    }
}

impl Push {
    /// An attempt failed; the next one comes after this pause.
    pub(super) fn attempt_failed(
        &self,
        event: &Recorded,
        request: u32,
        error: ErrorReport,
        pause: Duration,
    ) -> NewEvent {
        tracing::warn!(
            provider = &*event.envelope.provider,
            order_id = event.envelope.external_order_id,
            request_id = event.envelope.request_id,
            branch = error.details["branch"].as_str(),
            event = %event.envelope.event_type,
            attempt = request,
            next_in_ms = pause.as_millis() as u64,
            code = error.code,
            error = error.message,
            "the provider was not reached, trying again"
        );
        let next = Utc::now() + TimeDelta::from_std(pause).unwrap_or_default();
        self.attempt(event, &format!("push_failed/{request}"), request, error, Some(next))
    }

    fn attempt(
        &self,
        event: &Recorded,
        label: &str,
        request: u32,
        error: ErrorReport,
        next: Option<DateTime<Utc>>,
    ) -> NewEvent {
        let payload = PushFailed {
            attempt: request,
            retries: Schedule::retries(request),
            max_attempts: self.schedule.max_retries,
            error,
            next_attempt_at: next,
            given_up: next.is_none(),
        };
        let event_type = failure_of(event.envelope.event_type);
        NewEvent::new(event.follow(label, event_type, Utc::now()), &payload)
    }

    /// It is given up after so many requests: a person may take it up again.
    pub(super) fn given_up(&self, event: &Recorded, requests: u32, error: ErrorReport) -> Vec<NewEvent> {
        let dead = give_up::<Self>(event, OUTCOME, requests, error.clone());
        if event.envelope.event_type == EventType::OrderFetchRequested {
            return vec![dead];
        }
        // Subscribers to statuses and menus get the attempt as well. The dead letter comes last, because it is the outcome.
        vec![self.attempt(event, "given_up", requests, error, None), dead]
    }
}
