//! An event as a NATS message: CloudEvents 1.0 in binary mode, the envelope in headers, the payload untouched.
//!
//! CloudEvents' own attributes are headers in both forms ([`Form`]); `ce-source` is `/providers/{provider}`. The rest of the
//! envelope is one header, `hub`; in the older form each part of it is a header of its own: `ce-rootid`, `ce-causeid`,
//! `ce-causesequence`, `ce-webhooktype`, `ce-branch`, `ce-principal` (without it, it is the provider's), `ce-requestid`,
//! `ce-receivedtime`, and `hub-request` with the HTTP request's facts as JSON. Both are read for ever.
//!
//! The older form does not store the `Idempotency-Key` of an order. It is written while the log may be used by instances that do
//! not know the key and forward each order under its event's id, and two instances that forward one order must use the same key.

use std::sync::Arc;

use async_nats::{HeaderMap, header::HeaderName};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    event::{Envelope, EventId, EventType, Principal, Recorded, RequestFacts},
    fault_injection,
};

mod hub;
mod order_key;
#[cfg(test)]
mod tests;
mod text;

pub use self::order_key::{OrderKey, partition};
use self::{
    hub::Unreadable,
    text::{escape, time_text, unescape},
};

/// The header by which JetStream recognises a repeat.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Longest subject token that is made of outside text.
const MAX_TOKEN_CHARS: usize = 64;
/// Longest name of an event type that another version may have: three times the longest of this one.
const MAX_TYPE_BYTES: usize = 64;
/// The token where a branch is not known.
const NO_BRANCH: &str = "_";

mod name {
    pub(super) const SPEC_VERSION: &str = "ce-specversion";
    pub(super) const ID: &str = "ce-id";
    pub(super) const SOURCE: &str = "ce-source";
    pub(super) const TYPE: &str = "ce-type";
    pub(super) const SUBJECT: &str = "ce-subject";
    pub(super) const TIME: &str = "ce-time";
    pub(super) const CONTENT_TYPE: &str = "content-type";
    pub(super) const ROOT_ID: &str = "ce-rootid";
    pub(super) const CAUSE_ID: &str = "ce-causeid";
    pub(super) const CAUSE_SEQUENCE: &str = "ce-causesequence";
    pub(super) const WEBHOOK_TYPE: &str = "ce-webhooktype";
    pub(super) const BRANCH: &str = "ce-branch";
    pub(super) const PRINCIPAL: &str = "ce-principal";
    pub(super) const RECEIVED_TIME: &str = "ce-receivedtime";
    pub(super) const REQUEST_ID: &str = "ce-requestid";
    pub(super) const TRACE_PARENT: &str = "traceparent";
    pub(super) const REQUEST: &str = "hub-request";
    pub(super) const HUB: &str = "hub";
}

const SOURCE_PREFIX: &str = "/providers/";

/// Why a message is no event of the hub.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A header that every event has is not there.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header cannot be read.
    #[error("header {0} cannot be read: {1}")]
    Malformed(&'static str, String),
    /// It is an event, of a newer version than this one.
    #[error("{0}")]
    Newer(Newer),
}

/// An event that only a newer version can read. An instance of this version leaves it to one of that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an event of a newer version: {what}")]
pub struct Newer {
    /// The part that this version does not know: a type of event, or a version of the envelope.
    pub what: String,
    /// The order that it is about, where that can be read.
    pub order: Option<OrderKey>,
}

/// The subject token of a partition: `p07`.
pub fn partition_token(partition: u16) -> String {
    format!("p{partition:02}")
}

/// Outside text as a subject token: only `[A-Za-z0-9_-]`, the rest becomes `_`.
pub fn token(text: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || c == '_' || c == '-' {
            c
        } else {
            '_'
        }
    };
    let token: String = text.chars().take(MAX_TOKEN_CHARS).map(safe).collect();
    if token.is_empty() { NO_BRANCH.to_owned() } else { token }
}

/// The subject of an event.
pub fn subject(envelope: &Envelope, partitions: u16) -> String {
    let root = envelope.event_type.subject_root();
    let provider = token(&envelope.provider);
    let partition = partition_token(partition(&envelope.provider, &envelope.external_order_id, partitions));
    match envelope.event_type {
        EventType::WebhookReceived => format!("{root}.{provider}.{partition}"),
        _ => format!(
            "{root}.{provider}.{}.{partition}",
            token(envelope.branch.as_deref().unwrap_or(NO_BRANCH))
        ),
    }
}

