//! A request before and after it was verified.

use axum::http::{HeaderMap, Method, Uri};
use chrono::{DateTime, Utc};

use crate::event::{EventId, SecretUse, principal::Principal};

/// A request that is not verified yet.
#[derive(Debug, Clone, Copy)]
pub struct Unverified<'a> {
    method: &'a Method,
    public_url: Option<&'a str>,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl<'a> Unverified<'a> {
    /// A request as it came in, its body decompressed and otherwise byte for byte. `public_url` is the base under which
    /// the provider knows the hub (`https://hooks.example.com`), where that is known.
    pub const fn new(
        method: &'a Method,
        public_url: Option<&'a str>,
        uri: &'a Uri,
        headers: &'a HeaderMap,
        body: &'a [u8],
    ) -> Self {
        Self {
            method,
            public_url,
            uri,
            headers,
            body,
        }
    }

    /// The method.
    pub const fn method(&self) -> &'a Method {
        self.method
    }

    /// The URL as the provider called it; none if PUBLIC_URL is not set.
    pub fn url(&self) -> Option<String> {
        Some(format!("{}{}", self.public_url?, self.path_and_query()))
    }

    /// Path and query, as they were sent.
    pub fn path_and_query(&self) -> &'a str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// The URL's query, without its question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.uri.query()
    }

    /// The path, without a query.
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// Request headers.
    pub const fn headers(&self) -> &'a HeaderMap {
        self.headers
    }

    /// Raw bytes.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }
}

/// The part of the body that a signature covers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Covers {
    /// Nothing: a token says who calls, and that caller may say anything.
    #[default]
    Nothing,
    /// Fields of it, as they were signed. Anybody may change the rest.
    Fields(Vec<u8>),
    /// Every byte.
    Body,
}

impl Covers {
    /// The part that two signatures cover together.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Body, _) | (_, Self::Body) => Self::Body,
            (Self::Fields(one), Self::Fields(other)) => Self::Fields([one, other].concat()),
            (Self::Fields(one), Self::Nothing) | (Self::Nothing, Self::Fields(one)) => Self::Fields(one),
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

/// How a request was verified.
#[derive(Debug, Clone)]
pub struct Proof {
    pub(super) scheme: String,
    pub(super) secrets: Vec<SecretUse>,
    pub(super) signature: Option<String>,
    pub(super) signed_at: Option<DateTime<Utc>>,
    pub(super) replay_key: Option<String>,
    pub(super) covers: Covers,
    pub(super) principal: Principal,
    pub(super) is_observed: bool,
}

impl Proof {
    /// The scheme that matched.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Which secrets matched, one for each step that has one.
    pub fn secrets(&self) -> &[SecretUse] {
        &self.secrets
    }

    /// The signature, where it is bound to the body and so is no credential.
    pub fn signature(&self) -> Option<&str> {
        self.signature.as_deref()
    }

    /// When the provider signed, where it says so under its signature.
    pub const fn signed_at(&self) -> Option<DateTime<Utc>> {
        self.signed_at
    }

    /// Whether its signature does not match, and is only observed ([`super::observe()`]).
    pub const fn is_observed(&self) -> bool {
        self.is_observed
    }

    /// The provider's id of the message, if it is signed: a repeat has the same.
    pub fn replay_key(&self) -> Option<&str> {
        self.replay_key.as_deref()
    }
}

/// A request that was verified. Nothing but [`verify`](super::verify) makes one, and [`Verified::of_own_question`] of what the hub asked
/// for itself.
#[derive(Debug)]
pub struct Verified<'a> {
    request: Unverified<'a>,
    proof: Proof,
}

impl<'a> Verified<'a> {
    pub(super) const fn new(request: Unverified<'a>, proof: Proof) -> Self {
        Self { request, proof }
    }

    /// A webhook that the hub made of the provider's answer to its own question ([`crate::reconcile`]): the connection, and the
    /// credentials that the hub showed, prove that the provider says it. It is the provider's word, no branch's.
    pub const fn of_own_question(request: Unverified<'a>) -> Self {
        let proof = Proof {
            scheme: String::new(),
            secrets: Vec::new(),
            signature: None,
            signed_at: None,
            replay_key: None,
            covers: Covers::Body,
            principal: Principal::provider(),
            is_observed: false,
        };
        Self { request, proof }
    }

    /// Request headers. Unsigned ones are claims of the caller.
    pub const fn headers(&self) -> &'a HeaderMap {
        self.request.headers
    }

    /// Raw bytes.
    pub const fn body(&self) -> &'a [u8] {
        self.request.body
    }

    /// The path, without a query.
    pub fn path(&self) -> &'a str {
        self.request.path()
    }

    /// The method.
    pub const fn method(&self) -> &'a Method {
        self.request.method
    }

    /// How it was verified.
    pub const fn proof(&self) -> &Proof {
        &self.proof
    }

    /// The principal that it was proven for.
    pub const fn principal(&self) -> &Principal {
        &self.proof.principal
    }

    /// The event's id, the same for each repeat of the same webhook: of the provider, the order, what the webhook
    /// announces, and the provider's own id of the message. That is what the scheme names as its replay key, else `message`, which
    /// the provider's file reads, where every byte of the body is signed or none is. Where there is no such id, it is what is
    /// signed of the body: what is not signed could be changed to make a repeat look new. The same bytes of two branches, each with
    /// its own secret, are two webhooks.
    pub fn event_id(
        &self,
        provider: &str,
        external_order_id: &str,
        webhook_type: &str,
        message: Option<&str>,
    ) -> EventId {
        let (order, what) = (external_order_id.as_bytes(), webhook_type.as_bytes());
        let of_message = |id: &str| self.event_id_by(provider, &[order, what, b"message", id.as_bytes()]);
        match (&self.proof.covers, message, self.proof.replay_key()) {
            (Covers::Body | Covers::Nothing, Some(id), _) | (_, _, Some(id)) => of_message(id),
            (Covers::Fields(signed), _, None) => self.event_id_by(provider, &[order, what, b"signed", signed]),
            (_, None, None) => self.event_id_by(provider, &[order, what, self.request.body]),
        }
    }

    /// Of the provider's webhooks there are three or four parts, of a branch's two more, so neither can imitate the other.
    fn event_id_by(&self, provider: &str, parts: &[&[u8]]) -> EventId {
        match self.principal().branch() {
            Some(branch) => EventId::of_webhook(provider, &[&[b"branch", branch.as_bytes()], parts].concat()),
            None => EventId::of_webhook(provider, parts),
        }
    }
}
