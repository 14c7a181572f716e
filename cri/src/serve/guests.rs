//! Who, of those whose certificate the authority has signed, may call: `tls.client_names`.
//!
//! Owns the list, which a reload changes for the connections to come, and that each stranger is told of once in the log, however often it comes back. Looks
//! at what the finished handshake has proved, not into it: so it holds for resumed sessions too, and a client that is refused can be told why.

use super::certificate::Names;
use crate::config::ClientName;
use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// So many strangers are told apart in the log; further ones are not told of.
const STRANGERS: usize = 100;

/// The list. Clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct Guests {
    allowed: Arc<ArcSwap<Vec<ClientName>>>,
    told: Arc<Mutex<BTreeSet<Names>>>,
}

impl Guests {
    /// These names; none: everybody is welcome.
    pub(super) fn new(names: &[ClientName]) -> Self {
        Self { allowed: Arc::new(ArcSwap::from_pointee(names.to_vec())), told: Arc::default() }
    }

    /// These names from the next connection on.
    pub(super) fn set(&self, names: &[ClientName]) {
        self.allowed.store(Arc::new(names.to_vec()));
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Why the client with this chain of certificates may not call; `None`: it may.
    pub(super) fn refusal(&self, shown: Option<&[CertificateDer<'_>]>) -> Option<String> {
        let allowed = self.allowed.load();
        if allowed.is_empty() {
            return None;
        }
        let names = shown.and_then(<[_]>::first).map(Names::of).unwrap_or_default();
        if allowed.iter().any(|name| names.has(name.as_str())) {
            return None;
        }
        if self.is_new(&names) {
            tracing::warn!(
                names = names.all(),
                "a client was refused: tls.client_names has none of its certificate's names"
            );
        }
        Some(format!("none of the certificate's names ({}) is in tls.client_names", names.all()))
    }

    fn is_new(&self, names: &Names) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < STRANGERS && told.insert(names.clone())
    }
}
