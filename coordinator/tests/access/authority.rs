//! Certificates, made when a test needs them.

use std::path::{Path, PathBuf};

use quern_coordinator::TlsFiles;
use quern_proto::client::ClientOptions;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};

/// Someone who vouches for others.
pub struct Authority {
    folder: PathBuf,
    name: &'static str,
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(folder: &Path, name: &'static str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        Authority { folder: folder.into(), name, certificate, issuer: Issuer::new(params, key) }
    }

    /// Its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.pem", self.name))
    }

    /// A certificate for 127.0.0.1 with its key; files of the same name are replaced.
    pub fn vouch(&self, name: &str) -> (PathBuf, PathBuf) {
        self.write(name, Self::params())
    }

    /// One that was valid until long ago.
    pub fn vouch_until_long_ago(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = Self::params();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
        self.write(name, params)
    }

    fn params() -> CertificateParams {
        CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap()
    }

    fn write(&self, name: &str, params: CertificateParams) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let file = |ending: &str, text: String| {
            let (new, file) = (self.folder.join("new"), self.folder.join(format!("{name}.{ending}")));
            std::fs::write(&new, text).unwrap();
            std::fs::rename(&new, &file).unwrap();
            file
        };
        (file("crt", certificate.pem() + &self.certificate.pem()), file("key", key.serialize_pem()))
    }

    /// A coordinator's files.
    pub fn server(&self, client_ca: Option<&Authority>) -> TlsFiles {
        let (certificate, key) = self.vouch("server");
        TlsFiles { certificate, key, client_ca: client_ca.map(Authority::file) }
    }

    /// A client that believes this authority, with a certificate of its own.
    pub fn client(&self, own: Option<(PathBuf, PathBuf)>) -> ClientOptions {
        let (cert, key) = own.unzip();
        ClientOptions { ca: Some(self.file()), cert, key, ..ClientOptions::default() }
    }
}
