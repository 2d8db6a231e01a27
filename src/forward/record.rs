//! The events with which the stage records what became of an event, and their logs and counts.

use chrono::Utc;

use super::{
    Forward,
    classify::{Accepted, AnswerVerdict},
};
use crate::{
    config,
    delivery::{
        breaker::RequestOutcome,
        stage::{self, RequestFacts, give_up_knowing, permission},
    },
    event::{
        EventType, NewEvent, NotYours, Recorded,
        outcome::{
            DUPLICATE_ORDER, DeadLettered, ErrorReport, ErrorType, Forwarded, Ignored, ORDER_EXPIRED, OUTCOME,
            OrderSummary,
        },
        stage::FORWARD,
    },
    retry::Schedule,
};

pub(super) fn facts(event: &Recorded, attempts: u32, accepted: &Accepted, order: OrderSummary) -> Forwarded {
    if let Some(reason) = &accepted.unread {
        tracing::warn!(
            provider = &*event.envelope.provider,
            order_id = event.envelope.external_order_id,
            request_id = event.envelope.request_id,
            status = accepted.status,
            reason,
            "accepted without an order id: the backend answered 2xx, and its answer is incomplete"
        );
    }
    Forwarded {
        internal_order_id: accepted.order_id.clone(),
        backend_status: accepted.status,
        order_status: accepted.order_status.clone(),
        answer_unread: accepted.unread.clone(),
        attempts,
        received_at: event.envelope.received_at,
        forwarded_at: Utc::now(),
        as_news: false,
        differs: false,
        only_lines: false,
        confirmed_by: None,
        order,
    }
}

pub(super) fn not_yours(event: &Recorded, attempts: u32, why: &NotYours) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => "failed").increment(1);
    stage::not_yours::<Forward>(event, OUTCOME, attempts, why)
}

pub(super) fn ignore(event: &Recorded, ignored: &Ignored) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("webhooks_processed_total", "provider" => provider.clone(), "status" => "ignored").increment(1);
    if ignored.reason == DUPLICATE_ORDER {
        let differs = if ignored.differs { "true" } else { "false" };
        metrics::counter!("duplicate_orders_total", "provider" => provider, "differs" => differs).increment(1);
    }
    if ignored.differs {
        tell_difference(event, &ignored.message);
    }
    NewEvent::new(event.follow(OUTCOME, EventType::OrderIgnored, Utc::now()), ignored)
}

/// An announcement was sent as an amendment, and says another address as well.
pub(super) fn amended_in_part(event: &Recorded) {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("duplicate_orders_total", "provider" => provider, "differs" => "true").increment(1);
    tell_difference(
        event,
        "the lines and amounts were sent as an amendment, and another address was not",
    );
}

fn tell_difference(event: &Recorded, why: &str) {
    tracing::error!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        sequence = event.sequence,
        why,
        "an order was announced again in another way; the backend has the first announcement: an operator must check it"
    );
}

/// The backend refused the repeated request of an announcement that was given up without an answer. This is on the log before the
/// other announcement is sent: an instance that saw only the missing answer would send both. The announcement is a dead letter
/// already, so this one is neither counted nor reported.
pub(super) fn refused(first: &Recorded, other: &Recorded, attempts: u32, error: ErrorReport) -> NewEvent {
    let dead = DeadLettered {
        attempts,
        retries: Schedule::retries(attempts),
        stage: FORWARD.name.into(),
        sequence: first.sequence,
        error,
        confirmed_by: Some(other.sequence),
        confirming: None,
        unposted: false,
        amended: false,
    };
    let label = format!("refused/{}", other.run_id());
    NewEvent::new(first.follow(&label, EventType::OrderDeadLettered, Utc::now()), &dead)
}

pub(super) fn dead_letter(event: &Recorded, attempts: u32, error: ErrorReport, facts: RequestFacts) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => "failed").increment(1);
    give_up_knowing::<Forward>(event, OUTCOME, attempts, error, facts)
}

pub(super) fn unreadable(error: &serde_json::Error) -> ErrorReport {
    let (line, column) = (error.line(), error.column());
    ErrorReport::new(
        ErrorType::Validation,
        "UNREADABLE_ORDER",
        format!("the transformed order cannot be read, at line {line} column {column}"),
    )
}

pub(super) fn expired(event: &Recorded) -> ErrorReport {
    let age = (Utc::now() - event.envelope.received_at).num_seconds();
    let provider = config::prefix(&event.envelope.provider);
    ErrorReport::new(
        ErrorType::Validation,
        ORDER_EXPIRED,
        format!("the order is {age} s old, older than {provider}_ORDER_TTL allows; the kitchen did not get it"),
    )
}

/// What the breaker learns from an answer.
pub(super) fn shown_by(verdict: &AnswerVerdict) -> RequestOutcome {
    match verdict {
        // The next instance makes its own observations, and must not inherit failures that this instance's stop caused.
        AnswerVerdict::Temporary { .. } | AnswerVerdict::Misconfigured(_) if permission::is_over() => {
            RequestOutcome::Abandoned
        }
        // A doubtful answer shows neither a healthy nor a failing backend.
        AnswerVerdict::Doubtful(_) => RequestOutcome::Abandoned,
        AnswerVerdict::Accepted(_) | AnswerVerdict::Invalid(_) | AnswerVerdict::UnknownOrder { .. } => {
            RequestOutcome::Success
        }
        AnswerVerdict::Temporary { .. } => RequestOutcome::Failure,
        AnswerVerdict::Misconfigured(error) => RequestOutcome::Misconfigured(error.message.clone()),
    }
}
