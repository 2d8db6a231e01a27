//! How a provider signs, as data: what a table `[verification]` says.

use std::collections::BTreeSet;

use axum::http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{
    content::{Content, Part},
    digest::{Algorithm, Encoding, SecretEncoding},
    fields::Fields,
    jwt::Jwt,
    keys::WEBHOOK_SECRET,
    location::{Source, ValueLocation},
    preset,
    time::Timestamp,
};

/// How a provider signs.
///
/// As a table it has a `kind` and the fields of that kind, or a `preset` and those of its fields that differ.
#[derive(Debug, Clone)]
pub enum Scheme {
    /// A secret that is sent as it is.
    Static(Static),
    /// HTTP Basic: the secret is `user:password`.
    Basic(Basic),
    /// An HMAC.
    Hmac(Signed),
    /// A hash over parts of the request with the secret at its end.
    HashConcat(Signed),
    /// A JSON Web Token. It says who calls, not what.
    Jwt(Jwt),
    /// Every request is accepted.
    None,
    /// One of these.
    AnyOf(Vec<Self>),
    /// All of these.
    AllOf(Vec<Self>),
}

/// A secret that is sent as it is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Static {
    /// Which secret.
    #[serde(default = "webhook_secret")]
    pub secret: String,
    /// Its location in the request.
    pub token: ValueLocation,
}

/// HTTP Basic.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// Which secret; it holds `user:password`.
    #[serde(default = "webhook_secret")]
    pub secret: String,
}

/// A signature over parts of the request.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed {
    /// Which secret.
    #[serde(default = "webhook_secret")]
    pub secret: String,
    /// How the secret is written.
    #[serde(default)]
    pub secret_encoding: SecretEncoding,
    /// An optional prefix that is not a part of it: `whsec_`.
    #[serde(default)]
    pub secret_prefix: String,
    /// The hash.
    pub algorithm: Algorithm,
    /// How the signature is written.
    pub encoding: Encoding,
    /// Its location in the request.
    pub signature: ValueLocation,
    /// The signed text.
    pub signed: Content,
    /// When it was signed. Only a time under the signature can be named here; another one protects nothing.
    #[serde(default)]
    pub timestamp: Option<Timestamp>,
    /// The provider's id of the message, covered by the signature.
    #[serde(default)]
    pub replay_key: Option<ValueLocation>,
    /// The body's hash, in a parameter of the signed URL.
    #[serde(default)]
    pub body_hash: Option<BodyHash>,
    /// Arrays of the body that must have exactly one element, where only that is signed.
    #[serde(default)]
    pub single: Vec<String>,
    /// Which fields `{sorted_fields}` holds, and their types.
    #[serde(default)]
    pub fields: Fields,
}

/// The body's hash, in a parameter of the URL.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "body_hash = { query = \"NAME\", algorithm = \"sha256\", encoding = \"hex\" }"
)]
pub struct BodyHash {
    /// The parameter.
    pub query: String,
    /// The hash.
    pub algorithm: Algorithm,
    /// How it is written.
    pub encoding: Encoding,
}

fn webhook_secret() -> String {
    WEBHOOK_SECRET.into()
}

/// A scheme without `preset`, as it is written.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum WrittenScheme {
    Static(Static),
    Basic(Basic),
    Hmac(Signed),
    HashConcat(Signed),
    Jwt(Jwt),
    None(Nothing),
    AnyOf(Steps),
    AllOf(Steps),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    steps: Vec<Scheme>,
}

impl<'de> Deserialize<'de> for Scheme {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let table = Value::deserialize(deserializer)?;
        let table = preset::expand(table).map_err(de::Error::custom)?;
        Ok(match WrittenScheme::deserialize(table).map_err(de::Error::custom)? {
            WrittenScheme::Static(one) => Self::Static(one),
            WrittenScheme::Basic(one) => Self::Basic(one),
            WrittenScheme::Hmac(one) => Self::Hmac(one),
            WrittenScheme::HashConcat(one) => Self::HashConcat(one),
            WrittenScheme::Jwt(one) => Self::Jwt(one),
            WrittenScheme::None(Nothing {}) => Self::None,
            WrittenScheme::AnyOf(Steps { steps }) => Self::AnyOf(steps),
            WrittenScheme::AllOf(Steps { steps }) => Self::AllOf(steps),
        })
    }
}

