//! Hashes, their text forms, and the forms in which a secret may be written.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::zeroize::Zeroizing;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};

/// Padding may be missing, in secrets and in URLs: providers and libraries differ, and it carries no information.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const SECRET: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);

/// A hash function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SHA-1, for providers that offer nothing else. Its use in an HMAC is not broken.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// As schemes and events say it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Whether it still holds without a key beside it.
    pub(super) const fn resists_collisions(self) -> bool {
        !matches!(self, Self::Sha1)
    }

    /// HMAC over these pieces, one after another.
    pub(super) fn mac(self, key: &[u8], pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
        fn keyed<M: Mac + KeyInit>(key: &[u8], pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            pieces.iter().for_each(|piece| mac.update(piece.as_ref()));
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha1 => keyed::<Hmac<Sha1>>(key, pieces),
            Self::Sha256 => keyed::<Hmac<Sha256>>(key, pieces),
            Self::Sha512 => keyed::<Hmac<Sha512>>(key, pieces),
        }
    }

    /// The hash of these pieces, one after another.
    pub(super) fn hash(self, pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
        fn of<D: Digest>(pieces: &[impl AsRef<[u8]>]) -> Vec<u8> {
            let mut hash = D::new();
            pieces.iter().for_each(|piece| hash.update(piece.as_ref()));
            hash.finalize().to_vec()
        }
        match self {
            Self::Sha1 => of::<Sha1>(pieces),
            Self::Sha256 => of::<Sha256>(pieces),
            Self::Sha512 => of::<Sha512>(pieces),
        }
    }
}

/// How a signature is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// Hexadecimal, either case.
    Hex,
    /// Base64, with its padding.
    Base64,
    /// Base64 for URLs, with or without padding.
    Base64url,
}

impl Encoding {
    pub(super) fn decode(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Hex => hex::decode(text).ok(),
            Self::Base64 => STANDARD.decode(text).ok(),
            Self::Base64url => URL_SAFE.decode(text).ok(),
        }
    }

    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Hex => hex::encode(bytes),
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64url => URL_SAFE.encode(bytes).trim_end_matches('=').to_owned(),
        }
    }
}

/// How a secret is written where it is configured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretEncoding {
    /// Its bytes are the key.
    #[default]
    Utf8,
    /// Hexadecimal.
    Hex,
    /// Base64, with or without padding.
    Base64,
}

impl SecretEncoding {
    /// The key; none if the text is no such encoding, or the key would be empty: an empty key is public.
    pub(super) fn key(self, text: &str, prefix: &str) -> Option<Zeroizing<Vec<u8>>> {
        let text = text.strip_prefix(prefix).unwrap_or(text);
        let key = match self {
            Self::Utf8 => Some(text.as_bytes().to_vec()),
            Self::Hex => Encoding::Hex.decode(text),
            Self::Base64 => SECRET.decode(text).ok(),
        };
        key.map(Zeroizing::new).filter(|key| !key.is_empty())
    }

    pub(super) const fn expected(self) -> &'static str {
        match self {
            Self::Utf8 => "text",
            Self::Hex => "hexadecimal digits",
            Self::Base64 => "base64",
        }
    }
}
