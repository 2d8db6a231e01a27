//! The files of certificates and keys.
//!
//! The variable (`TLS_CERT`) and the variable with `_FILE` both hold the file's path.

use std::path::PathBuf;

use super::{ConfigError, Environment};

/// A certificate chain and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The chain, the own certificate first.
    pub certificate: PathBuf,
    /// The key.
    pub key: PathBuf,
}

/// TLS of connections to a server: the trusted authorities, and the hub's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// The prefix of its variables: `DATABASE` for `DATABASE_TLS_CA`.
    pub prefix: String,
    /// `<PREFIX>_TLS_CA`: the authorities that may have signed the server's certificate, PEM, instead of the machine's own.
    pub ca: Option<PathBuf>,
    /// `<PREFIX>_TLS_CERT` and `<PREFIX>_TLS_KEY`, for a server that requires a certificate.
    pub client: Option<KeyPair>,
}

impl ClientTls {
    /// Without settings: the machine's authorities, and no certificate of the hub's own.
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
    /// If only one of certificate and key is set.
    pub fn from_environment(env: &Environment, prefix: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            prefix: prefix.to_owned(),
            ca: env.path(&format!("{prefix}_TLS_CA"))?,
            client: key_pair(env, &format!("{prefix}_TLS_CERT"), &format!("{prefix}_TLS_KEY"))?,
        })
    }

    /// Whether any of them is set.
    pub fn is_set(&self) -> bool {
        self.ca.is_some() || self.client.is_some()
    }
}

/// Reads both or neither.
///
/// # Errors
/// If only one is set.
pub(super) fn key_pair(env: &Environment, certificate: &str, key: &str) -> Result<Option<KeyPair>, ConfigError> {
    match (env.path(certificate)?, env.path(key)?) {
        (Some(certificate), Some(key)) => Ok(Some(KeyPair { certificate, key })),
        (None, None) => Ok(None),
        _ => Err(ConfigError::new(
            certificate,
            format_args!("must be set together with {key}"),
        )),
    }
}
