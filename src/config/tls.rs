//! Certificates and keys: the files that hold them.
//!
//! A file is named by its variable (`TLS_CERT`) or, as for every value, by the variable with `_FILE`: both mean the same.

use std::path::PathBuf;

use super::{ConfigError, Environment};

/// A certificate, with what leads from it to its authority, and its private key; both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The chain, the own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// How a server that the hub connects to is known, and what it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Of its variables: `DATABASE` of `DATABASE_TLS_CA`.
    pub prefix: String,
    /// `<PREFIX>_TLS_CA`: the authorities that may have signed its certificate, PEM, in place of the machine's own.
    pub ca: Option<PathBuf>,
    /// `<PREFIX>_TLS_CERT` and `<PREFIX>_TLS_KEY`, for a server that asks for a certificate.
    pub client: Option<KeyPair>,
}

impl ClientTls {
    /// Nothing said: the authorities of the machine, and no certificate of our own.
    pub fn of_machine(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
            ca: None,
            client: None,
        }
    }

    /// Reads the variables of this prefix.
    ///
    /// # Errors
    /// Where only one of certificate and key is set.
    pub fn from_environment(env: &Environment, prefix: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            prefix: prefix.to_owned(),
            ca: env.path(&format!("{prefix}_TLS_CA"))?,
            client: key_pair(env, &format!("{prefix}_TLS_CERT"), &format!("{prefix}_TLS_KEY"))?,
        })
    }

    /// Whether anything is said.
    pub fn is_set(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// Reads both or neither.
///
/// # Errors
/// Where only one is set.
pub(super) fn key_pair(env: &Environment, certificate: &str, key: &str) -> Result<Option<KeyPair>, ConfigError> {
    match (env.path(certificate)?, env.path(key)?) {
        (Some(certificate), Some(key)) => Ok(Some(KeyPair { certificate, key })),
        (None, None) => Ok(None),
        _ => Err(ConfigError::new(
            certificate,
            format_args!("goes together with {key}: set both or none"),
        )),
    }
}
