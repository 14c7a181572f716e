//! The connection behind a URL: version 5 of the protocol over WebSocket, the client's side.

use crate::client::error::ClientError;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use http::header::SEC_WEBSOCKET_PROTOCOL;
use serde::Deserialize;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// How long the streaming server may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
const PROTOCOL: HeaderValue = HeaderValue::from_static("v5.channel.k8s.io");

/// What comes.
#[derive(Debug)]
pub(crate) enum Said {
    /// Of standard output, or what the terminal shows. Empty ones say how far the session is.
    Output(Bytes),
    /// Of standard error.
    Errors(Bytes),
    /// How it ended.
    End(End),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// Well, or a container did to which this was attached.
    Success,
    /// The command did, with this code.
    Exit(u8),
    /// It could not be begun, or was cut off.
    Failed(String),
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl End {
    /// The end that a status tells.
    fn told(bytes: &[u8]) -> Self {
        let Ok(Status { status, message, details }) = serde_json::from_slice(bytes) else {
            return Self::Failed("the streaming server told an end that makes no sense".to_owned());
        };
        let code = details.causes.iter().find(|cause| cause.reason == "ExitCode");
        match (status.as_str(), code.and_then(|cause| cause.message.parse().ok())) {
            ("Success", _) => Self::Success,
            (_, Some(code)) => Self::Exit(code),
            (_, None) => Self::Failed(message),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
}

impl Socket {
    /// Connects to whom the daemon has named.
    ///
    /// # Errors
    /// [`ClientError::Stream`].
    pub(crate) async fn connect(url: &str) -> Result<Self, ClientError> {
        let connecting = tokio::time::timeout(CONNECT, Self::dial(url));
        let late = || failed(&format!("no answer within {} s", CONNECT.as_secs()));
        connecting.await.unwrap_or_else(|_elapsed| Err(late()))
    }

    async fn dial(url: &str) -> Result<Self, ClientError> {
        // The token in it is a secret: the URL is in no message.
        let Some(rest) = url.strip_prefix("http://") else {
            let problem = "it speaks TLS, which davit exec, attach and run do not; crictl does";
            return Err(failed(&problem));
        };
        let mut request =
            format!("ws://{rest}").into_client_request().map_err(|error| failed(&error))?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
        let host = rest.split('/').next().unwrap_or(rest);
        let socket = TcpStream::connect(host).await.map_err(|error| failed(&error))?;
        socket.set_nodelay(true).map_err(|error| failed(&error))?;
        let (stream, _) = tokio_tungstenite::client_async(request, socket)
            .await
            .map_err(|error| failed(&error))?;
        Ok(Self { stream })
    }

    /// What comes next; `None` if nothing more does.
    pub(crate) async fn next(&mut self) -> Option<Said> {
        loop {
            let bytes = match self.stream.next().await? {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                    continue;
                }
            };
            let Some(channel) = bytes.first().copied() else { continue };
            let rest = bytes.slice(1..);
            match channel {
                STDOUT => return Some(Said::Output(rest)),
                STDERR => return Some(Said::Errors(rest)),
                ERROR => return Some(Said::End(End::told(&rest))),
                // Of a newer server.
                _ => {}
            }
        }
    }

    /// Passes input on; `None` if nobody is there.
    pub(crate) async fn input(&mut self, bytes: &[u8]) -> Option<()> {
        self.send(STDIN, bytes).await
    }

    /// There is no more input.
    pub(crate) async fn end_input(&mut self) -> Option<()> {
        self.send(CLOSE, &[STDIN]).await
    }

    /// The terminal has this many columns and rows.
    pub(crate) async fn resize(&mut self, (width, height): (u16, u16)) -> Option<()> {
        let size = format!("{{\"Width\":{width},\"Height\":{height}}}");
        self.send(RESIZE, size.as_bytes()).await
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> Option<()> {
        let message = [&[channel], bytes].concat();
        self.stream.send(Message::Binary(message.into())).await.ok()
    }
}

fn failed(problem: &dyn std::fmt::Display) -> ClientError {
    ClientError::Stream { problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_success_a_code_or_a_failure() {
        let exit = r#"{"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
        let failure = r#"{"status":"Failure","message":"no such file","code":500}"#;
        assert_eq!(End::told(br#"{"status":"Success"}"#), End::Success);
        assert_eq!(End::told(exit.as_bytes()), End::Exit(3));
        assert_eq!(End::told(failure.as_bytes()), End::Failed("no such file".to_owned()));
        assert!(matches!(End::told(b"x"), End::Failed(_)));
    }
}
