//! The content of one event, typed and without personal data.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    difference::ValueChange,
    mask::{self, Masking},
};
use crate::event::{EventId, EventType, Recorded, SecretUse, WebhookOrigin, operator::ActResult, outcome::ErrorReport};

mod of_branch;
mod of_event;

/// An event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Its sequence in the stream `EVENTS`.
    pub sequence: u64,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// Its id.
    pub id: EventId,
    /// Its type, as in `ce-type`.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// The provider's name.
    pub provider: String,
    /// The provider's id of the order.
    pub external_order_id: String,
    /// The webhook, or the request of the backend, that it belongs to.
    pub webhook_id: EventId,
    /// The type of that webhook or request: `order_created`, `status_request` …
    pub webhook_type: String,
    /// `X-Request-Id` of that webhook.
    pub request_id: String,
    /// The branch, once it is known.
    pub branch: Option<String>,
    /// Its content.
    #[serde(flatten)]
    pub detail: StepDetail,
    /// The request as received, on demand; personal data is masked unless it is revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw: Option<Value>,
    /// The body for the backend, on demand; personal data is masked unless it is revealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Value>,
    /// What differs from the previous attempt or body, on demand.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<ValueChange>,
}

/// An error in short.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorSummary {
    /// For machines.
    pub code: String,
    /// `validation`, `configuration`, `temporary` or `unknown`.
    pub kind: &'static str,
    /// For people.
    pub message: String,
    /// Details.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub details: Value,
}

impl From<ErrorReport> for ErrorSummary {
    fn from(report: ErrorReport) -> Self {
        Self {
            code: report.code,
            kind: report.error_type.as_str(),
            message: report.message,
            details: report.details,
        }
    }
}

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetryWait {
    /// When the next attempt is due; none if none follows.
    pub until: Option<DateTime<Utc>>,
    /// Whether it also waits for the webhook that creates the order.
    pub for_order: bool,
}

/// The content of an event.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "step", rename_all = "snake_case", rename_all_fields = "camelCase")]
pub enum StepDetail {
    /// A webhook was accepted.
    Received {
        /// The signature scheme that proved it.
        scheme: String,
        /// The client's address, as reported by trusted proxies.
        address: String,
        /// Which secrets matched, never their values.
        secrets: Vec<SecretUse>,
        /// How it came, where its provider did not send it with a proof.
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<WebhookOrigin>,
        /// Size of its body.
        bytes: usize,
    },
    /// The order's document is to be fetched from the provider.
    FetchRequested,
    /// The document came.
    Fetched {
        /// Its size.
        bytes: usize,
    },
    /// The webhook was transformed: its order was read and the body for the backend was made.
    ReadAs {
        /// The order's status in the platform's words.
        status: Option<String>,
        /// The order's status in the provider's words.
        provider_status: Option<String>,
        /// The number that people see.
        order_number: Option<String>,
        /// When it must be accepted, ready or delivered.
        deadline: Option<DateTime<Utc>>,
        /// Flags: remarks on the order.
        flags: Vec<String>,
        /// Size of the body for the backend.
        bytes: usize,
    },
    /// The event was ignored.
    Ignored {
        /// For machines.
        reason: String,
        /// For people.
        message: String,
        /// It announced the order again with other lines or another total.
        differs: bool,
    },
    /// An attempt failed.
    Failed {
        /// In this stage.
        stage: &'static str,
        /// Which one, from 1.
        attempt: u32,
        /// Number of counted retries after which it is given up.
        max_attempts: u32,
        /// Why.
        error: ErrorSummary,
        /// What it waits for after this attempt.
        waits: RetryWait,
    },
    /// It is a dead letter: no attempt follows until a person requests a retry.
    GivenUp {
        /// In this stage.
        stage: String,
        /// Requests that were made.
        attempts: u32,
        /// Why.
        error: ErrorSummary,
    },
    /// A person requested a retry.
    RetryRequested {
        /// Who.
        by: String,
        /// Why.
        reason: Option<String>,
        /// In this stage.
        stage: String,
    },
    /// The backend has it.
    Forwarded {
        /// By which attempt.
        attempts: u32,
        /// What the backend answered.
        backend_status: u16,
        /// The backend's id of the order.
        order_id: Option<String>,
        /// Whether it announced an order that the backend had, and was sent as a change of its status.
        as_news: bool,
    },
    /// The backend requested that a status be sent to the provider.
    StatusRequested {
        /// Which.
        status: &'static str,
        /// The hub requested it because the branch accepts orders automatically.
        automatic: bool,
    },
    /// The status was sent to the provider.
    StatusPushed {
        /// Which status.
        status: &'static str,
        /// By which attempt.
        attempts: u32,
        /// The status of the provider's answer; none if nothing was to be sent.
        provider_status: Option<u16>,
    },
    /// The backend requested that a menu be sent to the provider.
    MenuRequested,
    /// The provider accepted the menu and will report the result later.
    MenuAccepted {
        /// The status of its answer.
        provider_status: u16,
        /// When the result is due.
        result_due_at: DateTime<Utc>,
    },
    /// The provider reported the result of a menu.
    MenuReported {
        /// Whether it took the menu; otherwise it refused it.
        ok: bool,
    },
    /// The provider has the menu.
    MenuSynced {
        /// By which attempt.
        attempts: u32,
    },
    /// The backend requested that the provider be sent which items can be ordered.
    ItemsRequested {
        /// How many items and options it names.
        entries: usize,
    },
    /// The provider has answered about some of them, or about all.
    ItemsPushed {
        /// How many it took so far.
        taken: usize,
        /// How many it did not take.
        refused: usize,
        /// Whether the rest is still to be sent.
        is_part: bool,
    },
    /// The backend requested that the provider be sent the state of a branch.
    StoreRequested {
        /// Which state.
        state: &'static str,
    },
    /// The provider has it.
    StorePushed {
        /// Which state.
        state: &'static str,
        /// By which attempt.
        attempts: u32,
        /// The status of the provider's answer; none if nothing was to be sent.
        provider_status: Option<u16>,
    },
    /// An operator of the hub did something.
    Acted {
        /// The kind of act.
        kind: String,
        /// Who.
        by: String,
        /// Why.
        reason: Option<String>,
        /// What came of it; none in the event before the act.
        result: Option<ActResult>,
    },
    /// A job of the hub began, went on or ended.
    Job,
    /// This version cannot read the payload.
    Unreadable {
        /// Why.
        reason: String,
    },
}

