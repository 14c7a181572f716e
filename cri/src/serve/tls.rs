//! TLS for `tcp://` listeners: a certificate to show, and one demanded of every client.

use crate::config::Tls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// Why the PEM files can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// A file can't be read, or holds no such thing.
    #[error("read {key} {}", file.display())]
    Pem {
        /// The configuration's key.
        key: &'static str,
        /// Which.
        file: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate of the authority can't be used.
    #[error("use {key} {}", file.display())]
    Unusable {
        /// The configuration's key.
        key: &'static str,
        /// Which.
        file: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// There is no certificate that could sign a client's.
    #[error("use tls.client_ca {}", file.display())]
    Verifier {
        /// Which.
        file: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// What makes a TLS connection of a TCP one. A client without a certificate that the authority signed gets none.
///
/// # Errors
/// [`TlsError`], with the key and the file.
pub(crate) fn acceptor(tls: &Tls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.client_ca", &tls.client_ca)? {
        roots.add(certificate).map_err(unusable("tls.client_ca", &tls.client_ca))?;
    }
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|source| TlsError::Verifier { file: tls.client_ca.clone(), source })?;
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(unreadable("tls.key", &tls.key))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable("tls.cert", &tls.cert))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(certificates("tls.cert", &tls.cert)?, key)
        .map_err(unusable("tls.cert", &tls.cert))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(key: &'static str, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(file).map_err(unreadable(key, file))?;
    let certificates = read.collect::<Result<Vec<_>, _>>().map_err(unreadable(key, file))?;
    if certificates.is_empty() {
        return Err(unreadable(key, file)(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

fn unreadable(key: &'static str, file: &Path) -> impl Fn(pem::Error) -> TlsError {
    move |source| TlsError::Pem { key, file: file.to_owned(), source }
}

fn unusable(key: &'static str, file: &Path) -> impl Fn(rustls::Error) -> TlsError {
    move |source| TlsError::Unusable { key, file: file.to_owned(), source }
}
