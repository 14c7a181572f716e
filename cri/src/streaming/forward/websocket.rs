//! `v4.channel.k8s.io`: a WebSocket on which each port of the request has two channels.
//!
//! A message's first byte is its channel: 2n for the data of the n-th port, 2n + 1 for its error. The first message on each says which
//! port that is, in two bytes, the lower one first. These come before everything else and in the channels' order, in which clients wait for
//! them. A channel can't be ended by itself: the socket is closed when every port is done.
//! In `v4.base64.channel.k8s.io` messages are text: the channel as a character counted from '0', then the bytes in base64.
//!
//! Bytes wait in a pipe of bounded size per port; one that takes nothing holds up the others as in [`super::spdy`], and is given up alike.

use super::Dial;
use super::connection::{self, Client, End, ForwardError};
use super::tunnel::normal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_util::sync::{CancellationToken, PollSender};

/// Bytes from the client that wait for a port.
const PIPE: usize = 256 * 1024;
/// Messages that wait for the client, of all ports.
const QUEUE: usize = 8;
/// Bytes of data in a message.
const CHUNK: usize = 64 * 1024;
/// How long a port that takes nothing may hold up the others.
const STALL: Duration = Duration::from_secs(30);
/// How long a client has for saying goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// How bytes are put into messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    Base64,
}

/// What to forward.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) codec: Codec,
    /// From the query, see [`super::port::from_query`]: no more than have their two channels.
    pub(crate) ports: Vec<u16>,
    /// How messages name the pod.
    pub(crate) pod: String,
    /// A session where nothing went either way for so long, and at most for twice as long, is ended.
    pub(crate) idle: Duration,
}

/// Forwards one connection for each port, until all have ended or the client goes.
pub(crate) async fn serve<IO>(socket: WebSocketStream<IO>, request: Request, dial: impl Dial)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sink, stream) = socket.split();
    let (messages, queued) = mpsc::channel(QUEUE);
    let mut forwards = JoinSet::new();
    let ports = request
        .ports
        .iter()
        .enumerate()
        .filter_map(|(at, &port)| {
            let channel = u8::try_from(at.checked_mul(2)?).ok()?;
            let task = Task {
                port,
                pod: request.pod.clone(),
                data: Channel::new(channel, request.codec, &messages),
                dial: dial.clone(),
            };
            Some(Port::spawn(task, &mut forwards))
        })
        .collect();
    // The queue ends when every port's sender is gone: that is when all have ended, and all they said is in it.
    drop(messages);
    let mut receiving = Receiving { stream, codec: request.codec, ports };
    let activity = tokio::sync::watch::Sender::new(());
    let (idle, tally) = (request.idle, activity.subscribe());
    let writing = async {
        if announce(&mut sink, &request).await.is_ok() {
            write(sink, queued, &activity).await;
        }
    };
    tokio::select! {
        () = writing => receiving.goodbye().await,
        () = receiving.run(&activity) => {}
        () = quiet(tally, idle) => {}
    }
}

/// Says which port each channel is for, of each port the data's first.
async fn announce<IO>(
    sink: &mut SplitSink<WebSocketStream<IO>, Message>,
    request: &Request,
) -> Result<(), tungstenite::Error>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    for (port, channel) in request.ports.iter().zip((0..=u8::MAX).step_by(2)) {
        for channel in [channel, channel.saturating_add(1)] {
            sink.feed(request.codec.encode(channel, &port.to_le_bytes())).await?;
        }
    }
    sink.flush().await
}

/// Until nothing has gone either way for long.
async fn quiet(mut tally: tokio::sync::watch::Receiver<()>, idle: Duration) {
    loop {
        tally.mark_unchanged();
        tokio::time::sleep(idle).await;
        match tally.has_changed() {
            Ok(true) => {}
            Ok(false) | Err(_) => return,
        }
    }
}

/// Takes what the ports say to the client, and the goodbye when all have.
async fn write<IO>(
    mut sink: SplitSink<WebSocketStream<IO>, Message>,
    mut queued: mpsc::Receiver<Message>,
    activity: &tokio::sync::watch::Sender<()>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = queued.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
        activity.send_replace(());
    }
    if let Err(gone) = sink.send(Message::Close(Some(normal()))).await {
        tracing::debug!(%gone, "close a WebSocket");
    }
}

