//! The first stage: `webhook.received` becomes `order.transformed`, or why it does not.
//!
//! The provider says what the webhook means, [`branches`] which branch it is for, [`duplicates`] whether the order
//! exists already. Each webhook has exactly one outcome here, under one id whatever it is, so a redelivery cannot add
//! another.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    event::{
        EventType, NewEvent, Recorded,
        outcome::{DeadLettered, ErrorReport, ErrorType, Ignored, Rejected},
        push::{SyncReported, Word, menu_subject},
    },
    journal::{lanes::Corner, settle::Failure, stage::Stage},
    order::{
        body::{self, Origin, Place},
        sanitise::clean_json,
    },
    provider::{Content, Fact, Registry, TransformError, merchant_header},
    push::remote::Remote,
};

pub mod branches;
pub mod duplicates;

use self::{
    branches::{Branches, Lookup},
    duplicates::Duplicates,
};

/// Label of this stage's outcome (see [`crate::event::EventId::derive`]).
const LABEL: &str = "transform";

/// The stage.
pub struct Transform {
    registry: Arc<Registry>,
    branches: Arc<Branches>,
    duplicates: Duplicates,
}

impl Transform {
    /// Of these parts.
    pub fn new(registry: Arc<Registry>, branches: Arc<Branches>, duplicates: Duplicates) -> Self {
        Self {
            registry,
            branches,
            duplicates,
        }
    }

    async fn outcome(&self, received: &Recorded, now: DateTime<Utc>) -> NewEvent {
        let Some(enabled) = self.registry.get(&received.envelope.provider) else {
            return dead_letter(received, now, not_enabled(&received.envelope.provider));
        };
        if received.envelope.event_type == EventType::WebhookReceived {
            if let Some(word) = enabled.outbound.as_ref().and_then(|remote| menu_word(remote, received)) {
                return self.menu_result(received, now, word).await;
            }
            if enabled
                .outbound
                .as_ref()
                .is_some_and(|remote| remote.spec.fetch.is_some())
            {
                return fetch(received, now);
            }
        }
        let fact = match enabled.provider.transform(received) {
            Ok(fact) => fact,
            Err(error) => return reject(received, now, &error),
        };
        let place = match self
            .branches
            .find(&received.envelope.provider, fact.store_ref.as_deref())
            .await
        {
            Lookup::Found(place) => place,
            Lookup::NotFound => {
                return dead_letter(
                    received,
                    now,
                    branch_not_found(&received.envelope.provider, fact.store_ref.as_deref()),
                );
            }
        };
        if let Content::NewOrder(order) = &fact.content {
            let existing = self
                .duplicates
                .find(received.envelope.root_id, &order.external_id, &place.branch_id)
                .await;
            if let Some(order_id) = existing {
                return ignore_duplicate(received, now, place, order_id);
            }
        }
        let can_accept = |remote: &Arc<Remote>| remote.spec.status.contains_key(&Word::Accepted);
        let can_accept = enabled.outbound.as_ref().is_some_and(can_accept);
        transformed(received, now, &fact, place, can_accept)
    }

    /// What the provider made of a menu, as its file reads the webhook.
    async fn menu_result(&self, received: &Recorded, now: DateTime<Utc>, word: MenuWord) -> NewEvent {
        let provider = &received.envelope.provider;
        let store = word.store.as_deref();
        let Lookup::Found(place) = self.branches.find(provider, store).await else {
            return dead_letter(received, now, branch_not_found(provider, store));
        };
        match word.said {
            Some(said) => reported(received, now, &said, place),
            None => {
                let mut envelope = received.follow(LABEL, EventType::OrderIgnored, now);
                envelope.branch = Some(place.branch_id);
                let payload = Ignored {
                    reason: "MENU_RESULT_PENDING".into(),
                    message: "the provider is still at the menu".into(),
                    internal_order_id: None,
                };
                let payload = json_bytes(&payload);
                NewEvent { envelope, payload }
            }
        }
    }
}

/// A provider's word about a menu, in a webhook.
struct MenuWord {
    store: Option<String>,
    /// None where it is still at it.
    said: Option<SyncReported>,
}

