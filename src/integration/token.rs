//! Authenticates the backend by `X-Service-Token`, the same token that the hub sends to it.

use axum::http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// The header.
const HEADER: &str = "x-service-token";

/// The accepted tokens. Only their digests are kept: they have one length, so a comparison reveals nothing.
pub struct ServiceTokens(Vec<[u8; 32]>);

impl ServiceTokens {
    /// Of these; several, for a rotation.
    pub fn new(tokens: &[SecretString]) -> Self {
        Self(
            tokens
                .iter()
                .map(|token| digest(token.expose_secret().as_bytes()))
                .collect(),
        )
    }

    /// Whether a request shows one of them, and nothing else beside it.
    pub fn know(&self, headers: &HeaderMap) -> bool {
        let mut values = headers.get_all(HEADER).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return false;
        };
        let given = digest(value.as_bytes());
        // All are compared, even after a match, so that the time reveals nothing.
        let known = self
            .0
            .iter()
            .fold(Choice::from(0), |known, token| known | token.ct_eq(&given));
        known.into()
    }
}

fn digest(token: &[u8]) -> [u8; 32] {
    Sha256::digest(token).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_the_tokens_and_nothing_else() {
        let tokens = ServiceTokens::new(&["new".into(), "old".into()]);
        let shows = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(HEADER, value.parse().unwrap());
            }
            tokens.know(&headers)
        };
        assert!(shows(&["new"]) && shows(&["old"]));
        for wrong in [&[][..], &[""], &["ne"], &["newer"], &["new,old"], &["new", "new"]] {
            assert!(!shows(wrong), "{wrong:?}");
        }
        assert!(!ServiceTokens::new(&[]).know(&HeaderMap::from_iter([(HEADER.parse().unwrap(), "".parse().unwrap())])));
    }
}
