//! Who may come in: verifying a request's signature over its raw bytes.
//!
//! There is no default and no way round: an [`Admission`](super::Admission) can be made only with a [`Verified`], and
//! only [`verify`] makes one.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::admission::{Refusal, Unverified};

/// Most secrets that one provider may have at a time; a rotation needs two.
pub const MAX_SECRETS: usize = 8;
/// Longest signature header that is looked at; hex SHA-512 has 128 characters.
const MAX_SIGNATURE_CHARS: usize = 512;

/// A provider's secrets, newest first. Keys are expanded once, so that a request costs only its own bytes.
#[derive(Clone, Default)]
pub struct Keyring {
    keys: Vec<Hmac<Sha256>>,
}

impl Keyring {
    /// Of these secrets, newest first; empty ones are refused where the configuration is read.
    pub fn new(secrets: &[SecretString]) -> Self {
        let key = |secret: &SecretString| {
            Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes keys of any length")
        };
        Self {
            keys: secrets
                .iter()
                .filter(|one| !one.expose_secret().is_empty())
                .take(MAX_SECRETS)
                .map(key)
                .collect(),
        }
    }

    /// The signature of a body by the newest secret, lower-case hex; for `send`, `dev` and tests.
    pub fn sign_hex(&self, body: &[u8]) -> Option<String> {
        let mut mac = self.keys.first()?.clone();
        mac.update(body);
        Some(hex::encode(mac.finalize().into_bytes()))
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keyring({} secrets)", self.keys.len())
    }
}

/// Proof that a request was verified.
#[derive(Debug)]
pub struct Verified {
    scheme: &'static str,
    secret_index: usize,
    signature: Option<String>,
}

impl Verified {
    /// The scheme that matched.
    pub const fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Which secret matched, newest = 0.
    pub const fn secret_index(&self) -> usize {
        self.secret_index
    }

    /// The signature, where it is bound to the body.
    pub fn signature(&self) -> Option<&str> {
        self.signature.as_deref()
    }
}

/// How a provider signs.
#[derive(Debug, Clone, Copy)]
pub enum Scheme {
    /// Hex HMAC-SHA256 over the raw body in this header; either case of hex.
    HmacSha256Hex {
        /// Header name, lower case.
        header: &'static str,
    },
}

impl Scheme {
    /// As it stands on events and in health.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HmacSha256Hex { .. } => "hmac-sha256",
        }
    }
}

/// Verifies a request.
///
/// Every secret is tried, whether or not an earlier one matched, and compared in constant time, so that the time taken
/// tells nothing.
///
/// # Errors
/// [`Refusal::InvalidSignature`] where the signature is missing, malformed or wrong, or no secret is configured.
pub fn verify(scheme: Scheme, request: &Unverified<'_>, keys: &Keyring) -> Result<Verified, Refusal> {
    let Scheme::HmacSha256Hex { header } = scheme;
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
    for (index, key) in keys.keys.iter().enumerate() {
        let mut mac = key.clone();
        mac.update(request.body());
        let equal: bool = mac.finalize().into_bytes().as_slice().ct_eq(&given).into();
        if equal && matched.is_none() {
            matched = Some(index);
        }
    }
    let secret_index = matched.ok_or(Refusal::InvalidSignature)?;
    Ok(Verified {
        scheme: scheme.as_str(),
        secret_index,
        signature: Some(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    const SCHEME: Scheme = Scheme::HmacSha256Hex {
        header: "x-careem-signature",
    };

    fn keys(secrets: &[&str]) -> Keyring {
        Keyring::new(&secrets.iter().map(|one| SecretString::from(*one)).collect::<Vec<_>>())
    }

    fn check(signature: &str, body: &[u8], keys: &Keyring) -> Result<Verified, Refusal> {
        let mut headers = HeaderMap::new();
        headers.insert("x-careem-signature", signature.parse().unwrap());
        verify(SCHEME, &Unverified::new(&headers, body), keys)
    }

    /// RFC 4231, test case 2.
    #[test]
    fn known_answer() {
        let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let body = b"what do ya want for nothing?";
        assert!(check(signature, body, &keys(&["Jefe"])).is_ok());
        assert!(check(&signature.to_uppercase(), body, &keys(&["Jefe"])).is_ok());
        assert_eq!(
            check(signature, body, &keys(&["new", "Jefe"])).unwrap().secret_index(),
            1
        );
        assert!(check(signature, b"what do ya want for nothing!", &keys(&["Jefe"])).is_err());
        assert!(check(signature, body, &keys(&["Jeff"])).is_err());
    }

    #[test]
    fn no_secret_lets_nobody_in() {
        let signature = keys(&["x"]).sign_hex(b"body").unwrap();
        assert!(check(&signature, b"body", &keys(&[])).is_err());
        assert!(check(&signature, b"body", &keys(&[""])).is_err());
        assert!(check("", b"body", &keys(&["x"])).is_err());
    }

    #[test]
    fn missing_or_double_header_is_refused() {
        let ring = keys(&["x"]);
        let mut headers = HeaderMap::new();
        assert!(verify(SCHEME, &Unverified::new(&headers, b"body"), &ring).is_err());
        let signature = ring.sign_hex(b"body").unwrap();
        headers.append("x-careem-signature", signature.parse().unwrap());
        headers.append("x-careem-signature", signature.parse().unwrap());
        assert!(verify(SCHEME, &Unverified::new(&headers, b"body"), &ring).is_err());
    }

    proptest! {
        #[test]
        fn only_the_signed_bytes_pass(body in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let ring = keys(&["secret"]);
            let signature = ring.sign_hex(&body).unwrap();
            prop_assert!(check(&signature, &body, &ring).is_ok());
            let mut longer = body.clone();
            longer.push(b' ');
            prop_assert!(check(&signature, &longer, &ring).is_err());
            if !body.is_empty() {
                let mut changed = body.clone();
                let at = at.index(changed.len());
                changed[at] ^= 1 << bit;
                prop_assert!(check(&signature, &changed, &ring).is_err());
            }
            let cut = &signature[..signature.len() - 2];
            prop_assert!(check(cut, &body, &ring).is_err());
        }
    }
}