/// The subjects of an event, except a webhook, in any partition: `PARTITIONS` may have been changed since it was published.
pub fn subjects_in_any_partition(envelope: &Envelope) -> String {
    let (root, provider) = (envelope.event_type.subject_root(), token(&envelope.provider));
    format!(
        "{root}.{provider}.{}.*",
        token(envelope.branch.as_deref().unwrap_or(NO_BRANCH))
    )
}

/// The subject of an event of another type about the same order, made from the subject of one of its `orders.…` events:
/// in the same partition, whatever the number of partitions was when that one was published. None if it is no such
/// subject.
pub fn subject_beside(subject: &str, event_type: EventType) -> Option<String> {
    let mut tokens = subject.splitn(3, '.');
    let (Some("orders"), Some(_), Some(rest)) = (tokens.next(), tokens.next(), tokens.next()) else {
        return None;
    };
    // The rest must be provider, branch and partition.
    (rest.split('.').count() == 3).then(|| format!("{}.{rest}", event_type.subject_root()))
}

/// How an envelope is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A header for each part of it, as all versions can read it.
    Headers,
    /// CloudEvents' own attributes as headers, the rest in the one header `hub`. Versions from before it take such an event for
    /// garbage and give it up as a dead letter, so it is written only if none of them works on the log.
    Compact,
}

impl Form {
    /// Which of the two a message has.
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(HeaderName::from_static(name::HUB)) {
            Some(_) => Self::Compact,
            None => Self::Headers,
        }
    }
}

/// The envelope as headers, `Nats-Msg-Id` included.
///
/// # Errors
/// Only if the request's facts cannot be written as JSON, which does not happen.
pub fn headers(envelope: &Envelope, form: Form) -> serde_json::Result<HeaderMap> {
    let id = envelope.id.to_string();
    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| headers.insert(HeaderName::from_static(name), value);
    set(name::SPEC_VERSION, "1.0".into());
    set(name::SOURCE, format!("{SOURCE_PREFIX}{}", envelope.provider));
    set(name::TYPE, envelope.event_type.as_str().into());
    set(name::SUBJECT, escape(&envelope.external_order_id));
    set(name::TIME, time_text(envelope.time));
    set(name::CONTENT_TYPE, "application/json".into());
    if let Some(trace) = &envelope.traceparent {
        set(name::TRACE_PARENT, escape(trace));
    }
    match form {
        Form::Compact => set(name::HUB, hub::write(envelope)?),
        Form::Headers => set_each(envelope, &mut set)?,
    }
    set(MESSAGE_ID, id.clone());
    set(name::ID, id);
    Ok(headers)
}

/// The rest of the envelope in the older form.
fn set_each(envelope: &Envelope, set: &mut impl FnMut(&'static str, String)) -> serde_json::Result<()> {
    set(name::ROOT_ID, envelope.root_id.to_string());
    set(name::WEBHOOK_TYPE, escape(&envelope.webhook_type));
    set(name::REQUEST_ID, escape(&envelope.request_id));
    if envelope.received_at != envelope.time {
        set(name::RECEIVED_TIME, time_text(envelope.received_at));
    }
    if let Some(cause) = envelope.cause_id {
        set(name::CAUSE_ID, cause.to_string());
    }
    if let Some(sequence) = envelope.cause_sequence {
        set(name::CAUSE_SEQUENCE, sequence.to_string());
    }
    if let Some(branch) = &envelope.branch {
        set(name::BRANCH, escape(branch));
    }
    if let Some(principal) = envelope.principal.to_record() {
        set(name::PRINCIPAL, escape(&principal));
    }
    if let Some(request) = &envelope.request {
        set(name::REQUEST, serde_json::to_string(request)?);
    }
    Ok(())
}

/// The headers that an event may have. Each is read once: a look-up by name costs a hash and, for most of them, an
/// allocation.
#[derive(Default)]
struct EventHeaders<'a> {
    spec_version: Option<&'a str>,
    id: Option<&'a str>,
    source: Option<&'a str>,
    event_type: Option<&'a str>,
    subject: Option<&'a str>,
    time: Option<&'a str>,
    trace_parent: Option<&'a str>,
    hub: Option<&'a str>,
    root_id: Option<&'a str>,
    cause_id: Option<&'a str>,
    cause_sequence: Option<&'a str>,
    webhook_type: Option<&'a str>,
    branch: Option<&'a str>,
    principal: Option<&'a str>,
    received_time: Option<&'a str>,
    request_id: Option<&'a str>,
    request: Option<&'a str>,
}