impl Scheme {
    /// The scheme of this name, where there is one; the names are [`preset::names`].
    pub fn preset(name: &str) -> Option<Self> {
        preset::get(name)
    }

    /// As it stands in health: `hmac-sha256`, `static+hmac-sha256` where both are asked for, `a|b` for one of them.
    pub fn label(&self) -> String {
        let join = |steps: &[Self], by: &str| steps.iter().map(Self::label).collect::<Vec<_>>().join(by);
        match self {
            Self::Static(_) => "static".into(),
            Self::Basic(_) => "basic".into(),
            Self::Hmac(one) => format!("hmac-{}", one.algorithm.as_str()),
            Self::HashConcat(one) => one.algorithm.as_str().into(),
            Self::Jwt(_) => "jwt".into(),
            Self::None => "none".into(),
            Self::AnyOf(steps) => join(steps, "|"),
            Self::AllOf(steps) => join(steps, "+"),
        }
    }

    /// Whether it accepts every request.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The names of the secrets that it takes.
    pub fn secrets(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.each(&mut |step| {
            if let Some(name) = step.secret() {
                names.insert(name);
            }
        });
        names
    }

    /// Whether it signs the URL, so that the hub must know its own.
    pub fn needs_url(&self) -> bool {
        let mut needs = false;
        self.each(&mut |step| {
            if let Self::Hmac(one) | Self::HashConcat(one) = step {
                needs |= one.signed.has(&Part::Url);
            }
        });
        needs
    }

    /// The headers that hold a secret or a token itself, and so may be kept nowhere.
    pub fn credential_headers(&self) -> Vec<HeaderName> {
        let mut headers = Vec::new();
        self.each(&mut |step| {
            if let Self::Static(Static { token, .. }) | Self::Jwt(Jwt { token, .. }) = step
                && let Source::Header(name) = &token.source
            {
                headers.push(name.clone());
            }
        });
        headers
    }

    /// Looks whether a secret of this name can be used.
    ///
    /// # Errors
    /// What it should be; never what it is.
    pub fn check_secret(&self, name: &str, secret: &SecretString) -> Result<(), String> {
        let text = secret.expose_secret();
        let mut fault = text.is_empty().then(|| "is empty".to_owned());
        self.each(&mut |step| {
            if step.secret() != Some(name) {
                return;
            }
            let found = match step {
                Self::Hmac(one) | Self::HashConcat(one) => {
                    let fits = one.secret_encoding.key(text, &one.secret_prefix).is_some();
                    (!fits).then(|| format!("expected {}", one.secret_encoding.expected()))
                }
                Self::Basic(_) => (!text.contains(':')).then(|| "expected user:password".into()),
                Self::Jwt(one) => one.key_fault(text),
                _ => None,
            };
            fault = fault.take().or(found);
        });
        fault.map_or(Ok(()), Err)
    }

    fn secret(&self) -> Option<&str> {
        match self {
            Self::Static(one) => Some(&one.secret),
            Self::Basic(one) => Some(&one.secret),
            Self::Hmac(one) | Self::HashConcat(one) => Some(&one.secret),
            Self::Jwt(one) => Some(&one.secret),
            Self::None | Self::AnyOf(_) | Self::AllOf(_) => None,
        }
    }

    /// This one and all that are in it.
    pub(super) fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        if let Self::AnyOf(steps) | Self::AllOf(steps) = self {
            for step in steps {
                step.each(&mut *visit);
            }
        }
    }

    /// Whether signing it changes the body, so that it goes before what signs the body.
    pub(super) fn writes_body(&self) -> bool {
        let mut writes = false;
        self.each(&mut |step| {
            let location = match step {
                Self::Static(one) => &one.token,
                Self::Jwt(one) => &one.token,
                Self::Hmac(one) | Self::HashConcat(one) => &one.signature,
                _ => return,
            };
            writes |= matches!(location.source, Source::Pointer(_));
        });
        writes
    }
}
