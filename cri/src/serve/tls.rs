//! TLS for TCP listeners: a certificate to show, and, where the configuration says so, one demanded of every client.
//!
//! Owns what the PEM files hold, as of the last time they were read. [`Certificates::read_again`] does: connections that are
//! there go on with what they began with.

use super::guests::Guests;
use crate::config::{ClientName, Tls};
use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};
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
        key: String,
        /// Which.
        file: PathBuf,
        /// Why.
        source: pem::Error,
    },
    /// A certificate of the authority can't be used.
    #[error("use {key} {}", file.display())]
    Unusable {
        /// The configuration's key.
        key: String,
        /// Which.
        file: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// There is no certificate that could sign a client's.
    #[error("use {key} {}", file.display())]
    Verifier {
        /// The configuration's key.
        key: String,
        /// Which.
        file: PathBuf,
        /// Why.
        source: rustls::server::VerifierBuilderError,
    },
}

/// Which listener the certificates are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// gRPC on `tcp://`: `[tls]`.
    Calls,
    /// `streaming_listen`: `[streaming_tls]`.
    Streams,
    /// `metrics_listen`: `[metrics_tls]`.
    Metrics,
}

impl Purpose {
    fn table(self) -> &'static str {
        match self {
            Self::Calls => "tls",
            Self::Streams => "streaming_tls",
            Self::Metrics => "metrics_tls",
        }
    }

    /// What is spoken, for a client that asks. Upgrades exist in HTTP/1.1 only.
    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Calls => b"h2",
            Self::Streams | Self::Metrics => b"http/1.1",
        }
    }
}

/// What makes TLS connections of TCP ones. Clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    purpose: Purpose,
    files: Tls,
    current: Arc<ArcSwap<ServerConfig>>,
    guests: Guests,
}

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`], with the key and the file.
    pub(crate) fn read(purpose: Purpose, files: &Tls) -> Result<Self, TlsError> {
        let current = Arc::new(ArcSwap::from_pointee(server_config(purpose, files)?));
        Ok(Self {
            purpose,
            files: files.clone(),
            current,
            guests: Guests::new(&files.client_names),
        })
    }

    /// Reads the files again. Nothing changes until [`Renewal::show`].
    ///
    /// # Errors
    /// [`TlsError`], with the key and the file.
    pub(crate) fn read_again(&self) -> Result<Renewal, TlsError> {
        let config = Arc::new(server_config(self.purpose, &self.files)?);
        Ok(Renewal { current: Arc::clone(&self.current), config })
    }

    /// Who may call from the next connection on, where calls are taken.
    pub(crate) fn invite(&self, names: &[ClientName]) {
        match self.purpose {
            Purpose::Calls => self.guests.set(names),
            Purpose::Streams | Purpose::Metrics => {}
        }
    }

    /// Why this client, whose handshake is done, may not call; `None`: it may.
    pub(crate) fn refusal(&self, connection: &ServerConnection) -> Option<String> {
        self.guests.refusal(connection.peer_certificates())
    }

    /// For the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }
}

/// What the files hold now.
#[derive(Debug)]
pub(crate) struct Renewal {
    current: Arc<ArcSwap<ServerConfig>>,
    config: Arc<ServerConfig>,
}

impl Renewal {
    /// From the next connection on.
    pub(crate) fn show(self) {
        self.current.store(self.config);
    }
}

fn server_config(purpose: Purpose, files: &Tls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let named = |field: &str, file: &Path| Named {
        key: format!("{}.{field}", purpose.table()),
        file: file.to_owned(),
    };
    let (cert, key) = (named("cert", &files.cert), named("key", &files.key));
    let private =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|source| key.unreadable(source))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|source| cert.unusable(source))?;
    let builder = match &files.client_ca {
        Some(ca) => builder.with_client_cert_verifier(verifier(&named("client_ca", ca), provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(cert.certificates()?, private)
        .map_err(|source| cert.unusable(source))?;
    config.alpn_protocols = vec![purpose.protocol().to_vec()];
    Ok(config)
}

/// A client without a certificate that the authority signed gets no connection.
fn verifier(
    ca: &Named,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in ca.certificates()? {
        roots.add(certificate).map_err(|source| ca.unusable(source))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|source| TlsError::Verifier { key: ca.key.clone(), file: ca.file.clone(), source })
}

/// A PEM file and the key of the configuration that names it.
struct Named {
    key: String,
    file: PathBuf,
}

impl Named {
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let read =
            CertificateDer::pem_file_iter(&self.file).map_err(|source| self.unreadable(source))?;
        let certificates =
            read.collect::<Result<Vec<_>, _>>().map_err(|source| self.unreadable(source))?;
        if certificates.is_empty() {
            return Err(self.unreadable(pem::Error::NoItemsFound));
        }
        Ok(certificates)
    }

    fn unreadable(&self, source: pem::Error) -> TlsError {
        TlsError::Pem { key: self.key.clone(), file: self.file.clone(), source }
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable { key: self.key.clone(), file: self.file.clone(), source }
    }
}