impl<'a> EventHeaders<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut found = Self::default();
        for (header, values) in headers.iter() {
            let place = match header.as_ref() {
                name::SPEC_VERSION => &mut found.spec_version,
                name::ID => &mut found.id,
                name::SOURCE => &mut found.source,
                name::TYPE => &mut found.event_type,
                name::SUBJECT => &mut found.subject,
                name::TIME => &mut found.time,
                name::TRACE_PARENT => &mut found.trace_parent,
                name::HUB => &mut found.hub,
                name::ROOT_ID => &mut found.root_id,
                name::CAUSE_ID => &mut found.cause_id,
                name::CAUSE_SEQUENCE => &mut found.cause_sequence,
                name::WEBHOOK_TYPE => &mut found.webhook_type,
                name::BRANCH => &mut found.branch,
                name::PRINCIPAL => &mut found.principal,
                name::RECEIVED_TIME => &mut found.received_time,
                name::REQUEST_ID => &mut found.request_id,
                name::REQUEST => &mut found.request,
                _ => continue,
            };
            *place = values.first().map(|value| value.as_str());
        }
        found
    }

    /// The recorded principal of the webhook.
    fn principal(&self, rest: &Result<Rest, Unfit>) -> Option<String> {
        match rest {
            Ok(rest) => rest.principal.clone(),
            Err(Unfit::Newer { principal, .. }) => principal.clone(),
            Err(Unfit::Error(_)) => self.principal.map(unescape),
        }
    }

    /// The parts that are no attributes of CloudEvents, in either form. `id` is the event's own.
    fn rest(&self, id: Option<EventId>) -> Result<Rest, Unfit> {
        let Some(value) = self.hub else {
            return self.rest_of_each().map_err(Unfit::Error);
        };
        let read = hub::read(value).map_err(|error| match error {
            Unreadable::Newer { version, principal } => Unfit::Newer { version, principal },
            Unreadable::Malformed(what) => Unfit::Error(CodecError::Malformed(name::HUB, what)),
        })?;
        Ok(Rest {
            root_id: read.root_id.or(id).ok_or(Unfit::Error(CodecError::Missing(name::ID)))?,
            cause_id: read.cause_id,
            cause_sequence: read.cause_sequence,
            webhook_type: read.webhook_type,
            branch: read.branch,
            principal: read.principal,
            received_at: read.received_time,
            request_id: read.request_id,
            request: read.request,
            idempotency_key: read.idempotency_key,
        })
    }

    fn rest_of_each(&self) -> Result<Rest, CodecError> {
        let request = self.request.map(serde_json::from_str).transpose();
        Ok(Rest {
            root_id: id(name::ROOT_ID, need(name::ROOT_ID, self.root_id)?)?,
            cause_id: self.cause_id.map(|text| id(name::CAUSE_ID, text)).transpose()?,
            // An invalid value loses no event: without it the event is matched by its cause's id, like events of older versions.
            cause_sequence: self.cause_sequence.and_then(|text| text.parse().ok()),
            webhook_type: self.webhook_type.map(unescape).unwrap_or_default(),
            branch: self.branch.map(unescape),
            principal: self.principal.map(unescape),
            received_at: self
                .received_time
                .map(|text| time(name::RECEIVED_TIME, text))
                .transpose()?,
            request_id: self.request_id.map(unescape).unwrap_or_default(),
            request: request.map_err(|error| CodecError::Malformed(name::REQUEST, error.to_string()))?,
            idempotency_key: None,
        })
    }
}

/// The envelope without CloudEvents' own attributes.
struct Rest {
    root_id: EventId,
    cause_id: Option<EventId>,
    cause_sequence: Option<u64>,
    webhook_type: String,
    branch: Option<String>,
    principal: Option<String>,
    received_at: Option<DateTime<Utc>>,
    request_id: String,
    request: Option<RequestFacts>,
    idempotency_key: Option<Uuid>,
}

