//! A WebSocket to a kubelet: many streams in one connection, the first byte of each message telling which.
//!
//! Owns the connection. Speaks `v5.channel.k8s.io` and its like for exec and attach, and the port forward's form of it, where
//! the first message of each stream is the port's number.

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;

/// No message takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

/// What came on one of the streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which one: 0 is standard input, 1 standard output, 2 standard error, 3 how it ended; for a port forward 0 is data, 1 errors.
    pub stream: u8,
    /// The content.
    pub data: Vec<u8>,
}

/// An open WebSocket.
#[derive(Debug)]
pub struct Socket {
    executor: Arc<tokio::runtime::Runtime>,
    stream: WebSocketStream<TlsStream<TcpStream>>,
}

impl Socket {
    pub(super) fn open(
        executor: Arc<tokio::runtime::Runtime>,
        stream: TlsStream<TcpStream>,
        url: &str,
        protocol: &str,
    ) -> Result<Self> {
        let mut request = url.into_client_request().context("write the request")?;
        let name = HeaderValue::from_str(protocol).context("write the protocol's name")?;
        request.headers_mut().insert("Sec-WebSocket-Protocol", name);
        let opened = executor.block_on(async {
            tokio::time::timeout(DEADLINE, tokio_tungstenite::client_async(request, stream)).await
        });
        let (stream, answer) = opened.context("the kubelet took too long")??;
        let chosen = answer.headers().get("Sec-WebSocket-Protocol");
        if chosen.is_none_or(|chosen| chosen != protocol) {
            bail!("asked for {protocol}, got {chosen:?}");
        }
        Ok(Self { executor, stream })
    }

    /// Writes to a stream.
    ///
    /// # Errors
    /// If the connection is gone.
    pub fn write(&mut self, stream: u8, data: &[u8]) -> Result<()> {
        let mut message = vec![stream];
        message.extend_from_slice(data);
        let Self { executor, stream } = self;
        executor.block_on(stream.send(Message::binary(message))).context("write to the WebSocket")
    }

    /// Closes a stream for writing, which the protocol's version 5 has a message for.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub fn close(&mut self, stream: u8) -> Result<()> {
        self.write(255, &[stream])
    }

    /// What comes next; nothing once the other side has closed.
    ///
    /// # Errors
    /// If nothing comes in time, or the connection breaks.
    pub fn read(&mut self) -> Result<Option<Frame>> {
        let Self { executor, stream } = self;
        executor.block_on(async {
            loop {
                let next = tokio::time::timeout(DEADLINE, stream.next());
                let message = next.await.context("nothing came over the WebSocket")?;
                let data = match message.transpose().context("read from the WebSocket")? {
                    Some(Message::Binary(data)) => data,
                    Some(Message::Ping(_) | Message::Pong(_)) => continue,
                    Some(Message::Close(_)) | None => return Ok(None),
                    Some(other) => bail!("an unexpected message: {other:?}"),
                };
                let Some((stream, data)) = data.split_first() else { continue };
                // Each stream is opened with an empty message.
                if !data.is_empty() {
                    return Ok(Some(Frame { stream: *stream, data: data.to_vec() }));
                }
            }
        })
    }

    /// All that comes on a stream until it is as wanted.
    ///
    /// # Errors
    /// As [`Self::read`], or if the other side closes before.
    pub fn read_until(&mut self, stream: u8, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let (mut text, mut others) = (String::new(), String::new());
        while !wanted(&text) {
            let frame = self
                .read()?
                .with_context(|| format!("closed after {text:?}; on other streams: {others:?}"))?;
            let into = if frame.stream == stream { &mut text } else { &mut others };
            into.push_str(&String::from_utf8_lossy(&frame.data));
        }
        Ok(text)
    }

    /// All that comes on the streams 1, 2 and 3 until the other side closes.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_to_end(&mut self) -> Result<[String; 3]> {
        let mut texts = [const { Vec::new() }; 3];
        while let Some(frame) = self.read()? {
            let place = usize::from(frame.stream).checked_sub(1);
            let text = place.and_then(|place| texts.get_mut(place));
            text.with_context(|| format!("unexpected: {frame:?}"))?.extend_from_slice(&frame.data);
        }
        Ok(texts.map(|text| String::from_utf8_lossy(&text).into_owned()))
    }
}
