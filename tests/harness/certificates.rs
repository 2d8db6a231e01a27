//! Certificates of a test's own: an authority that only the test trusts, and the certificates that it signs.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use chrono::{Datelike as _, NaiveDate, TimeDelta, Utc};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;
use uuid::Uuid;

/// What the servers of the tests are called.
const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

/// An authority and the folder where all of its files are.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = named(&format!("authority {}", Uuid::new_v4()), &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, folder }
    }

    /// Its own certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for the servers of the tests.
    pub(crate) fn server(&self, file: &str) -> Files {
        self.sign(file, &NAMES)
    }

    /// A certificate for these names, in files of this name; replaces those that are there.
    pub(crate) fn sign(&self, file: &str, names: &[&str]) -> Files {
        let key = KeyPair::generate().unwrap();
        let certificate = named(file, names).signed_by(&key, &self.issuer).unwrap();
        self.write(file, &certificate.pem(), &key)
    }

    /// A certificate for the servers of the tests that holds for a year, of which so many days are left.
    pub(crate) fn ends_in(&self, file: &str, days: i64) -> Files {
        let day = |day: NaiveDate| rcgen::date_time_ymd(day.year(), day.month() as u8, day.day() as u8);
        let end = Utc::now().date_naive() + TimeDelta::days(days);
        let mut params = named(file, &NAMES);
        (params.not_before, params.not_after) = (day(end - TimeDelta::days(365)), day(end));
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        self.write(file, &certificate.pem(), &key)
    }

    /// A certificate for the servers of the tests that only itself vouches for.
    pub(crate) fn self_signed(&self, file: &str) -> Files {
        let key = KeyPair::generate().unwrap();
        let certificate = named(file, &NAMES).self_signed(&key).unwrap();
        self.write(file, &certificate.pem(), &key)
    }

    fn write(&self, file: &str, certificate: &str, key: &KeyPair) -> Files {
        let place = |end: &str| self.folder.path().join(format!("{file}.{end}"));
        let files = Files {
            certificate: place("pem"),
            key: place("key"),
        };
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::write(&files.certificate, certificate).unwrap();
        files
    }

    /// The TLS configuration of a client that trusts only this authority.
    pub(crate) fn client(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let config = rustls::ClientConfig::builder().with_root_certificates(roots);
        Arc::new(config.with_no_client_auth())
    }
}

impl Files {
    /// The certificate, as a client sees it.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.certificate).unwrap()
    }

    /// How a server that has it speaks TLS.
    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let config = rustls::ServerConfig::builder().with_no_client_auth();
        Arc::new(config.with_single_cert(vec![self.der()], key).unwrap())
    }

    /// How a server that has it speaks TLS with whom this authority knows.
    pub(crate) fn server_for(&self, clients: &Authority) -> Arc<rustls::ServerConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(clients.issuer.der().clone()).unwrap();
        let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build();
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let config = rustls::ServerConfig::builder().with_client_cert_verifier(verifier.unwrap());
        Arc::new(config.with_single_cert(vec![self.der()], key).unwrap())
    }
}

/// A path as the environment takes it.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn named(name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
