//! `<PROVIDER>_RESPONSE_WAIT`: the answer to a webhook that waits for its outcome.
//!
//! The webhook is on the log before anything waits, so whatever becomes of the wait, it is answered 200. A request that waits holds
//! neither a thread nor the webhook's body.

use std::time::Duration;

use axum::{body::Body, http::Response};

use super::{RequestInfo, answer::contract_answer};
use crate::{
    event::Principal,
    intake::Intake,
    journal::Appended,
    memory::{EarlierOutcome, OutcomeWait, WebhookOutcome},
    provider::Admission,
    registry::Enabled,
};

/// A request's place among those that wait, and how long it may have it.
pub(super) struct ResponseWait<'a> {
    time: Duration,
    place: OutcomeWait<'a>,
}

/// A place to wait at; none if the provider's answers do not wait, or too many requests wait already: in all, of this principal, or with
/// this webhook. Taken before the webhook is
/// appended.
pub(super) fn place<'a>(
    intake: &'a Intake,
    enabled: &Enabled,
    admission: &Admission,
    principal: &Principal,
) -> Option<ResponseWait<'a>> {
    let time = enabled.response_wait?;
    let place = intake.orders.wait_for(admission.event_id, &enabled.name, principal);
    if place.is_none() {
        count(enabled, "full");
    }
    Some(ResponseWait { time, place: place? })
}

/// Waits for the outcome, and answers with it where the backend has the webhook in time; else as without waiting.
pub(super) async fn answer(
    (intake, enabled): (&Intake, &Enabled),
    admission: &Admission,
    info: &RequestInfo,
    appended: Appended,
    wait: ResponseWait<'_>,
) -> Response<Body> {
    let time = wait.time;
    let outcome = tokio::select! {
        outcome = tokio::time::timeout(time, outcome(intake, enabled, admission, appended, wait)) => outcome.ok(),
        () = intake.stopping.cancelled() => None,
    };
    let result = match &outcome {
        Some(WebhookOutcome::Created(_) | WebhookOutcome::Forwarded) => "forwarded",
        Some(WebhookOutcome::NotForwarded) => "not_forwarded",
        None => "late",
    };
    count(enabled, result);
    contract_answer(&info.request_id, admission.event_id, appended, outcome.as_ref())
}

async fn outcome(
    intake: &Intake,
    enabled: &Enabled,
    admission: &Admission,
    appended: Appended,
    mut wait: ResponseWait<'_>,
) -> WebhookOutcome {
    if appended.duplicate {
        let (order, webhook) = (&admission.external_order_id, admission.event_id);
        match intake.orders.earlier_outcome(&enabled.name, order, webhook).await {
            Ok(EarlierOutcome::Ended(outcome)) => return outcome,
            Ok(EarlierOutcome::Open) => {}
            Err(error) => tracing::debug!(
                error = format!("{error:#}"),
                "the outcome of a repeated webhook cannot be read"
            ),
        }
    }
    wait.place.outcome().await
}

fn count(enabled: &Enabled, result: &'static str) {
    let provider = std::sync::Arc::clone(&enabled.name);
    metrics::counter!("response_waits_total", "provider" => provider, "result" => result).increment(1);
}
