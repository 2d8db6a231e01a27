//! How a provider signs, as data.

use axum::http::HeaderName;
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use serde::{Deserialize, Deserializer, de};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::{
    Refusal,
    keys::{Keys, SecretUse, WEBHOOK_SECRET},
    request::{Proof, Unverified},
};

/// Longest signature header that is looked at; hex SHA-512 has 128 characters.
const MAX_SIGNATURE_CHARS: usize = 512;

/// How a provider signs.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// Hex HMAC-SHA256 over the raw body in this header; either case of hex.
    Hmac {
        /// Header name, lower case.
        header: String,
    },
}

impl Scheme {
    /// The scheme of this name, where there is one.
    pub fn preset(name: &str) -> Option<Self> {
        (name == "careem").then(|| Self::Hmac {
            header: "x-careem-signature".into(),
        })
    }

    /// Everything that is wrong with it; empty where it can be used.
    pub fn check(&self) -> Vec<String> {
        let Self::Hmac { header } = self;
        match HeaderName::from_bytes(header.as_bytes()) {
            Ok(_) => Vec::new(),
            Err(_) => vec![format!("header: {header:?} cannot be a header's name")],
        }
    }

    /// As it stands on events and in health.
    pub fn label(&self) -> String {
        "hmac-sha256".into()
    }

    pub(super) fn prove(&self, request: &Unverified<'_>, keys: &Keys, _now: DateTime<Utc>) -> Result<Proof, Refusal> {
        let Self::Hmac { header } = self;
        let mut values = request.headers().get_all(header).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(Refusal::InvalidSignature);
        };
        let text = value.to_str().map_err(|_| Refusal::InvalidSignature)?.trim();
        if text.len() > MAX_SIGNATURE_CHARS {
            return Err(Refusal::InvalidSignature);
        }
        let given = hex::decode(text).map_err(|_| Refusal::InvalidSignature)?;
        let mut matched = None;
        for secret in keys.of(WEBHOOK_SECRET) {
            let equal: bool = mac(secret.value.expose_secret(), request.body()).ct_eq(&given).into();
            if equal && matched.is_none() {
                matched = Some(SecretUse {
                    name: WEBHOOK_SECRET.into(),
                    origin: secret.origin,
                    index: secret.index,
                });
            }
        }
        Ok(Proof {
            scheme: self.label(),
            secrets: vec![matched.ok_or(Refusal::InvalidSignature)?],
            signature: Some(text.to_owned()),
            signed_at: None,
            replay_key: None,
        })
    }
}

/// As a table `[verification]` says it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    preset: String,
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Table { preset } = Table::deserialize(deserializer)?;
        Self::preset(&preset).ok_or_else(|| de::Error::custom(format_args!("preset: unknown scheme {preset:?}")))
    }
}

pub(super) fn mac(secret: &str, body: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(body);
    mac.finalize().into_bytes().to_vec()
}
