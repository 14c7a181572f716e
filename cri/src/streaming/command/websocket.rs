//! Versions 1, 4 and 5 of the protocol over WebSocket.
//!
//! Owns the form of its messages: a channel, then bytes. Binary messages begin with the channel's number; in the base64 flavours it is a
//! digit, and what follows is text.
//!
//! | channel | from | holds |
//! |---|---|---|
//! | 0, 1, 2 | client, server, server | input, output, errors |
//! | 3 | server | the end: [`Status`] |
//! | 4 | client | the terminal's size |
//! | 255 | client | version 5: the number of a channel that has no more; 0 ends the input |
//!
//! All channels share one sequence, so input that the process does not read keeps everything behind it from being read, a PING too.
//! The client must not take that for death, and if it dies itself, that must be found out: while input waits, a PONG that answers
//! nothing goes out every few seconds (RFC 6455, 5.5.3 has it as a heartbeat).

use super::pump::{CHUNK, heard};
use super::resize::Sizes;
use super::status::{Outcome, Status};
use super::{CLOSING, Command, Eof, Terms};
use crate::streaming::backend::{Ended, Input, Output, Session, Size};
use crate::streaming::grant::{Kind, OnEof};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// What a client's message may have, in bytes: it is held whole. The usual clients send 32 KiB.
const MESSAGE: usize = 4 << 20;
/// While input waits, how often the client is shown that somebody is here.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What has been negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flavour {
    /// Of the protocol.
    pub(crate) version: Version,
    /// Of its messages.
    pub(crate) coding: Coding,
}

/// The protocol's versions. There are no others over WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Tells a failure as text.
    V1,
    /// Tells the end as JSON.
    V4,
    /// The input can end without the connection.
    V5,
}

/// How a message holds bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// As they are.
    Binary,
    /// As base64.
    Text,
}

impl Coding {
    /// A message of bytes, the first of which is the channel's number.
    fn frame(self, bytes: Bytes) -> Message {
        match (self, bytes.split_first()) {
            (Self::Text, Some((channel, bytes))) => {
                let mut text = String::with_capacity(1 + bytes.len().div_ceil(3) * 4);
                text.push(char::from(b'0'.wrapping_add(*channel)));
                BASE64.encode_string(bytes, &mut text);
                Message::Text(Utf8Bytes::from(text))
            }
            (Self::Text | Self::Binary, _) => Message::Binary(bytes),
        }
    }

    fn message(self, channel: u8, bytes: &[u8]) -> Message {
        self.frame([&[channel], bytes].concat().into())
    }

    /// A message's channel and what it holds; `None` for one without a channel, or without base64 where there should be some.
    fn parse(self, message: Bytes) -> Option<(u8, Bytes)> {
        let channel = *message.first()?;
        let rest = message.slice(1..);
        match self {
            Self::Binary => Some((channel, rest)),
            Self::Text => {
                let bytes = BASE64.decode(&rest).ok()?;
                Some((channel.checked_sub(b'0')?, Bytes::from(bytes)))
            }
        }
    }
}

/// Speaks with a client until one of the two has ended.
pub(crate) async fn serve<IO>(io: IO, flavour: Flavour, command: Command, terms: Terms)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE))
        .max_frame_size(Some(MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MESSAGE);
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, mut stream) = socket.split();
    let mut sender = Sender { sink, coding: flavour.coding };
    let kind = command.kind;
    let outcome = tokio::select! {
        outcome = converse(&mut sender, &mut stream, flavour, command) => outcome,
        () = terms.end.cancelled() => Some(Outcome::Stopping),
    };
    let Some(outcome) = outcome else { return };
    let status = Status::new(kind, &outcome);
    let closing = async {
        let text = if flavour.version >= Version::V4 { status.json() } else { status.text() };
        sender.finish(&text).await;
        // What the client has sent meanwhile is read away: closing over unread bytes would reset the connection, and what was sent last
        // would be lost with it.
        while let Some(Ok(_)) = stream.next().await {}
    };
    tokio::select! {
        () = closing => {}
        () = terms.activity.ceased(CLOSING) => {}
    }
}

/// From the process's start to its end; `None` if the client goes first.
async fn converse<IO>(
    sender: &mut Sender<IO>,
    stream: &mut SplitStream<WebSocketStream<IO>>,
    flavour: Flavour,
    command: Command,
) -> Option<Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let Command { kind, wanted, on_eof, start } = command;
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    // An empty message says that the connection stands.
    sender.send(flavour.coding.message(first, &[])).await?;
    let Session { stdin, stdout, stderr, resize, ended } = match start.await {
        Ok(process) => process,
        Err(problem) => return Some(Outcome::Failed(problem)),
    };
    if kind == Kind::Attach {
        // And another that the session does: who wants to start the container only then waits for it.
        sender.send(flavour.coding.message(first, &[])).await?;
    }
    let (waiting, waits) = mpsc::channel(1);
    let receiver = Receiver { flavour, stdin, on_eof, waiting, sizes: Sizes::default(), resize };
    tokio::select! {
        left = receiver.receive(stream) => left.map(Outcome::Ended),
        outcome = outwards(sender, [stdout, stderr], waits, ended) => outcome,
    }
}

