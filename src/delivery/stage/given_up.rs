//! Events that a stage gives up or rejects. Both are dead letters: counted, logged as an error, listed and retried alike.

use chrono::{SecondsFormat, Utc};

use super::Stage;
use crate::{
    delivery::superseded::NewerEvent,
    event::{
        Envelope, EventType, NewEvent, NotYours, Recorded,
        outcome::{
            DeadLettered, EVENT_AGED, ErrorReport, ErrorType, Ignored, LANE_FULL, NOT_YOURS, NUMBER_USED_AGAIN,
            Rejected,
        },
    },
    retry::Schedule,
    telemetry::panics::Panicked,
};

/// Gives an event up after so many requests: counts it, says so, and returns what is to be recorded. `label` makes the
/// new event's id (see [`crate::event::EventId::derive`]).
pub fn give_up<S: Stage>(event: &Recorded, label: &str, requests: u32, error: ErrorReport) -> NewEvent {
    give_up_knowing::<S>(event, label, requests, error, RequestFacts::default())
}

/// What is known of the requests of an event that is given up, beside their number.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestFacts {
    /// See [`DeadLettered::confirming`].
    pub confirming: Option<u64>,
    /// See [`DeadLettered::unposted`].
    pub unposted: bool,
    /// See [`DeadLettered::amended`].
    pub amended: bool,
}

/// As [`give_up`], with what is known of the requests.
pub fn give_up_knowing<S: Stage>(
    event: &Recorded,
    label: &str,
    requests: u32,
    error: ErrorReport,
    facts: RequestFacts,
) -> NewEvent {
    alarm(S::NAME, &event.envelope, requests, &error);
    let dead = DeadLettered {
        attempts: requests,
        retries: Schedule::retries(requests),
        stage: S::NAME.into(),
        sequence: event.sequence,
        error,
        confirmed_by: None,
        confirming: facts.confirming,
        unposted: facts.unposted,
        amended: facts.amended,
    };
    NewEvent::new(event.follow(label, EventType::OrderDeadLettered, Utc::now()), &dead)
}

/// Ends an event by which a branch's secret tried to act for another branch: a dead letter of the secret's branch.
pub fn not_yours<S: Stage>(event: &Recorded, label: &str, requests: u32, why: &NotYours) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("not_yours_total", "provider" => provider, "stage" => S::NAME).increment(1);
    let error = ErrorReport::new(ErrorType::Validation, NOT_YOURS, why.to_string());
    let mut dead = give_up::<S>(event, label, requests, error);
    dead.envelope.branch = why.principal.branch().map(|branch| branch.as_ref().to_owned());
    dead
}

/// Gives up an event with a handler that panicked: it would panic on every instance in turn. It can be retried once the code is
/// fixed.
pub(super) fn panicked<S: Stage>(event: &Recorded, requests: u32, panicked: &Panicked) -> NewEvent {
    let message = format!("{panicked} while this event was handled; fix the code and retry the dead letter");
    given_up_by_the_runner::<S>(
        event,
        requests,
        ErrorReport::new(ErrorType::Unknown, "PANIC", message).with(serde_json::json!({ "place": panicked.place })),
    )
}

/// Gives up an event that finds no room in its order's lane. It is not to wait for room, for it may hold the very turn in
/// which room would be made.
pub(super) fn without_room<S: Stage>(event: &Recorded, requests: u32, waiting: usize) -> NewEvent {
    let provider = event.envelope.provider.to_string();
    metrics::counter!("lane_full_total", "stage" => S::NAME, "provider" => provider).increment(1);
    let message = format!(
        "{waiting} events of this order wait already, behind one that is tried again; retry the dead letter when that one is done"
    );
    given_up_by_the_runner::<S>(
        event,
        requests,
        ErrorReport::new(ErrorType::Temporary, LANE_FULL, message),
    )
}

/// Gives up an event that the log is about to delete: nothing could be recorded about it afterwards.
pub(super) fn aged<S: Stage>(event: &Recorded, requests: u32) -> NewEvent {
    let message = "the event log is about to delete this event (max_age of EVENTS), and it was not completed by now; retry the dead letter \
                   before that, or raise max_age";
    given_up_by_the_runner::<S>(
        event,
        requests,
        ErrorReport::new(ErrorType::Temporary, EVENT_AGED, message),
    )
}

/// Gives up an event of an order with a number that a newer order has, which waits behind it.
pub(super) fn number_used_again<S: Stage>(event: &Recorded, requests: u32, newer: &Recorded) -> NewEvent {
    let message = format!(
        "another order with this number came at {} and waits behind this event, and the last attempt of this one failed; if this order is to \
         be at the backend as well, retry the dead letter",
        newer.envelope.received_at.to_rfc3339_opts(SecondsFormat::Secs, true)
    );
    given_up_by_the_runner::<S>(
        event,
        requests,
        ErrorReport::new(ErrorType::Temporary, NUMBER_USED_AGAIN, message),
    )
}

/// As [`give_up`], where the stage itself had no say and so has not counted it.
fn given_up_by_the_runner<S: Stage>(event: &Recorded, requests: u32, error: ErrorReport) -> NewEvent {
    if !event.envelope.event_type.is_for_provider() {
        let provider = event.envelope.provider.to_string();
        metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => "failed").increment(1);
    }
    give_up::<S>(event, S::LABEL, requests, error)
}

/// Rejects an event that cannot be handled as it is: counts it, says so, and returns what is to be recorded. A retry reads the
/// event again, so it helps once the cause is fixed (the provider's file, a newer version of the hub).
pub fn reject<S: Stage>(event: &Recorded, label: &str, error: ErrorReport) -> NewEvent {
    alarm(S::NAME, &event.envelope, 0, &error);
    let rejected = Rejected {
        error,
        stage: Some(S::NAME.into()),
        sequence: Some(event.sequence),
    };
    NewEvent::new(event.follow(label, EventType::OrderRejected, Utc::now()), &rejected)
}

/// The end of an event that something newer took the place of, or that the other side has by another event: nothing is left to do, so it is no dead letter.
pub(super) fn superseded_end<S: Stage>(event: &Recorded, newer: &NewerEvent) -> NewEvent {
    let message = newer.to_string();
    tracing::info!(
        provider = &*event.envelope.provider,
        order_id = event.envelope.external_order_id,
        request_id = event.envelope.request_id,
        event = %event.envelope.event_type,
        reason = newer.reason(),
        newer = message,
        "not sent again: superseded, or the other side has it"
    );
    let payload = Ignored {
        reason: newer.reason().into(),
        message,
        internal_order_id: newer.order_id.clone(),
        sequence: None,
        differs: false,
    };
    NewEvent::new(event.follow(S::LABEL, EventType::OrderIgnored, Utc::now()), &payload)
}

/// Logs and counts a dead letter, whichever event records it.
pub(super) fn alarm(stage: &str, envelope: &Envelope, requests: u32, error: &ErrorReport) {
    let provider = envelope.provider.to_string();
    metrics::counter!("dead_letters_total", "provider" => provider).increment(1);
    tracing::error!(
        stage,
        provider = &*envelope.provider,
        order_id = envelope.external_order_id,
        request_id = envelope.request_id,
        event = %envelope.event_type,
        attempts = requests,
        code = error.code,
        error = error.message,
        "dead-lettered: an operator must act"
    );
}
