//! TLS at the door: the configuration that the files describe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_proto::{FileError, Rotating};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::TlsFiles;

/// The configuration, and the next one when a file changes.
///
/// # Errors
/// When a file can't be used.
pub(crate) fn configuration(files: &TlsFiles) -> Result<Rotating<Arc<ServerConfig>>, FileError> {
    let own = [files.certificate.clone(), files.key.clone()];
    Rotating::open(own.into_iter().chain(files.client_ca.clone()).collect(), read)
}

fn read(files: &[PathBuf]) -> Result<Arc<ServerConfig>, FileError> {
    let (certificate, key) = (&files[0], &files[1]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("the provider has the ciphers of TLS 1.2 and 1.3");
    let builder = match files.get(2) {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(authorities)? {
                roots.add(authority).map_err(|error| FileError::new(authorities, error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| FileError::new(authorities, error))?)
        }
    };
    let secret = PrivateKeyDer::from_pem_slice(&FileError::read(key)?)
        .map_err(|_| FileError::new(key, "it holds no private key in PEM"))?;
    let mut config = builder
        .with_single_cert(certificates(certificate)?, secret)
        .map_err(|error| FileError::new(certificate, format!("with the key {}: {error}", key.display())))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = FileError::read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(FileError::new(file, "it holds no certificate in PEM")),
    }
}
