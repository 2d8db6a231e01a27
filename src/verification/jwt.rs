//! JSON Web Tokens: they identify the caller.
//!
//! The scheme names the algorithms, all of one family, and with that the kind of key: the token's own header is only compared
//! with them. There is no `none`, and no public key is taken for a shared secret.

use std::{collections::BTreeMap, time::Duration};

use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};

use super::{digest::SecretEncoding, location::ValueLocation};
use crate::text::parse_duration;

/// How long a token is good that `send` makes.
const OWN_LIFETIME: Duration = Duration::from_secs(300);

/// Whether a token must say when it expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expiry {
    /// It must.
    Required,
    /// It may; where it does, that counts.
    Optional,
}

/// A JSON Web Token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// Which secret: the shared one, or the public key as PEM.
    #[serde(default = "jwt_secret")]
    pub secret: String,
    /// How a shared secret is written.
    #[serde(default)]
    pub secret_encoding: SecretEncoding,
    /// The location of the token.
    pub token: ValueLocation,
    /// The algorithms that count.
    pub algorithms: Vec<Algorithm>,
    /// Claims that it must have, with these values.
    #[serde(default)]
    pub claims: BTreeMap<String, Value>,
    /// Whether it must expire.
    pub expiry: Expiry,
    /// How far the clocks may be apart.
    #[serde(default, deserialize_with = "duration")]
    pub leeway: Duration,
}

fn jwt_secret() -> String {
    "jwt_secret".into()
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

impl Jwt {
    fn family(&self) -> Option<AlgorithmFamily> {
        self.algorithms.first().map(|one| one.family())
    }

    /// Its fault, if any.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let Some(family) = self.family() else {
            return Some("algorithms: name those that count");
        };
        let mixed = self.algorithms.iter().any(|one| one.family() != family);
        if mixed {
            return Some("algorithms: all of one family, or a public key could be taken for a shared secret");
        }
        let reserved = ["exp", "nbf", "iat"].iter().any(|one| self.claims.contains_key(*one));
        reserved.then_some("claims: exp, nbf and iat are times, not values to compare with")
    }

    fn key(&self, secret: &str) -> Option<DecodingKey> {
        match self.family()? {
            AlgorithmFamily::Hmac => self.shared(secret).map(|key| DecodingKey::from_secret(&key)),
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(secret.as_bytes()).ok(),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(secret.as_bytes()).ok(),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(secret.as_bytes()).ok(),
        }
    }

    fn shared(&self, secret: &str) -> Option<impl std::ops::Deref<Target = Vec<u8>> + use<>> {
        // A public key is public: as a shared secret it would let anyone sign.
        let is_pem = secret.contains("-----BEGIN");
        self.secret_encoding.key(secret, "").filter(|_| !is_pem)
    }

    /// The fault of a key, if any.
    pub(super) fn key_fault(&self, secret: &str) -> Option<String> {
        let expected = match self.family() {
            Some(AlgorithmFamily::Hmac) => self.secret_encoding.expected(),
            _ => "a public key of the scheme's algorithms, as PEM",
        };
        self.key(secret).is_none().then(|| format!("expected {expected}"))
    }

    /// Whether a token is right by this secret now.
    pub(super) fn allows(&self, token: &str, secret: &str, now: DateTime<Utc>) -> bool {
        let Some(key) = self.key(secret) else { return false };
        let mut validation = Validation::default();
        validation.algorithms.clone_from(&self.algorithms);
        // Times and claims are checked below, against the time of receipt.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let Ok(token) = jsonwebtoken::decode::<Map<String, Value>>(token, &key, &validation) else {
            return false;
        };
        // The hub knows no critical extensions, so a token with one is refused.
        token.header.crit.is_none() && self.in_time(&token.claims, now) && self.has_claims(&token.claims)
    }

    fn in_time(&self, claims: &Map<String, Value>, now: DateTime<Utc>) -> bool {
        let (now, leeway) = (seconds(now), self.leeway.as_secs_f64());
        let expires = match claims.get("exp") {
            None => self.expiry == Expiry::Optional,
            Some(at) => at.as_f64().is_some_and(|at| now < at + leeway),
        };
        let begins = claims
            .get("nbf")
            .is_none_or(|at| at.as_f64().is_some_and(|at| now + leeway >= at));
        expires && begins
    }

    fn has_claims(&self, claims: &Map<String, Value>) -> bool {
        self.claims.iter().all(|(name, expected)| match claims.get(name) {
            // The audience may be a list that contains the expected one.
            Some(Value::Array(several)) if name == "aud" && !expected.is_array() => several.contains(expected),
            found => found == Some(expected),
        })
    }

    /// A token that this scheme lets in; none if its key is a public one.
    pub(super) fn make(&self, secret: &str, now: DateTime<Utc>) -> Option<String> {
        let algorithm = *self.algorithms.first()?;
        if algorithm.family() != AlgorithmFamily::Hmac {
            return None;
        }
        let mut claims: Map<String, Value> = self.claims.clone().into_iter().collect();
        claims.insert("iat".into(), now.timestamp().into());
        claims.insert("exp".into(), (now + OWN_LIFETIME).timestamp().into());
        let key = EncodingKey::from_secret(&self.shared(secret)?);
        jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).ok()
    }
}

fn seconds(time: DateTime<Utc>) -> f64 {
    let whole = Duration::from_millis(time.timestamp_millis().max(0).unsigned_abs());
    whole.as_secs_f64()
}