/// None where the webhook is about something else, as nearly all are.
fn menu_word(remote: &Remote, received: &Recorded) -> Option<MenuWord> {
    let table = &remote.spec.menu.as_ref()?.result.as_ref()?.table;
    let is = table.when.as_ref()?.is.as_bytes();
    // A look at the bytes spares most webhooks being read twice.
    if is.is_empty() || !received.payload.windows(is.len()).any(|part| part == is) {
        return None;
    }
    let body: Value = serde_json::from_slice(&received.payload).ok()?;
    if !table.is_one(&body) {
        return None;
    }
    let store = table.store.as_ref().and_then(|pointer| match body.pointer(pointer)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    });
    Some(MenuWord {
        store: store.or_else(|| merchant_header(&received.envelope).map(str::to_owned)),
        said: table.read(&received.payload),
    })
}

/// The push stage, where the menu waits, has it next.
fn reported(received: &Recorded, now: DateTime<Utc>, word: &SyncReported, place: Place) -> NewEvent {
    let mut envelope = received.follow(LABEL, EventType::MenuSyncReported, now);
    envelope.external_order_id = menu_subject(&place.branch_id);
    envelope.branch = Some(place.branch_id);
    NewEvent {
        envelope,
        payload: json_bytes(word),
    }
}

/// The order is elsewhere: the webhook goes to the push stage, with all that is known of it, and comes back with the
/// document. The provider's other webhooks go the same way, so that none overtakes another of its order.
fn fetch(received: &Recorded, now: DateTime<Utc>) -> NewEvent {
    let mut envelope = received.follow(LABEL, EventType::OrderFetchRequested, now);
    envelope.request.clone_from(&received.envelope.request);
    NewEvent {
        envelope,
        payload: received.payload.clone(),
    }
}

/// Says which texts are not passed on as they came; what stood there is on the log and nowhere else.
fn note_changed(received: &Recorded, changed: &[String]) {
    if changed.is_empty() {
        return;
    }
    let provider = received.envelope.provider.to_string();
    metrics::counter!("sanitised_fields_total", "provider" => provider).increment(changed.len() as u64);
    tracing::info!(
        provider = &*received.envelope.provider,
        order_id = received.envelope.external_order_id,
        request_id = received.envelope.request_id,
        fields = changed.join(" "),
        "texts cleaned or cut for the backend; the event webhook.received holds them as they came"
    );
}

impl Stage for Transform {
    const NAME: &'static str = "transform";
    const TAKES: &'static [EventType] = &[EventType::WebhookReceived, EventType::OrderFetched];
    const LANES: Option<Corner> = None;

    /// A cold start without PostgreSQL knows no branch yet: webhooks are accepted, transformation waits.
    async fn ready(&self) {
        self.branches.loaded().await;
    }

    fn is_ready(&self) -> bool {
        self.branches.is_loaded()
    }

    async fn handle(&self, received: &Recorded, _attempt: u32) -> Result<Vec<NewEvent>, Failure> {
        let outcome = self.outcome(received, Utc::now()).await;
        let goes_on = [EventType::OrderTransformed, EventType::OrderFetchRequested];
        if !goes_on.contains(&outcome.envelope.event_type) {
            let provider = received.envelope.provider.to_string();
            let status = match outcome.envelope.event_type {
                EventType::OrderIgnored => "ignored",
                EventType::MenuSyncReported => "success",
                _ => "failed",
            };
            metrics::counter!("webhooks_processed_total", "provider" => provider, "status" => status).increment(1);
        }
        Ok(vec![outcome])
    }
}

