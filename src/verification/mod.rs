//! Verification: whether a request was sent by the provider that it names.
//!
//! There is no default and no bypass: a provider reads only a [`Verified`] request, and only [`verify`] makes one of an
//! [`Unverified`]. What the hub asked the provider for itself is proven by that ([`Verified::of_own_question`]). How a provider signs is data, a [`Scheme`]: written out or a [`preset`], checked by [`check`] when it is
//! loaded. A scheme takes text from a [`location`] in the request and compares it with the [`digest`] of the [`content`], in
//! which one text is one message ([`ambiguity`], [`fields`]). It checks the [`time`] of signing; a [`jwt`] identifies the
//! caller. [`sign`](mod@sign) is the inverse. [`crate::provider`] knows what a webhook means.

use chrono::{DateTime, Utc};

pub mod request;
pub mod scheme;
pub mod preset;
pub mod check;
pub mod location;
pub mod content;
pub mod fields;
pub mod ambiguity;
pub mod time;
pub mod digest;
pub mod jwt;
pub mod keys;
pub mod sign;
mod json;
mod prove;
mod observe;

pub use self::{
    keys::{Keyring, Keys},
    observe::observe,
    request::{Proof, Unverified, Verified},
    scheme::Scheme,
    sign::sign,
};

/// Why a request is not let in. It says what is wrong, never what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The signature is missing, malformed or wrong.
    #[error("webhook signature validation failed")]
    InvalidSignature,
    /// The signature is right and its time is not: too old, or in the future.
    #[error("the webhook was signed too long ago, or in the future")]
    SignatureExpired,
    /// The bearer token or API key is missing, malformed, wrong or expired.
    #[error("the token is missing, wrong or expired")]
    InvalidToken,
}

/// Verifies a request.
///
/// Every secret is tried, whether or not an earlier one matched, and compared in constant time, so that the time taken
/// tells nothing. `now` is the time of receipt.
///
/// # Errors
/// Why it is refused; also if no secret is configured.
pub fn verify<'a>(
    scheme: &Scheme,
    request: Unverified<'a>,
    keys: &Keys,
    now: DateTime<Utc>,
) -> Result<Verified<'a>, Refusal> {
    let proof = scheme.prove(&request, keys, now)?;
    Ok(Verified::new(request, proof))
}

#[cfg(test)]
mod tests;
