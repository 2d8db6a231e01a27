//! The events of the log: their types, ids and envelope. No I/O.
//!
//! [`crate::journal::codec`] turns an [`Envelope`] into NATS headers; each stage defines what a payload means to it. The
//! payloads that more than one module reads are in [`outcome`].

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod body_hash;
pub mod branch;
mod event_type;
pub mod operator;
pub mod outcome;
pub mod principal;
pub mod push;
mod secret_use;
pub mod stage;

pub use self::{
    body_hash::BodyHash,
    event_type::{EventType, UnknownEventType},
    principal::{NotYours, Principal},
    secret_use::{SecretOrigin, SecretUse},
};

/// Namespace of every id that the hub derives (a random UUID, fixed for ever: changing it changes every id).
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0b_54f8_3c1e_4c0e_9d6b_8f2a_52e1_7a40);

/// `webhookType` of what creates an order.
pub const ORDER_CREATED: &str = "order_created";
/// `webhookType` of what calls an order off.
pub const ORDER_CANCELLED: &str = "order_cancelled";
/// `webhookType` of what changes the lines or amounts of an order.
pub const ORDER_AMENDED: &str = "order_amended";

/// Identity of an event: the `ce-id`, and the `Nats-Msg-Id` by which JetStream recognises a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventId(pub Uuid);

impl EventId {
    /// The id of a webhook, from what makes it the same webhook when a provider sends it again.
    /// Each part is length-prefixed, so that no two different lists of parts can read alike.
    pub fn of_webhook(provider: &str, parts: &[&[u8]]) -> Self {
        let mut name = Vec::with_capacity(64 + parts.iter().map(|part| part.len() + 8).sum::<usize>());
        for part in std::iter::once(provider.as_bytes()).chain(parts.iter().copied()) {
            name.extend_from_slice(&(part.len() as u64).to_be_bytes());
            name.extend_from_slice(part);
        }
        Self(Uuid::new_v5(&NAMESPACE, &name))
    }

    /// The id of an event that follows from this one. The same parent and label always give the same id, so a stage
    /// that runs twice after a crash cannot record a second outcome.
    pub fn derive(self, label: &str) -> Self {
        Self(Uuid::new_v5(&self.0, label.as_bytes()))
    }

    /// The id for an event at this place of the log when an earlier event has its own id.
    #[must_use]
    pub fn at(self, sequence: u64) -> Self {
        self.derive(&format!("@{sequence}"))
    }

    /// The id that stands in for an event whose own could not be read, from its place in the stream.
    pub fn of_unreadable(stream_sequence: u64) -> Self {
        Self(Uuid::new_v5(
            &NAMESPACE,
            format!("unreadable:{stream_sequence}").as_bytes(),
        ))
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for EventId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// The attributes of an event beside its payload; on the wire, the headers of the message.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    /// This event.
    pub id: EventId,
    /// The type.
    pub event_type: EventType,
    /// The webhook that all of this began with; its own id for `webhook.received`.
    pub root_id: EventId,
    /// The event that it followed from; none for `webhook.received`.
    pub cause_id: Option<EventId>,
    /// Place on the log of the event that was handled when this one was made. It tells acceptances of one webhook apart, which
    /// share their id. None for what followed from nothing, and on events of older versions.
    pub cause_sequence: Option<u64>,
    /// The provider's name (`careem`).
    pub provider: Arc<str>,
    /// The provider's order id (`ce-subject`).
    pub external_order_id: String,
    /// The type of the webhook: `order_created`, `order_cancelled` …
    pub webhook_type: String,
    /// The restaurant's branch, once it is known.
    pub branch: Option<String>,
    /// The principal of the webhook that all of this began with; every event that follows has the same.
    pub principal: Principal,
    /// When it happened, by the clock of the hub that recorded it; milliseconds count.
    pub time: DateTime<Utc>,
    /// When the webhook that all of this began with was accepted.
    pub received_at: DateTime<Utc>,
    /// `X-Request-Id` of the webhook, so that a log line, a table row and the provider's own log can be held together.
    pub request_id: String,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The HTTP request; only on `webhook.received`.
    pub request: Option<RequestFacts>,
    /// The `Idempotency-Key` of the new order, or of the change of one (see [`crate::order::idempotency`]); only on `order.transformed`. None
    /// if the id is the key: for an order without a time, for an event in the form that older versions read, and for changes that they
    /// recorded.
    pub idempotency_key: Option<Uuid>,
}

impl Envelope {
    /// The `Idempotency-Key` of the request that posts this event unchanged.
    pub fn request_key(&self) -> Uuid {
        self.idempotency_key.unwrap_or(self.id.0)
    }

    /// The branch, or the provider where none is known: what requests are counted and shared by.
    pub fn branch_or_provider(&self) -> &str {
        self.branch.as_deref().unwrap_or(&self.provider)
    }

    /// Whether it is about a new order, not about a change of one.
    pub fn is_creation(&self) -> bool {
        self.webhook_type == ORDER_CREATED
    }

    /// Whether its webhook says that an order is called off. A change of status may say the same in its body.
    pub fn is_cancellation(&self) -> bool {
        self.webhook_type == ORDER_CANCELLED
    }

