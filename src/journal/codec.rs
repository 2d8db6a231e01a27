//! An event as a NATS message: CloudEvents 1.0 in binary mode, the envelope in headers, the payload untouched.
//!
//! `ce-source` is `/providers/{provider}`; `ce-rootid`, `ce-causeid`, `ce-causesequence`, `ce-webhooktype`, `ce-branch`, `ce-principal`, `ce-requestid` and `ce-receivedtime`
//! are extension attributes; without `ce-principal` it is the provider's; `hub-request` holds the HTTP request's facts as JSON.

use std::{fmt, sync::Arc};

use async_nats::{HeaderMap, header::HeaderName};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use sha2::{Digest, Sha256};

use crate::{
    event::{Envelope, EventId, EventType, Recorded, push::is_of_backend},
    fault_injection,
    verification::Principal,
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
}

const SOURCE_PREFIX: &str = "/providers/";

/// Why a message is no event of ours.
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
    /// What this version does not know: a type of event, or a version of the envelope.
    pub what: String,
    /// The order that it is about, where that can be read.
    pub order: Option<OrderKey>,
}

/// Which line an event stands in: the head of a hash of provider and order id, so that an order has a short name of one length
/// that is safe in a subject. What was proven by a branch's secret has lines of its own, with the branch in the hash: it neither
/// waits for another branch's order of the same number nor holds it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderKey([u8; 16]);

