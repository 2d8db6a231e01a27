//! The engine of verification: from a scheme, a request and the secrets it makes a proof or a refusal.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    Refusal,
    content::Piece,
    digest::Encoding,
    json,
    jwt::Jwt,
    keys::{Keys, Secret},
    location::{self, MAX_CHARS, ValueLocation},
    request::{Covers, Proof, Unverified},
    scheme::{BodyHash, Scheme, Signed, Static},
};
use crate::event::{SecretUse, principal::Principal};

/// Longest id of a message that is taken as its replay key, in bytes; real ones have 20 to 64.
const MAX_REPLAY_KEY_BYTES: usize = 256;

impl Scheme {
    pub(super) fn prove(&self, request: &Unverified<'_>, keys: &Keys, now: DateTime<Utc>) -> Result<Proof, Refusal> {
        match self {
            Self::Static(one) => one.prove(self, request, keys),
            Self::Basic(one) => {
                let location = ValueLocation::basic();
                let given = location.one(request.headers(), request.body());
                let given = given.and_then(|text| Encoding::Base64.decode(&text));
                same(self, &one.secret, given.as_deref(), keys)
            }
            Self::Hmac(one) => one.prove(self, request, keys, now, |key, pieces| one.algorithm.mac(key, pieces)),
            Self::HashConcat(one) => one.prove(self, request, keys, now, |_, pieces| one.algorithm.hash(pieces)),
            Self::Jwt(one) => one.prove(self, request, keys, now),
            Self::None => Ok(Proof::of(self)),
            Self::AnyOf(steps) => any_of(steps, request, keys, now),
            Self::AllOf(steps) => {
                let mut whole = Proof::of(self);
                for step in steps {
                    whole = whole.and(step.prove(request, keys, now)?)?;
                }
                Ok(whole)
            }
        }
    }
}

/// The first that lets it in. Where none does, the refusal that says most: a signature that is right but old, then a
/// wrong signature, then a wrong token.
fn any_of(steps: &[Scheme], request: &Unverified<'_>, keys: &Keys, now: DateTime<Utc>) -> Result<Proof, Refusal> {
    let mut refusal = None;
    for step in steps {
        match step.prove(request, keys, now) {
            Ok(proof) => return Ok(proof),
            Err(Refusal::SignatureExpired) => refusal = Some(Refusal::SignatureExpired),
            Err(other) if refusal.is_none_or(|known| known == Refusal::InvalidToken) => refusal = Some(other),
            Err(_) => {}
        }
    }
    Err(refusal.unwrap_or(Refusal::InvalidSignature))
}

impl Proof {
    pub(super) fn of(scheme: &Scheme) -> Self {
        Self {
            scheme: scheme.label(),
            secrets: Vec::new(),
            signature: None,
            signed_at: None,
            replay_key: None,
            covers: Covers::Nothing,
            principal: Principal::provider(),
            is_observed: false,
        }
    }

    fn by(scheme: &Scheme, name: &str, secret: &Secret) -> Self {
        let used = SecretUse {
            name: name.to_owned(),
            origin: secret.origin,
            index: secret.index,
        };
        Self {
            secrets: vec![used],
            principal: secret.principal.clone(),
            ..Self::of(scheme)
        }
    }

    /// With what a step has proved as well. Together they prove the narrower principal; two branches prove none.
    pub(super) fn and(mut self, step: Self) -> Result<Self, Refusal> {
        self.secrets.extend(step.secrets);
        self.signature = self.signature.or(step.signature);
        self.signed_at = self.signed_at.or(step.signed_at);
        self.replay_key = self.replay_key.or(step.replay_key);
        self.covers = self.covers.and(step.covers);
        self.is_observed |= step.is_observed;
        self.principal = self.principal.and(step.principal).ok_or(Refusal::InvalidSignature)?;
        Ok(self)
    }
}

/// Tries every secret, whether or not an earlier one matched.
fn first_match(secrets: &[Secret], matches: impl Fn(&Secret) -> bool) -> Option<&Secret> {
    let mut matched = None;
    for secret in secrets {
        if matches(secret) && matched.is_none() {
            matched = Some(secret);
        }
    }
    matched
}

/// Compares what was sent with the secret itself. Both are hashed first, so that not even the length can be measured.
fn same(scheme: &Scheme, name: &str, given: Option<&[u8]>, keys: &Keys) -> Result<Proof, Refusal> {
    let given = given.filter(|given| !given.is_empty()).ok_or(Refusal::InvalidToken)?;
    let given = Sha256::digest(given);
    let equal = |secret: &Secret| {
        let secret = Sha256::digest(secret.value.expose_secret().as_bytes());
        secret.as_slice().ct_eq(given.as_slice()).into()
    };
    let secret = first_match(keys.of(name), equal).ok_or(Refusal::InvalidToken)?;
    Ok(Proof::by(scheme, name, secret))
}

impl Static {
    fn prove(&self, scheme: &Scheme, request: &Unverified<'_>, keys: &Keys) -> Result<Proof, Refusal> {
        let given = self.token.one(request.headers(), request.body());
        same(scheme, &self.secret, given.as_deref().map(str::as_bytes), keys)
    }
}

impl Jwt {
    fn prove(
        &self,
        scheme: &Scheme,
        request: &Unverified<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
    ) -> Result<Proof, Refusal> {
        let token = self.token.one(request.headers(), request.body());
        let token = token.ok_or(Refusal::InvalidToken)?;
        let allows = |secret: &Secret| self.allows(&token, secret.value.expose_secret(), now);
        let secret = first_match(keys.of(&self.secret), allows).ok_or(Refusal::InvalidToken)?;
        Ok(Proof::by(scheme, &self.secret, secret))
    }
}

