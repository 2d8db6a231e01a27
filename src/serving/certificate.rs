//! The server certificate of the intake: read at the start, and again when its files change or on SIGHUP.
//!
//! Open connections keep their certificate; the next handshake uses the new one. A new certificate that cannot be used
//! changes nothing and is logged: a renewal writes two files, one after the other.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use rustls::ServerConfig;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::{config::KeyPair, process::look_again::look_again, tls};

/// How often the files are looked at: what renews a certificate does so weeks before the old one ends.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const CERTIFICATE: &str = "TLS_CERT";
const KEY: &str = "TLS_KEY";
/// The intake speaks HTTP/1.1 alone.
const PROTOCOL: &[u8] = b"http/1.1";

/// The certificate and where it comes from. Clones share it.
#[derive(Clone)]
pub struct Certificate {
    files: KeyPair,
    current: RustlsConfig,
    /// Of the files when they were last looked at.
    seen: Option<[u8; 32]>,
}

impl Certificate {
    /// Reads it. Blocks on the disk, so only for the start.
    ///
    /// # Errors
    /// If it cannot be used, naming variable and file.
    pub fn load(files: &KeyPair) -> anyhow::Result<Self> {
        let seen = fingerprint(files);
        Ok(Self {
            files: files.clone(),
            current: RustlsConfig::from_config(server_config(files)?),
            seen,
        })
    }

    /// The configuration for the next handshake.
    pub fn current(&self) -> RustlsConfig {
        self.current.clone()
    }

    /// Keeps it up to date until it is stopped.
    ///
    /// # Errors
    /// If the process cannot listen for SIGHUP.
    pub async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        look_again(self, Self::look, LOOK_AGAIN, stop).await
    }

    /// Reads the files again when they changed, or on request.
    fn look(&mut self, asked: bool) {
        let seen = fingerprint(&self.files);
        if seen == self.seen && !asked {
            return;
        }
        self.seen = seen;
        match server_config(&self.files) {
            Ok(config) => {
                self.current.reload_from_config(config);
                tracing::info!(file = %self.files.certificate.display(), "the new certificate is used from now on");
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the new certificate cannot be used; the old one stays"
            ),
        }
    }
}

/// Of what the files hold, and not of their times: they may be links that are set to other files.
fn fingerprint(files: &KeyPair) -> Option<[u8; 32]> {
    let (certificate, key) = (std::fs::read(&files.certificate).ok()?, std::fs::read(&files.key).ok()?);
    let mut hash = Sha256::new();
    hash.update((certificate.len() as u64).to_be_bytes());
    hash.update(&certificate);
    hash.update(&key);
    Some(hash.finalize().into())
}

fn server_config(files: &KeyPair) -> anyhow::Result<Arc<ServerConfig>> {
    let (chain, key) = tls::identity(CERTIFICATE, KEY, files)?;
    let mut config = ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        // This also refuses a key that belongs to another certificate.
        .with_single_cert(chain, key)
        .with_context(|| {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            format!("{CERTIFICATE}: {certificate} with {KEY} {key} cannot be used")
        })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(Arc::new(config))
}