/// The client's messages and whom they are for.
struct Receiving<IO> {
    stream: SplitStream<WebSocketStream<IO>>,
    codec: Codec,
    ports: Vec<Port>,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Receiving<IO> {
    async fn run(&mut self, activity: &tokio::sync::watch::Sender<()>) {
        while let Some(Ok(message)) = self.stream.next().await {
            activity.send_replace(());
            let Some((channel, bytes)) = self.codec.decode(message) else {
                continue;
            };
            let several = self.ports.len() > 1;
            // Nothing but data is the client's to send.
            let port = self.ports.get_mut(usize::from(channel / 2));
            if let (Some(port), 0) = (port, channel % 2) {
                port.take(&bytes, several.then_some(STALL)).await;
            }
        }
    }

    /// Reads on until the client has said goodbye too: a socket that is closed with something unread takes back what was written.
    async fn goodbye(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.stream.next().await {} };
        if tokio::time::timeout(GOODBYE, rest).await.is_err() {
            tracing::debug!("a WebSocket's client does not close it");
        }
    }
}

/// The client's end of one port's connection.
struct Port {
    /// Into the connection; gone when it takes no more.
    pipe: Option<DuplexStream>,
    stuck: CancellationToken,
}

impl Port {
    fn spawn(task: Task<impl Dial>, tasks: &mut JoinSet<()>) -> Self {
        let (pipe, from_client) = tokio::io::duplex(PIPE);
        let stuck = CancellationToken::new();
        tasks.spawn(task.run(from_client, stuck.clone()));
        Self { pipe: Some(pipe), stuck }
    }

    /// Hands bytes to the connection, for as long as it may take.
    async fn take(&mut self, bytes: &[u8], patience: Option<Duration>) {
        let Some(pipe) = &mut self.pipe else {
            return;
        };
        let writing = pipe.write_all(bytes);
        let taken = match patience {
            Some(patience) => tokio::time::timeout(patience, writing).await,
            None => Ok(writing.await),
        };
        match taken {
            Ok(Ok(())) => {}
            Ok(Err(_)) => self.pipe = None,
            Err(_) => {
                self.stuck.cancel();
                self.pipe = None;
            }
        }
    }
}

/// The pod's end of it.
struct Task<D> {
    port: u16,
    pod: String,
    data: Channel,
    dial: D,
}

impl<D: Dial> Task<D> {
    async fn run(self, from_client: DuplexStream, stuck: CancellationToken) {
        let mut errors = self.data.errors();
        let port = self.port;
        let outcome = tokio::select! {
            outcome = self.forward(from_client) => outcome,
            () = stuck.cancelled() => Err(ForwardError::Stuck(port)),
        };
        if let Err(why) = outcome {
            tracing::debug!(%why, "forward a port");
            // A client that is gone can't be told.
            drop(errors.write_all(why.to_string().as_bytes()).await);
        }
    }

    async fn forward(self, from_client: DuplexStream) -> Result<(), ForwardError> {
        let pod = connection::dial(&self.dial, &self.pod, self.port).await?;
        let reader = BufReader::with_capacity(CHUNK, from_client);
        let halves = (reader, self.data);
        let never = std::future::pending();
        let end = connection::copy(halves, pod, Client::EndsNothing, never).await;
        if end == End::Broken {
            tracing::debug!(self.port, "a forwarded connection broke");
        }
        Ok(())
    }
}

/// One channel, towards the client. It has no end of its own.
struct Channel {
    number: u8,
    codec: Codec,
    messages: PollSender<Message>,
}

impl Channel {
    fn new(number: u8, codec: Codec, messages: &mpsc::Sender<Message>) -> Self {
        Self { number, codec, messages: PollSender::new(messages.clone()) }
    }

    /// The error channel of a data channel.
    fn errors(&self) -> Self {
        Self {
            number: self.number.saturating_add(1),
            codec: self.codec,
            messages: self.messages.clone(),
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if ready!(self.messages.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let bytes = bytes.get(..CHUNK).unwrap_or(bytes);
        let message = self.codec.encode(self.number, bytes);
        let sent = self.messages.send_item(message);
        Poll::Ready(match sent {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Codec {
    fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = Vec::with_capacity(bytes.len().saturating_add(1));
                message.push(channel);
                message.extend_from_slice(bytes);
                Message::binary(message)
            }
            Self::Base64 => {
                let mut message = String::from(char::from(channel.saturating_add(b'0')));
                STANDARD.encode_string(bytes, &mut message);
                Message::text(message)
            }
        }
    }

    /// A message's channel and bytes; `None` for one that has none, or is none of this protocol.
    pub(super) fn decode(self, message: Message) -> Option<(u8, Bytes)> {
        // Either kind of message may carry either, as with the peers; what decides is what was agreed on.
        let mut bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::from(text),
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
                return None;
            }
        };
        let (&channel, _) = bytes.split_first()?;
        bytes.advance(1);
        match self {
            Self::Binary => Some((channel, bytes)),
            Self::Base64 => {
                let channel = channel.checked_sub(b'0')?;
                Some((channel, STANDARD.decode(&bytes).ok()?.into()))
            }
        }
    }
}
