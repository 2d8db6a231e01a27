//! TLS of the hub's outgoing connections, and reading PEM files.
//!
//! A server's certificate is always verified, its name included; no switch turns this off, and only the health check of the
//! hub on this machine does without. The authority is the one that the settings name, or else those of the machine.

use std::{
    path::Path,
    sync::{Arc, LazyLock},
};

use anyhow::{Context as _, anyhow, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{self, CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use rustls_platform_verifier::Verifier;

use crate::config::{ClientTls, KeyPair};

/// Most bytes of a PEM file: a bundle of all public authorities has some 250 KB.
const MAX_PEM_BYTES: u64 = 1024 * 1024;

/// A chain of certificates and the key of its first.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Verifies by the authorities of this machine, which are read once: there are some hundred, in as many files.
static OF_MACHINE: LazyLock<Result<Arc<Verifier>, rustls::Error>> =
    LazyLock::new(|| Verifier::new(provider()).map(Arc::new));

/// The TLS configuration of connections with these settings.
///
/// # Errors
/// If a file cannot be read or used, naming its variable.
pub fn client(settings: &ClientTls) -> anyhow::Result<ClientConfig> {
    let prefix = &settings.prefix;
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?;
    let builder = match &settings.ca {
        Some(file) => builder.with_root_certificates(authorities(&format!("{prefix}_TLS_CA"), file)?),
        None => match &*OF_MACHINE {
            Ok(verifier) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::<Verifier>::clone(verifier)),
            // No error yet, because TLS may not be needed. A TLS connection will fail because no authority is trusted.
            Err(error) => {
                tracing::debug!(%error, "this machine has no certificate authorities; {prefix}_TLS_CA names one");
                builder.with_root_certificates(RootCertStore::empty())
            }
        },
    };
    match &settings.client {
        None => Ok(builder.with_no_client_auth()),
        Some(files) => {
            let variable = format!("{prefix}_TLS_CERT");
            let (chain, key) = identity(&variable, &format!("{prefix}_TLS_KEY"), files)?;
            let config = builder.with_client_auth_cert(chain, key);
            config.with_context(|| format!("{variable}: {} and its key cannot be used", files.certificate.display()))
        }
    }
}

/// What a connection to this machine's own hub is made with, by an address that its certificate does not name: any certificate
/// will do.
///
/// # Errors
/// If TLS cannot be set up.
pub fn unverified() -> anyhow::Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(UnverifiedServer(provider())))
        .with_no_client_auth())
}

#[derive(Debug)]
struct UnverifiedServer(Arc<CryptoProvider>);

impl ServerCertVerifier for UnverifiedServer {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        crypto::verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The only cryptography that is linked.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// Reads a certificate with its chain, and its key.
///
/// # Errors
/// If a file cannot be read or holds none, naming its variable.
pub fn identity(certificate: &str, key: &str, files: &KeyPair) -> anyhow::Result<Identity> {
    let chain = certificates(certificate, &files.certificate)?;
    let bytes = read(key, &files.key)?;
    // The parser's own message could quote the key, so it is dropped.
    let found = PrivateKeyDer::from_pem_slice(&bytes)
        .map_err(|_| anyhow!("{key}: {} holds no unencrypted private key in PEM", files.key.display()))?;
    Ok((chain, found))
}

fn authorities(variable: &str, file: &Path) -> anyhow::Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(variable, file)? {
        store.add(certificate).with_context(|| {
            format!(
                "{variable}: {} contains something that is not an authority",
                file.display()
            )
        })?;
    }
    Ok(store)
}

/// Reads certificates in PEM. Blocks on the disk.
///
/// # Errors
/// If the file cannot be read or holds none, naming its variable.
pub fn certificates(variable: &str, file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = read(variable, file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| anyhow!("{variable}: {} is not PEM: {error}", file.display()))?;
    if found.is_empty() {
        bail!("{variable}: {} holds no certificate in PEM", file.display());
    }
    Ok(found)
}

fn read(variable: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("{variable}: cannot read {}", file.display());
    let size = std::fs::metadata(file).with_context(cannot)?.len();
    if size > MAX_PEM_BYTES {
        bail!("{variable}: {} is larger than {MAX_PEM_BYTES} bytes", file.display());
    }
    std::fs::read(file).with_context(cannot)
}