impl Step {
    /// Of an event.
    pub fn of(event: &Recorded) -> Self {
        let envelope = &event.envelope;
        let detail = StepDetail::of(event).unwrap_or_else(|error| StepDetail::Unreadable {
            // Only the position: the error's text may quote the payload.
            reason: format!("line {} column {} of the payload", error.line(), error.column()),
        });
        Self {
            sequence: event.sequence,
            time: envelope.time,
            id: envelope.id,
            event_type: envelope.event_type.as_str(),
            provider: envelope.provider.to_string(),
            external_order_id: envelope.external_order_id.clone(),
            webhook_id: envelope.root_id,
            webhook_type: envelope.webhook_type.clone(),
            request_id: envelope.request_id.clone(),
            branch: envelope.branch.clone(),
            detail,
            raw: None,
            body: None,
            changes: Vec::new(),
        }
    }

    /// Adds the request as received, if the event is a webhook.
    #[must_use]
    pub fn with_raw(mut self, event: &Recorded, masking: Masking) -> Self {
        let body = || mask::body(&event.payload, masking);
        self.raw = match (event.envelope.event_type, &event.envelope.request) {
            (EventType::WebhookReceived, Some(request)) => Some(json!({
                "method": request.method, "path": request.path, "signedAt": request.signed_at, "body": body(),
            })),
            (EventType::WebhookReceived | EventType::OrderFetched, _) => Some(json!({ "body": body() })),
            _ => None,
        };
        self
    }

    /// Adds the body for the backend, if the event has one.
    #[must_use]
    pub fn with_body(mut self, event: &Recorded, masking: Masking) -> Self {
        if event.envelope.event_type == EventType::OrderTransformed {
            self.body = Some(mask::body(&event.payload, masking));
        }
        self
    }
}

impl StepDetail {
    /// The result of an attempt, for comparison with the previous one; none if the event is no attempt.
    pub(super) fn answer(&self) -> Option<Value> {
        match self {
            Self::Failed { stage, error, .. } => Some(json!({ "stage": stage, "ended": "failed", "error": error })),
            Self::GivenUp { stage, error, .. } => Some(json!({ "stage": stage, "ended": "given up", "error": error })),
            Self::Forwarded {
                backend_status,
                order_id,
                ..
            } => Some(json!({
                "stage": "forward", "ended": "forwarded", "backendStatus": backend_status, "orderId": order_id,
            })),
            Self::StatusPushed {
                status,
                provider_status,
                ..
            } => Some(json!({
                "stage": "push", "ended": "told", "status": status, "providerStatus": provider_status,
            })),
            _ => None,
        }
    }
}
