//! The inverse of verifying: what `send`, `dev` and tests do to be let in.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;

use super::{
    keys::{Keys, WEBHOOK_SECRET},
    scheme::{Scheme, mac},
};

/// A request that is to be sent.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to, as the receiver knows itself.
    pub url: String,
    /// Its headers so far.
    pub headers: HeaderMap,
    /// Its body so far.
    pub body: Vec<u8>,
}

/// Why a request cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotSign {
    /// There is no secret of this name.
    #[error("there is no secret {0}")]
    NoSecret(String),
}

/// Adds to a request what its scheme asks for, by the newest secrets.
///
/// # Errors
/// Where a secret is missing.
pub fn sign(scheme: &Scheme, keys: &Keys, mut request: Outgoing, _now: DateTime<Utc>) -> Result<Outgoing, CannotSign> {
    let Scheme::Hmac { header } = scheme;
    let secret = keys.of(WEBHOOK_SECRET).first();
    let secret = secret.ok_or_else(|| CannotSign::NoSecret(WEBHOOK_SECRET.into()))?;
    let signature = hex::encode(mac(secret.value.expose_secret(), &request.body));
    request.headers.insert(
        HeaderName::from_bytes(header.as_bytes()).expect("schemes name headers"),
        HeaderValue::from_str(&signature).expect("hex is ASCII"),
    );
    Ok(request)
}
