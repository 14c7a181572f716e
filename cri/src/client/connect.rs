//! The connection to a daemon: an address, one channel, and the three services on it.

use super::error::ClientError;
use crate::config::Listen;
use davit_proto::admin::davit_client::DavitClient;
use davit_proto::cri::image_service_client::ImageServiceClient;
use davit_proto::cri::runtime_service_client::RuntimeServiceClient;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// The longest message, both ways: the daemon's own limit.
const MESSAGE_MAX: usize = 16 * 1024 * 1024;
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);

/// Where a daemon listens, in the words of its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address(Listen);

impl FromStr for Address {
    type Err = <Listen as FromStr>::Err;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A connected daemon. Clones share the connection.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    /// CRI's RuntimeService.
    pub(crate) runtime: RuntimeServiceClient<Channel>,
    /// CRI's ImageService.
    pub(crate) image: ImageServiceClient<Channel>,
    /// davit's own.
    pub(crate) davit: DavitClient<Channel>,
}

impl Daemon {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody answers.
    pub(crate) async fn connect(address: &Address) -> Result<Self, ClientError> {
        let failed = |error: tonic::transport::Error| ClientError::Connect {
            address: address.to_string(),
            problem: innermost(&error),
        };
        let channel = match &address.0 {
            Listen::Tcp(tcp) => {
                let endpoint = Endpoint::from_shared(format!("http://{tcp}")).map_err(failed)?;
                endpoint.connect_timeout(CONNECT).connect().await.map_err(failed)?
            }
            Listen::Unix(path) => {
                let path = path.clone();
                // The authority is never looked at; the connector knows the way.
                let endpoint = Endpoint::from_static("http://localhost").connect_timeout(CONNECT);
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { UnixStream::connect(path).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await.map_err(failed)?
            }
        };
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            image: ImageServiceClient::new(channel.clone())
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            davit: DavitClient::new(channel)
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
        })
    }
}

/// What is at the bottom of an error: "transport error" says nothing, "No such file or directory" does.
fn innermost(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}