/// Why that cannot be read.
enum Unfit {
    /// A later version wrote it.
    Newer {
        version: u32,
        principal: Option<String>,
    },
    Error(CodecError),
}

fn need<'a>(name: &'static str, found: Option<&'a str>) -> Result<&'a str, CodecError> {
    found.ok_or(CodecError::Missing(name))
}

fn id(name: &'static str, text: &str) -> Result<EventId, CodecError> {
    text.parse()
        .map_err(|error: uuid::Error| CodecError::Malformed(name, error.to_string()))
}

fn time(name: &'static str, text: &str) -> Result<DateTime<Utc>, CodecError> {
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.with_timezone(&Utc)),
        Err(error) => Err(CodecError::Malformed(name, error.to_string())),
    }
}

/// Reads an event back, in either form.
///
/// # Errors
/// If it is no event of the hub; the reader must record that (see [`crate::delivery::stage`]).
pub fn decode(headers: Option<&HeaderMap>, payload: Bytes, sequence: u64) -> Result<Recorded, CodecError> {
    let found = headers.map(EventHeaders::of).unwrap_or_default();
    let own_id = need(name::ID, found.id).and_then(|text| id(name::ID, text));
    let rest = found.rest(own_id.as_ref().ok().copied());
    let principal = Principal::recorded(found.principal(&rest).as_deref());
    let newer = |what: String| {
        let provider = found.source.and_then(|source| source.strip_prefix(SOURCE_PREFIX));
        let order = provider.zip(found.subject);
        let order =
            order.map(|(provider, order)| OrderKey::of_principal(provider, &unescape(order), principal.as_ref()));
        CodecError::Newer(Newer { what, order })
    };
    if let Some(version) = found.spec_version.filter(|version| is_newer_envelope(version)) {
        return Err(newer(format!("envelope {version}")));
    }
    let type_name = need(name::TYPE, found.event_type)?;
    let event_type = type_name
        .parse()
        .ok()
        .filter(|_| !fault_injection::is_unknown(type_name));
    if event_type.is_none() && !is_type_name(type_name) {
        return Err(CodecError::Malformed(name::TYPE, "no event type".into()));
    }
    let provider = need(name::SOURCE, found.source)?
        .strip_prefix(SOURCE_PREFIX)
        .ok_or_else(|| CodecError::Malformed(name::SOURCE, format!("does not begin with {SOURCE_PREFIX}")))?;
    let happened_at = time(name::TIME, need(name::TIME, found.time)?)?;
    let (own_id, external_order_id) = (own_id?, unescape(need(name::SUBJECT, found.subject)?));
    let rest = match rest {
        Ok(rest) => rest,
        Err(Unfit::Newer { version, .. }) => return Err(newer(format!("header hub {version}"))),
        Err(Unfit::Error(error)) => return Err(error),
    };
    // Everything that all versions write is valid, so the message is an event, of a newer version.
    let event_type = event_type.ok_or_else(|| newer(format!("type {type_name}")))?;
    let principal = principal.clone().ok_or_else(|| newer("principal".into()))?;
    let envelope = Envelope {
        id: own_id,
        event_type,
        root_id: rest.root_id,
        cause_id: rest.cause_id,
        cause_sequence: rest.cause_sequence,
        provider: Arc::from(provider),
        external_order_id,
        webhook_type: rest.webhook_type,
        branch: rest.branch,
        principal,
        time: happened_at,
        received_at: rest.received_at.unwrap_or(happened_at),
        request_id: rest.request_id,
        traceparent: found.trace_parent.map(unescape),
        request: rest.request,
        idempotency_key: rest.idempotency_key,
    };
    Ok(Recorded {
        envelope,
        payload,
        sequence,
        run: None,
        is_again: false,
    })
}

/// Whether a `ce-specversion` is one that this version cannot read: another major one. What is no version at all is garbage,
/// which the other headers show.
fn is_newer_envelope(version: &str) -> bool {
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    major.is_some_and(|major| major > 1)
}

/// Whether a text has the form of an event type, as every version writes it: `order.transformed`.
fn is_type_name(text: &str) -> bool {
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    text.len() <= MAX_TYPE_BYTES && text.contains('.') && text.split('.').all(is_word)
}
