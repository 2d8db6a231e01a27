//! The hash of an accepted body. It shows that the log still has the bytes that were accepted.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// SHA-256 of a body, in base64url without padding: 43 characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BodyHash(String);

impl BodyHash {
    /// The hash of a body.
    pub fn of(body: &[u8]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(Sha256::digest(body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_sha_256() {
        // The test vector for "abc" of FIPS 180-4.
        let expected = "ungWv48Bz-pBQUDeXa4iI7ADYaOWF3qctBD_YfIAFa0";
        assert_eq!(serde_json::to_value(BodyHash::of(b"abc")).unwrap(), expected);
        assert_ne!(BodyHash::of(b"abc"), BodyHash::of(b"abd"));
    }
}