impl Signed {
    /// `digest` makes the signature of a key and the signed pieces.
    fn prove(
        &self,
        scheme: &Scheme,
        request: &Unverified<'_>,
        keys: &Keys,
        now: DateTime<Utc>,
        digest: impl Fn(&[u8], &[Cow<'_, [u8]>]) -> Vec<u8>,
    ) -> Result<Proof, Refusal> {
        const INVALID: Refusal = Refusal::InvalidSignature;
        let (headers, body) = (request.headers(), request.body());
        let signatures = self.signature.all(headers, body).ok_or(INVALID)?;
        let given: Vec<Option<Vec<u8>>> = signatures.iter().map(|text| self.encoding.decode(text)).collect();
        let time_text = self.time_text(request)?;
        let pieces = self.pieces(request, time_text.as_deref())?;
        let mut matched = None;
        for secret in keys.of(&self.secret) {
            let key = self
                .secret_encoding
                .key(secret.value.expose_secret(), &self.secret_prefix);
            let Some(key) = key else { continue };
            let expected = digest(&key, &filled(&pieces, &key));
            for (at, given) in given.iter().enumerate() {
                let equal = given.as_ref().is_some_and(|given| expected.ct_eq(given).into());
                if equal && matched.is_none() {
                    matched = Some((secret, at));
                }
            }
        }
        let (secret, at) = matched.ok_or(INVALID)?;
        self.is_whole(request)?;
        // The time counts only after the signature has proven its author.
        let signed_at = self.signed_at(time_text.as_deref(), now)?;
        Ok(Proof {
            signature: signatures.into_iter().nth(at),
            signed_at,
            replay_key: self.replay_key(request),
            covers: match self.covers_body() {
                true => Covers::Body,
                false => Covers::Fields(self.signed.of_body(&pieces)),
            },
            ..Proof::by(scheme, &self.secret, secret)
        })
    }

    /// The time of signing as it was sent; none if the scheme has none.
    pub(super) fn time_text(&self, request: &Unverified<'_>) -> Result<Option<String>, Refusal> {
        let Some(time) = &self.timestamp else { return Ok(None) };
        let text = time.location.one(request.headers(), request.body());
        text.map(Some).ok_or(Refusal::InvalidSignature)
    }

    /// What is signed, in one way only.
    pub(super) fn pieces<'a>(
        &'a self,
        request: &Unverified<'a>,
        time_text: Option<&'a str>,
    ) -> Result<Vec<Piece<'a>>, Refusal> {
        let pieces = self
            .signed
            .pieces(request, time_text, &self.signature.source, &self.fields);
        pieces.ok_or(Refusal::InvalidSignature)
    }

    /// Whether the body has the hash that the request names, and the fields that must be there once.
    pub(super) fn is_whole(&self, request: &Unverified<'_>) -> Result<(), Refusal> {
        let is_hashed = self.body_hash.as_ref().is_none_or(|hash| hash.fits(request));
        let is_once = |pointer: &String| json::count(request.body(), pointer).is_ok_and(|count| count == 1);
        if is_hashed && self.single.iter().all(is_once) {
            Ok(())
        } else {
            Err(Refusal::InvalidSignature)
        }
    }

    /// The time of signing, if it is not over.
    pub(super) fn signed_at(&self, text: Option<&str>, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Refusal> {
        let Some((time, text)) = self.timestamp.as_ref().zip(text) else {
            return Ok(None);
        };
        let at = time.read(text).ok_or(Refusal::InvalidSignature)?;
        if time.allows(at, now) {
            Ok(Some(at))
        } else {
            Err(Refusal::SignatureExpired)
        }
    }

    /// The message's id, where there is one that can be kept; without one the body tells a repeat.
    fn replay_key(&self, request: &Unverified<'_>) -> Option<String> {
        let key = self.replay_key.as_ref()?.one(request.headers(), request.body())?;
        (1..=MAX_REPLAY_KEY_BYTES).contains(&key.len()).then_some(key)
    }
}

/// The pieces with the secret in its place.
pub(super) fn filled<'a>(pieces: &'a [Piece<'a>], key: &'a [u8]) -> Vec<Cow<'a, [u8]>> {
    let fill = |piece: &'a Piece<'a>| match piece {
        Piece::Bytes(bytes) => Cow::Borrowed(&**bytes),
        Piece::Secret => Cow::Borrowed(key),
    };
    pieces.iter().map(fill).collect()
}

impl BodyHash {
    fn fits(&self, request: &Unverified<'_>) -> bool {
        let query = request.query().unwrap_or_default();
        if query.len() > MAX_CHARS {
            return false;
        }
        let mut values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| *name == self.query);
        let (Some((_, value)), None) = (values.next(), values.next()) else {
            return false;
        };
        let expected = self.algorithm.hash(&[request.body()]);
        let given = self.encoding.decode(&value);
        given.is_some_and(|given| expected.ct_eq(&given).into())
    }
}

impl ValueLocation {
    /// The location of HTTP Basic credentials.
    pub(super) fn basic() -> Self {
        Self {
            source: location::Source::Header(axum::http::header::AUTHORIZATION),
            prefix: "Basic ".into(),
            parse: location::Parse::Whole,
        }
    }
}
