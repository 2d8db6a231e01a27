//! The second stage: `order.transformed` is posted to the backend, and what became of it is recorded.
//!
//! [`client`] speaks HTTP, [`classify`] reads the answer, [`breaker`] decides whether to ask at all and [`gate`] holds
//! it for all partitions. The body is the event's payload, byte for byte, and its key is the event's id: every repeat,
//! by a redelivery, a restart or a broken wire, is the same request.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use chrono::{TimeDelta, Utc};
use serde::Serialize;

use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, ForwardFailed, Forwarded, OrderSummary},
    },
    journal::{
        settle::{Failure, pause},
        stage::Stage,
    },
    order::body,
};

pub mod client;
pub mod classify;
pub mod breaker;
pub mod gate;

use self::{
    breaker::Outcome,
    classify::{Accepted, Verdict},
    client::Client,
    gate::Gate,
};

/// Label of the event that ends an order's way (see [`crate::event::EventId::derive`]).
const OUTCOME: &str = "outcome";

/// The stage.
pub struct Forward {
    client: Client,
    gate: Arc<Gate>,
    max_attempts: u32,
}

impl Forward {
    /// Of these parts.
    pub fn new(client: Client, gate: Arc<Gate>, max_attempts: u32) -> Self {
        Self {
            client,
            gate,
            max_attempts,
        }
    }

    fn failed(
        &self,
        event: &Recorded,
        attempt: u32,
        error: ErrorReport,
        after: Option<std::time::Duration>,
    ) -> Result<Vec<NewEvent>, Failure> {
        if attempt >= self.max_attempts {
            return Ok(vec![dead_letter(event, attempt, error)]);
        }
        let now = Utc::now();
        let pause = TimeDelta::from_std(pause(attempt, after)).unwrap_or_default();
        let label = format!("forward_failed/{attempt}");
        let cause = error.message.clone();
        tracing::warn!(
            provider = &*event.envelope.provider,
            order_id = event.envelope.external_order_id,
            request_id = event.envelope.request_id,
            attempt,
            code = error.code,
            error = error.message,
            "order not forwarded, trying again"
        );
        let payload = ForwardFailed {
            attempt,
            retries: 0,
            max_attempts: self.max_attempts,
            error,
            next_attempt_at: now + pause,
        };
        let record = vec![follow(event, &label, EventType::OrderForwardFailed, &payload)];
        Err(Failure::Retry { after, cause, record })
    }
}

impl Stage for Forward {
    const NAME: &'static str = "forward";
    const TAKES: EventType = EventType::OrderTransformed;

    async fn ready(&self) {
        self.gate.passable().await;
    }

    fn is_ready(&self) -> bool {
        self.gate.is_passable()
    }

    async fn handle(&self, event: &Recorded, attempt: u32) -> Result<Vec<NewEvent>, Failure> {
        let summary = match body::summary(&event.payload) {
            Ok(summary) => summary,
            Err(error) => return Ok(vec![dead_letter(event, 0, unreadable(&error))]),
        };
        let _slot = self.client.slot().await;
        let Some(pass) = self.gate.enter() else {
            return Err(Failure::Hold {
                cause: "the circuit breaker is open".into(),
            });
        };
        let asked = Instant::now();
        let verdict = self.client.forward(event).await;
        metrics::histogram!("backend_request_duration_seconds").record(asked.elapsed());
        metrics::counter!("backend_requests_total", "outcome" => verdict.label()).increment(1);
        pass.record(match &verdict {
            Verdict::Accepted(_) | Verdict::Invalid(_) => Outcome::Success,
            Verdict::Temporary { .. } => Outcome::Failure,
            Verdict::Misconfigured(error) => Outcome::Misconfigured(error.message.clone()),
        });
        match verdict {
            Verdict::Accepted(accepted) => Ok(vec![forwarded(event, attempt, accepted, summary)]),
            Verdict::Invalid(error) => Ok(vec![dead_letter(event, attempt, error)]),
            Verdict::Temporary { error, after } => self.failed(event, attempt, error, after),
            Verdict::Misconfigured(error) => Err(Failure::Hold { cause: error.message }),
        }
    }
}

fn forwarded(event: &Recorded, attempts: u32, accepted: Accepted, order: OrderSummary) -> NewEvent {
    let now = Utc::now();
    let received_at = event.envelope.received_at;
    let payload = Forwarded {
        internal_order_id: accepted.order_id,
        backend_status: accepted.status,
        order_status: accepted.order_status,
        attempts,
        received_at,
        forwarded_at: now,
        order,
    };
    let provider = event.envelope.provider.to_string();
    let took = (now - received_at).to_std().unwrap_or_default();
    metrics::counter!("webhooks_processed_total", "provider" => provider.clone(), "status" => "success").increment(1);
    metrics::histogram!("webhook_processing_duration_seconds", "provider" => provider).record(took);
    tracing::debug!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        attempts,
        processing_time = took.as_millis() as u64,
        "order forwarded"
    );
    follow(event, OUTCOME, EventType::OrderForwarded, &payload)
}

fn dead_letter(event: &Recorded, attempts: u32, error: ErrorReport) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("dead_letters_total", "provider" => provider.clone()).increment(1);
    metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => "failed").increment(1);
    tracing::error!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        attempts,
        code = error.code,
        error = error.message,
        "order dead-lettered: somebody must act"
    );
    follow(
        event,
        OUTCOME,
        EventType::OrderDeadLettered,
        &DeadLettered {
            attempts,
            retries: 0,
            stage: Forward::NAME.into(),
            sequence: event.sequence,
            error,
        },
    )
}

fn unreadable(error: &serde_json::Error) -> ErrorReport {
    ErrorReport {
        error_type: ErrorType::Validation,
        code: "UNREADABLE_ORDER".into(),
        message: format!(
            "the transformed order cannot be read, at line {} column {}",
            error.line(),
            error.column()
        ),
        details: serde_json::Value::Null,
    }
}

fn follow(event: &Recorded, label: &str, event_type: EventType, payload: &impl Serialize) -> NewEvent {
    let payload = serde_json::to_vec(payload).expect("outcome payloads have only string keys and finite numbers");
    NewEvent {
        envelope: event.follow(label, event_type, Utc::now()),
        payload: Bytes::from(payload),
    }
}
