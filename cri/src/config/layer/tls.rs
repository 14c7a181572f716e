//! What each listener shows and demands: the tables `[tls]`, `[streaming_tls]` and `[metrics_tls]`.
//!
//! Owns their keys. Three types rather than one: each key is a flag too, and those have names of their own.

use crate::config::access::ClientName;
use crate::config::value::AbsolutePath;
use serde::{Deserialize, Serialize};

/// `[tls]`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Tls {
    /// The certificate that tcp:// listeners show (PEM)
    #[arg(long = "tls-cert", id = "tls-cert", value_name = "FILE")]
    pub(crate) cert: Option<AbsolutePath>,
    /// Its key (PEM)
    #[arg(long = "tls-key", id = "tls-key", value_name = "FILE")]
    pub(crate) key: Option<AbsolutePath>,
    /// Who signs the certificates that clients must show (PEM)
    #[arg(long = "tls-client-ca", id = "tls-client-ca", value_name = "FILE")]
    pub(crate) client_ca: Option<AbsolutePath>,
    /// A name, the subject's or a DNS one, that a client's certificate must have; may be given more than once; any unless given
    #[arg(long = "tls-client-names", id = "tls-client-names", value_name = "NAME")]
    pub(crate) client_names: Option<Vec<ClientName>>,
}

/// `[streaming_tls]`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StreamingTls {
    /// The certificate that the streaming listener shows (PEM); without one it speaks plain HTTP
    #[arg(long = "streaming-tls-cert", id = "streaming-tls-cert", value_name = "FILE")]
    pub(crate) cert: Option<AbsolutePath>,
    /// Its key (PEM)
    #[arg(long = "streaming-tls-key", id = "streaming-tls-key", value_name = "FILE")]
    pub(crate) key: Option<AbsolutePath>,
    /// Who signs the certificates that clients of the streaming listener must show (PEM); none are demanded without it
    #[arg(long = "streaming-tls-client-ca", id = "streaming-tls-client-ca", value_name = "FILE")]
    pub(crate) client_ca: Option<AbsolutePath>,
}

/// `[metrics_tls]`: PEM files.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct MetricsTls {
    /// The certificate that the metrics listener shows (PEM); without one it speaks plain HTTP
    #[arg(long = "metrics-tls-cert", id = "metrics-tls-cert", value_name = "FILE")]
    pub(crate) cert: Option<AbsolutePath>,
    /// Its key (PEM)
    #[arg(long = "metrics-tls-key", id = "metrics-tls-key", value_name = "FILE")]
    pub(crate) key: Option<AbsolutePath>,
    /// Who signs the certificates that clients of the metrics listener must show (PEM); none are demanded without it
    #[arg(long = "metrics-tls-client-ca", id = "metrics-tls-client-ca", value_name = "FILE")]
    pub(crate) client_ca: Option<AbsolutePath>,
}

impl Tls {
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            cert: over.cert.or(self.cert),
            key: over.key.or(self.key),
            client_ca: over.client_ca.or(self.client_ca),
            client_names: over.client_names.or(self.client_names),
        }
    }
}

impl StreamingTls {
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            cert: over.cert.or(self.cert),
            key: over.key.or(self.key),
            client_ca: over.client_ca.or(self.client_ca),
        }
    }
}

impl MetricsTls {
    pub(super) fn under(self, over: Self) -> Self {
        Self {
            cert: over.cert.or(self.cert),
            key: over.key.or(self.key),
            client_ca: over.client_ca.or(self.client_ca),
        }
    }
}