fn transformed(received: &Recorded, now: DateTime<Utc>, fact: &Fact, place: Place, can_accept: bool) -> NewEvent {
    let origin = Origin {
        provider: &received.envelope.provider,
        webhook_type: &received.envelope.webhook_type,
        external_order_id: &received.envelope.external_order_id,
        timestamp: fact.timestamp.unwrap_or(received.envelope.time),
        transformed_at: now,
        auto_accept: can_accept && place.auto_accept && matches!(fact.content, Content::NewOrder(_)),
    };
    let payload = match &fact.content {
        Content::NewOrder(order) => body::new_order(order, &place, origin),
        Content::StatusChange(change) => body::status_change(change, &place, origin),
        Content::MenuResult(word) => return reported(received, now, word, place),
    };
    match payload {
        Ok(payload) => {
            let (payload, changed) = clean_json(payload);
            note_changed(received, &changed);
            let mut envelope = received.follow(LABEL, EventType::OrderTransformed, now);
            envelope.branch = Some(place.branch_id);
            NewEvent {
                envelope,
                payload: Bytes::from(payload),
            }
        }
        Err(error) => reject_with(
            received,
            now,
            report(
                ErrorType::Validation,
                "UNSERIALIZABLE_ORDER",
                error.to_string(),
                Value::Null,
            ),
        ),
    }
}

fn ignore_duplicate(received: &Recorded, now: DateTime<Utc>, place: Place, order_id: String) -> NewEvent {
    let mut envelope = received.follow(LABEL, EventType::OrderIgnored, now);
    envelope.branch = Some(place.branch_id);
    let message = format!(
        "order {} exists already as {order_id}",
        received.envelope.external_order_id
    );
    let payload = Ignored {
        reason: "DUPLICATE_ORDER".into(),
        message,
        internal_order_id: Some(order_id),
    };
    NewEvent {
        envelope,
        payload: json_bytes(&payload),
    }
}

fn reject(received: &Recorded, now: DateTime<Utc>, error: &TransformError) -> NewEvent {
    let details = match error {
        TransformError::NotJson => Value::Null,
        TransformError::Faults(faults) => json!({ "faults": faults }),
    };
    tracing::warn!(
        provider = &*received.envelope.provider,
        order_id = received.envelope.external_order_id,
        request_id = received.envelope.request_id,
        %error,
        "order rejected"
    );
    reject_with(
        received,
        now,
        report(ErrorType::Validation, "INVALID_ORDER", error.to_string(), details),
    )
}

fn reject_with(received: &Recorded, now: DateTime<Utc>, error: ErrorReport) -> NewEvent {
    let envelope = received.follow(LABEL, EventType::OrderRejected, now);
    NewEvent {
        envelope,
        payload: json_bytes(&Rejected { error }),
    }
}

fn dead_letter(received: &Recorded, now: DateTime<Utc>, error: ErrorReport) -> NewEvent {
    let envelope = received.follow(LABEL, EventType::OrderDeadLettered, now);
    let provider = received.envelope.provider.to_string();
    metrics::counter!("dead_letters_total", "provider" => provider).increment(1);
    tracing::error!(
        provider = &*received.envelope.provider,
        order_id = received.envelope.external_order_id,
        request_id = received.envelope.request_id,
        code = error.code,
        error = error.message,
        "order dead-lettered: somebody must act"
    );
    NewEvent {
        envelope,
        payload: json_bytes(&DeadLettered {
            attempts: 0,
            retries: 0,
            stage: Transform::NAME.into(),
            sequence: received.sequence,
            error,
        }),
    }
}

fn branch_not_found(provider: &str, store: Option<&str>) -> ErrorReport {
    let message = match store {
        Some(store) => format!(
            "no active row of branch_delivery_configs has provider {provider} and merchant {store}; add it and retry the dead letter"
        ),
        None => format!("the webhook names no merchant and {provider} has not exactly one active branch"),
    };
    report(
        ErrorType::Configuration,
        "BRANCH_NOT_FOUND",
        message,
        json!({ "merchant": store }),
    )
}

fn not_enabled(provider: &str) -> ErrorReport {
    let message = format!(
        "provider {provider} is not enabled on the hub that took this event; enable it and retry the dead letter"
    );
    report(ErrorType::Configuration, "PROVIDER_NOT_ENABLED", message, Value::Null)
}

fn report(error_type: ErrorType, code: &str, message: String, details: Value) -> ErrorReport {
    ErrorReport {
        error_type,
        code: code.into(),
        message,
        details,
    }
}

/// A payload of ours as JSON; its types hold nothing that JSON cannot say.
fn json_bytes(payload: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(payload).expect("outcome payloads have only string keys and finite numbers"))
}