impl OrderKey {
    /// Of this order.
    pub fn new(provider: &str, external_order_id: &str) -> Self {
        let digest = Sha256::new()
            .chain_update(provider)
            .chain_update([0])
            .chain_update(external_order_id)
            .finalize();
        Self(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Of the order that an event is about, as far as its principal reaches.
    pub fn of(event: &Recorded) -> Self {
        let envelope = &event.envelope;
        // What the provider is told, and what it says of it, is the backend's business: one line, whoever proved the order.
        let is_of_backend = is_of_backend(envelope) || envelope.event_type == EventType::MenuSyncReported;
        let principal = Some(&envelope.principal).filter(|_| !is_of_backend);
        Self::of_principal(&envelope.provider, &envelope.external_order_id, principal)
    }

    fn of_principal(provider: &str, external_order_id: &str, principal: Option<&Principal>) -> Self {
        let Some(branch) = principal.and_then(Principal::branch) else {
            return Self::new(provider, external_order_id);
        };
        // No order id holds a NUL, so this is no other order's hash.
        let digest = Sha256::new()
            .chain_update(provider)
            .chain_update([0])
            .chain_update(external_order_id)
            .chain_update([0])
            .chain_update(&**branch)
            .finalize();
        Self(digest[..16].try_into().expect("SHA-256 has 32 bytes"))
    }

    /// Reads the text form back.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(hex::decode(text).ok()?.try_into().ok()?))
    }

    /// Its first 64 bits.
    pub(super) fn head(self) -> u64 {
        self.0.iter().take(8).fold(0, |head, byte| head << 8 | u64::from(*byte))
    }

    /// Its partition: the same for all its events, stable for ever for a given number of partitions.
    pub fn partition(self, partitions: u16) -> u16 {
        u16::try_from(self.head() % u64::from(partitions.max(1))).expect("less than the number of partitions")
    }
}

impl fmt::Display for OrderKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// The partition of an order, see [`OrderKey::partition`].
pub fn partition(provider: &str, external_order_id: &str, partitions: u16) -> u16 {
    OrderKey::new(provider, external_order_id).partition(partitions)
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

/// Where an event is published.
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

/// The subject of an event of another type about the same order, made from the subject of one of its `orders.…` events:
/// in the same partition, whatever the number of partitions was when that one was published. None where it is no such
/// subject.
pub fn subject_beside(subject: &str, event_type: EventType) -> Option<String> {
    let mut tokens = subject.splitn(3, '.');
    let (Some("orders"), Some(_), Some(rest)) = (tokens.next(), tokens.next(), tokens.next()) else {
        return None;
    };
    // Provider, branch and partition.
    (rest.split('.').count() == 3).then(|| format!("{}.{rest}", event_type.subject_root()))
}

/// The envelope as headers, `Nats-Msg-Id` included.
///
/// # Errors
/// Only where the request's facts have no JSON, which cannot happen with ours.
pub fn headers(envelope: &Envelope) -> serde_json::Result<HeaderMap> {
    let id = envelope.id.to_string();
    let mut headers = HeaderMap::new();
    let mut set = |name, value: String| headers.insert(HeaderName::from_static(name), value);
    set(name::SPEC_VERSION, "1.0".into());
    set(name::SOURCE, format!("{SOURCE_PREFIX}{}", envelope.provider));
    set(name::TYPE, envelope.event_type.as_str().into());
    set(name::SUBJECT, escape(&envelope.external_order_id));
    set(name::TIME, time_text(envelope.time));
    set(name::CONTENT_TYPE, "application/json".into());
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
    if let Some(trace) = &envelope.traceparent {
        set(name::TRACE_PARENT, escape(trace));
    }
    if let Some(request) = &envelope.request {
        set(name::REQUEST, serde_json::to_string(request)?);
    }
    set(MESSAGE_ID, id.clone());
    set(name::ID, id);
    Ok(headers)
}

/// Reads an event back.
///
/// # Errors
/// Where it is none of ours; whoever reads it must record that (see [`super::stage`]).
pub fn decode(headers: Option<&HeaderMap>, payload: Bytes, sequence: u64) -> Result<Recorded, CodecError> {
    let get = |name: &'static str| {
        headers
            .and_then(|headers| headers.get(name))
            .map(|value| value.as_str())
    };
    let need = |name: &'static str| get(name).ok_or(CodecError::Missing(name));
    let id = |name: &'static str, text: &str| {
        text.parse::<EventId>()
            .map_err(|error| CodecError::Malformed(name, error.to_string()))
    };
    let principal_text = get(name::PRINCIPAL).map(unescape);
    let principal = Principal::recorded(principal_text.as_deref());
    let newer = |what: String| {
        let provider = get(name::SOURCE).and_then(|source| source.strip_prefix(SOURCE_PREFIX));
        let order = provider.zip(get(name::SUBJECT));
        let order =
            order.map(|(provider, order)| OrderKey::of_principal(provider, &unescape(order), principal.as_ref()));
        CodecError::Newer(Newer { what, order })
    };
    if let Some(version) = get(name::SPEC_VERSION).filter(|version| is_newer_envelope(version)) {
        return Err(newer(format!("envelope {version}")));
    }
    let type_name = need(name::TYPE)?;
    let event_type = type_name
        .parse()
        .ok()
        .filter(|_| !fault_injection::is_unknown(type_name));
    if event_type.is_none() && !is_type_name(type_name) {
        return Err(CodecError::Malformed(name::TYPE, "no event type".into()));
    }
    let provider = need(name::SOURCE)?
        .strip_prefix(SOURCE_PREFIX)
        .ok_or_else(|| CodecError::Malformed(name::SOURCE, format!("does not begin with {SOURCE_PREFIX}")))?;
    let time = |name: &'static str, text: &str| match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(time.with_timezone(&Utc)),
        Err(error) => Err(CodecError::Malformed(name, error.to_string())),
    };
    let happened_at = time(name::TIME, need(name::TIME)?)?;
    let received_at = get(name::RECEIVED_TIME)
        .map(|text| time(name::RECEIVED_TIME, text))
        .transpose()?;
    let request = get(name::REQUEST)
        .map(serde_json::from_str)
        .transpose()
        .map_err(|error| CodecError::Malformed(name::REQUEST, error.to_string()))?;
    let (own_id, root_id) = (id(name::ID, need(name::ID)?)?, id(name::ROOT_ID, need(name::ROOT_ID)?)?);
    let external_order_id = unescape(need(name::SUBJECT)?);
    // All else is as every version writes it, so it is an event.
    let event_type = event_type.ok_or_else(|| newer(format!("type {type_name}")))?;
    let principal = principal.clone().ok_or_else(|| newer("principal".into()))?;
    let envelope = Envelope {
        id: own_id,
        event_type,
        root_id,
        cause_id: get(name::CAUSE_ID).map(|text| id(name::CAUSE_ID, text)).transpose()?,
        // No event is lost over it: without it an event is matched by its cause's id, as those of older versions are.
        cause_sequence: get(name::CAUSE_SEQUENCE).and_then(|text| text.parse().ok()),
        provider: Arc::from(provider),
        external_order_id,
        webhook_type: get(name::WEBHOOK_TYPE).map(unescape).unwrap_or_default(),
        branch: get(name::BRANCH).map(unescape),
        principal,
        time: happened_at,
        received_at: received_at.unwrap_or(happened_at),
        request_id: get(name::REQUEST_ID).map(unescape).unwrap_or_default(),
        traceparent: get(name::TRACE_PARENT).map(unescape),
        request,
    };
    Ok(Recorded {
        envelope,
        payload,
        sequence,
        run: None,
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

/// Milliseconds, as the database keeps them.
fn time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Percent-encodes what the CloudEvents HTTP binding (3.1.3.2) does not allow in a header value as it is.
fn escape(text: &str) -> String {
    let plain = |byte: u8| (0x21..=0x7e).contains(&byte) && byte != b'"' && byte != b'%';
    if text.bytes().all(plain) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if plain(byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push('%');
            escaped.push_str(&hex::encode_upper([byte]));
        }
    }
    escaped
}

fn unescape(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let (bytes, mut plain, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let decoded = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|pair| hex::decode(pair).ok());
        match decoded {
            Some(decoded) => {
                plain.extend_from_slice(&decoded);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope(order: &str, branch: Option<String>) -> Envelope {
        let time = DateTime::from_timestamp_millis(1_759_320_000_123).unwrap();
        Envelope {
            branch,
            cause_sequence: Some(41),
            received_at: DateTime::from_timestamp_millis(1_759_320_000_001).unwrap(),
            ..Recorded::sample("careem", order, "order_created", order.as_bytes(), time).envelope
        }
    }

    /// The partition of an order may never change while it has events on the log.
    #[test]
    fn partitions_are_stable() {
        let of = |order: &str| partition("careem", order, 64);
        assert_eq!((of("CR123456789"), of("CR1"), of("")), (38, 13, 36));
        assert_eq!(partition("careem", "CR1", 1), 0);
        let key = OrderKey::new("careem", "CR1");
        assert_eq!(OrderKey::parse(&key.to_string()), Some(key));
    }

    #[test]
    fn a_branchs_secret_has_lines_of_its_own() {
        let by = |principal: Option<&str>, event_type, webhook_type: &str| {
            let mut envelope = envelope("CR1", None);
            envelope.principal = Principal::recorded(principal).unwrap();
            (envelope.event_type, envelope.webhook_type) = (event_type, webhook_type.to_owned());
            let (headers, payload) = (headers(&envelope).unwrap(), Bytes::new());
            OrderKey::of(&decode(Some(&headers), payload, 1).unwrap())
        };
        let received = |principal| by(principal, EventType::WebhookReceived, "order_created");
        let (plain, a, b) = (received(None), received(Some("branch:a")), received(Some("branch:b")));
        assert_eq!(plain, OrderKey::new("careem", "CR1"));
        assert!(plain != a && plain != b && a != b);
        assert_eq!(by(Some("branch:a"), EventType::OrderFetched, "order_created"), a);
        // What goes to the provider has one line.
        let accepted = by(Some("branch:a"), EventType::OrderStatusRequested, "status_request");
        let given_up = by(Some("branch:a"), EventType::OrderDeadLettered, "status_request");
        assert_eq!((accepted, given_up), (plain, plain));
        assert_eq!(by(Some("branch:a"), EventType::MenuSyncReported, "ignored"), plain);
    }

    #[test]
    fn a_principal_of_a_later_version_is_left_to_it() {
        let mut headers = headers(&envelope("CR1", None)).unwrap();
        headers.insert(name::PRINCIPAL, "company:c-1");
        let left = decode(Some(&headers), Bytes::new(), 1);
        assert!(matches!(left, Err(CodecError::Newer(_))), "{left:?}");
    }

    #[test]
    fn subjects_hold_only_safe_tokens() {
        let mut event = envelope("CR1", Some("main branch.>*é".into()));
        assert_eq!(subject(&event, 64), "webhooks.received.careem.p13");
        event.event_type = EventType::OrderForwarded;
        assert_eq!(subject(&event, 64), "orders.forwarded.careem.main_branch____.p13");
        event.branch = None;
        assert_eq!(subject(&event, 64), "orders.forwarded.careem._.p13");
    }

    #[test]
    fn subjects_beside_another_keep_its_partition() {
        let beside = |subject: &str| subject_beside(subject, EventType::OrderRetryRequested);
        assert_eq!(
            beside("orders.dead_lettered.careem.main.p99").as_deref(),
            Some("orders.retry_requested.careem.main.p99")
        );
        for other in [
            "webhooks.received.careem.p13",
            "orders.dead_lettered",
            "orders.dead_lettered.careem.p13",
        ] {
            assert_eq!(beside(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn reads_back(
            order in "\\PC{1,40}", branch in proptest::option::of("\\PC{1,40}"), of in proptest::option::of("\\PC{1,40}"),
            payload in prop::collection::vec(any::<u8>(), 0..50),
        ) {
            let principal = Principal::recorded(of.map(|of| format!("branch:{of}")).as_deref()).unwrap();
            let event = Envelope { principal, ..envelope(&order, branch) };
            let headers = headers(&event).unwrap();
            for (_, values) in headers.iter() {
                prop_assert!(values.iter().all(|value| !value.as_str().contains(['\r', '\n'])));
            }
            let back = decode(Some(&headers), Bytes::from(payload.clone()), 7).unwrap();
            prop_assert_eq!(back.envelope, event);
            prop_assert_eq!(&back.payload[..], &payload[..]);
        }

        /// What another version writes beside what this one knows makes it neither unreadable nor newer.
        #[test]
        fn only_type_and_envelope_version_are_of_a_newer_version(kind in "[a-z_]{1,12}\\.[a-z_]{1,12}", order in "\\PC{1,20}") {
            prop_assume!(kind.parse::<EventType>().is_err());
            let event = envelope(&order, None);
            let mut headers = headers(&event).unwrap();
            headers.insert("ce-addedlater", "x");
            prop_assert!(decode(Some(&headers), Bytes::new(), 1).is_ok());
            headers.insert(name::TYPE, kind.as_str());
            let key = Some(OrderKey::new("careem", &order));
            for version in ["1.0", "2.0"] {
                headers.insert(name::SPEC_VERSION, version);
                match decode(Some(&headers), Bytes::new(), 1) {
                    Err(CodecError::Newer(newer)) => prop_assert_eq!(newer.order, key),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            headers.insert(name::SPEC_VERSION, "1.0");
            headers.insert(name::TYPE, "Order Eaten");
            prop_assert!(matches!(decode(Some(&headers), Bytes::new(), 1), Err(CodecError::Malformed(..))));
        }

        #[test]
        fn never_panics(name in "ce-(id|type|source|time)", value in "\\PC{0,30}") {
            let mut headers = headers(&envelope("CR1", None)).unwrap();
            headers.insert(name.as_str(), value.as_str());
            let _ = decode(Some(&headers), Bytes::new(), 1);
        }
    }
}