/// What the process says, and how it ended; `None` if nobody listens.
async fn outwards<IO>(
    sender: &mut Sender<IO>,
    [stdout, stderr]: [Option<Output>; 2],
    mut waits: mpsc::Receiver<()>,
    ended: impl Future<Output = Result<Ended, String>>,
) -> Option<Outcome>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut stdout = stdout.map(|output| Channel::new(STDOUT, output));
    let mut stderr = stderr.map(|output| Channel::new(STDERR, output));
    let (mut ended, mut end) = (pin!(ended), None);
    while stdout.is_some() || stderr.is_some() || end.is_none() {
        let message = tokio::select! {
            bytes = next(&mut stdout), if stdout.is_some() => bytes.map(|bytes| sender.coding.frame(bytes)),
            bytes = next(&mut stderr), if stderr.is_some() => bytes.map(|bytes| sender.coding.frame(bytes)),
            Some(()) = waits.recv() => Some(Message::Pong(Bytes::new())),
            result = ended.as_mut(), if end.is_none() => {
                end = Some(result.map_or_else(Outcome::Failed, Outcome::Ended));
                None
            }
        };
        if let Some(message) = message {
            sender.send(message).await?;
        }
    }
    end
}

/// What a channel says next; when it has ended, nothing, and the channel is none any more.
async fn next(channel: &mut Option<Channel>) -> Option<Bytes> {
    let framed = channel.as_mut()?.next().await;
    if framed.is_none() {
        *channel = None;
    }
    framed
}

/// A channel of output.
struct Channel {
    number: u8,
    output: Output,
    buffer: BytesMut,
}

impl Channel {
    fn new(number: u8, output: Output) -> Self {
        Self { number, output, buffer: BytesMut::new() }
    }

    /// The channel's number and what it says next, read into place behind it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() {
            // Once the last message has been sent, this is its memory.
            self.buffer.reserve(1 + CHUNK);
            self.buffer.put_u8(self.number);
        }
        let mut room = (&mut self.buffer).limit(CHUNK);
        match heard(self.output.read_buf(&mut room).await) {
            0 => None,
            _ => Some(self.buffer.split().freeze()),
        }
    }
}

/// What goes to the client.
struct Sender<IO> {
    sink: SplitSink<WebSocketStream<IO>, Message>,
    coding: Coding,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Sender<IO> {
    /// Waits until the message is in the kernel's hands; `None` if nobody is there.
    async fn send(&mut self, message: Message) -> Option<()> {
        self.sink
            .send(message)
            .await
            .inspect_err(|error| tracing::debug!(%error, "send to a WebSocket"))
            .ok()
    }

    /// Sends the end, then closes. That nobody hears it is nobody's problem.
    async fn finish(&mut self, status: &[u8]) {
        if !status.is_empty() {
            let _gone: Option<()> = self.send(self.coding.message(ERROR, status)).await;
        }
        let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::from_static("") };
        let _gone: Option<()> = self.send(Message::Close(Some(frame))).await;
    }
}

/// What comes from the client.
struct Receiver {
    flavour: Flavour,
    stdin: Option<Input>,
    /// Told when the input has waited for a while.
    waiting: mpsc::Sender<()>,
    on_eof: OnEof,
    sizes: Sizes,
    resize: Box<dyn Fn(Size) + Send + Sync>,
}

impl Receiver {
    /// Ends when the client does: with nothing if it has gone or broken the rules, else with what its leave means.
    async fn receive<IO>(mut self, stream: &mut SplitStream<WebSocketStream<IO>>) -> Option<Ended>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        while let Some(message) = stream.next().await {
            let bytes = match message {
                Ok(Message::Binary(bytes)) => bytes,
                Ok(Message::Text(text)) => Bytes::from(text),
                // A PING has been answered already.
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => continue,
                Ok(Message::Close(_)) => return None,
                Err(error) => {
                    tracing::debug!(%error, "receive from a WebSocket");
                    return None;
                }
            };
            if self.flavour.version >= Version::V5 && bytes.first() == Some(&CLOSE) {
                match (self.close(&bytes).await, self.on_eof) {
                    (Some(Eof::Client), OnEof::Detach) => {
                        return Some(Ended::Detached { reason: None });
                    }
                    (Some(Eof::Client | Eof::Process) | None, OnEof::Detach | OnEof::Stay) => {}
                }
                continue;
            }
            match self.flavour.coding.parse(bytes) {
                Some((STDIN, bytes)) => self.input(&bytes).await,
                Some((RESIZE, bytes)) => {
                    self.sizes.last(&bytes).into_iter().for_each(&self.resize);
                }
                // As the peers do: nobody reads other channels.
                Some(_) | None => {}
            }
        }
        None
    }

    async fn input(&mut self, bytes: &[u8]) {
        let Some(stdin) = &mut self.stdin else { return };
        let mut write = pin!(stdin.write_all(bytes));
        let written = loop {
            tokio::select! {
                biased;
                written = write.as_mut() => break written,
                () = tokio::time::sleep(HEARTBEAT) => {
                    // One that waits to be sent is as good.
                    let _full = self.waiting.try_send(());
                }
            }
        };
        if let Err(error) = written {
            tracing::debug!(%error, "pass on a process's input");
            self.stdin = None;
        }
    }

    /// The second byte says which channel has no more. Only the input can.
    async fn close(&mut self, bytes: &[u8]) -> Option<Eof> {
        if bytes.get(1..) != Some(&[STDIN]) {
            return None;
        }
        if let Err(error) = self.stdin.take()?.shutdown().await {
            tracing::debug!(%error, "end a process's input");
        }
        Some(Eof::Client)
    }
}