    /// Whether it is about other lines or amounts of an order.
    pub fn is_amendment(&self) -> bool {
        self.webhook_type == ORDER_AMENDED
    }
}

/// The facts of the request that brought a webhook, less every credential.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestFacts {
    /// HTTP method, always `POST` today.
    pub method: String,
    /// Path as requested.
    pub path: String,
    /// The client's address, as far as trusted proxies vouch for it.
    pub client_address: String,
    /// The signature scheme that matched, e.g. `hmac-sha256`.
    pub scheme: String,
    /// Which of the configured secrets matched. It shows when an old one is no longer used.
    #[serde(default)]
    pub secrets: Vec<SecretUse>,
    /// When the provider signed it, where it says so under its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_at: Option<DateTime<Utc>>,
    /// The signature, where it is bound to the body and so is no credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
    /// Sequence of the webhook itself; only on requests to fetch an order, and on fetched documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_sequence: Option<u64>,
    /// The hash of the body; only on webhooks. Earlier versions neither wrote nor read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_sha256: Option<BodyHash>,
    /// Request headers as a JSON object, credentials left out.
    pub headers: serde_json::Map<String, serde_json::Value>,
    /// How the webhook came, where its provider did not send it with a proof. Earlier versions ignore it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<WebhookOrigin>,
}

/// How a webhook came onto the log, other than by a request that was proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookOrigin {
    /// The provider's list of orders has the order, and the log did not: the hub made the webhook of that
    /// ([`crate::reconcile`]).
    Reconciled,
    /// Its signature does not match, and is only observed for a while ([`crate::verification::observe()`]).
    Observed,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// An event that is to be appended.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What is said about it.
    pub envelope: Envelope,
    /// Its payload; for `webhook.received` the request body, byte for byte.
    pub payload: Bytes,
}

impl NewEvent {
    /// An event with a payload of the hub, as JSON.
    pub fn new(envelope: Envelope, payload: &impl Serialize) -> Self {
        let payload = serde_json::to_vec(payload).expect("payloads of ours have only string keys and finite numbers");
        Self {
            envelope,
            payload: Bytes::from(payload),
        }
    }
}

/// An event that is on the log.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// What is said about it.
    pub envelope: Envelope,
    /// Its payload.
    pub payload: Bytes,
    /// Its place in the stream `EVENTS`, from 1.
    pub sequence: u64,
    /// For a retry: the id of the retry request. What follows is recorded under it, so a retry
    /// has outcomes of its own.
    pub run: Option<EventId>,
    /// For a retry: the person wants it sent although the backend has it (see [`outcome::RetryRequested::again`]).
    pub is_again: bool,
}

impl Recorded {
    /// Where the webhook of an event stands on the log, as far as the event says: its own place, or that of the event from which it followed. Two bodies
    /// may stand there in another order than their webhooks were accepted, for what two secrets proved is transformed side by side.
    pub fn accepted_at(&self) -> u64 {
        self.envelope
            .cause_sequence
            .map_or(self.sequence, |cause| cause.min(self.sequence))
    }

    /// A webhook as it would stand on the log, of which no more is known than this: for trying what becomes of it.
    pub fn sample(provider: &str, order_id: &str, webhook_type: &str, body: &[u8], time: DateTime<Utc>) -> Self {
        let id = EventId::of_webhook(provider, &[body]);
        Self {
            envelope: Envelope {
                id,
                event_type: EventType::WebhookReceived,
                root_id: id,
                cause_id: None,
                cause_sequence: None,
                provider: Arc::from(provider),
                external_order_id: order_id.to_owned(),
                webhook_type: webhook_type.to_owned(),
                branch: None,
                principal: Principal::of_backend(),
                time,
                received_at: time,
                request_id: "REQUEST".into(),
                traceparent: None,
                request: Some(RequestFacts {
                    method: "POST".into(),
                    path: format!("/api/webhooks/{provider}"),
                    ..RequestFacts::default()
                }),
                idempotency_key: None,
            },
            payload: Bytes::copy_from_slice(body),
            sequence: 1,
            run: None,
            is_again: false,
        }
    }

    /// The id under which what follows from it is recorded: its own, or that of the request to take it up again.
    pub fn run_id(&self) -> EventId {
        self.run.unwrap_or(self.envelope.id)
    }

    /// The envelope of an event that follows from it; `label` makes its id (see [`EventId::derive`]). A webhook that is accepted
    /// again, after the log forgot it, has the id that it had before; so what follows from one that nothing went before has the
    /// place on the log in its id as well, and what is accepted anew ends anew.
    pub fn follow(&self, label: &str, event_type: EventType, time: DateTime<Utc>) -> Envelope {
        let run = self.run_id();
        let id = run.derive(label);
        Envelope {
            id: if run == self.envelope.root_id {
                id.at(self.sequence)
            } else {
                id
            },
            event_type,
            root_id: self.envelope.root_id,
            cause_id: Some(run),
            cause_sequence: Some(self.sequence),
            time,
            request: None,
            idempotency_key: None,
            ..self.envelope.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_every_part_and_on_their_borders() {
        let id = |parts: &[&[u8]]| EventId::of_webhook("careem", parts);
        assert_eq!(id(&[b"a", b"b"]), id(&[b"a", b"b"]));
        assert_ne!(id(&[b"ab", b""]), id(&[b"a", b"b"]));
        assert_ne!(id(&[b"a", b"b"]), EventId::of_webhook("talabat", &[b"a", b"b"]));
        assert_ne!(id(&[b"a"]).derive("x"), id(&[b"a"]).derive("y"));
    }
}
