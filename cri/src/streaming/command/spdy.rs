//! Versions 1 to 4 of the protocol over SPDY.
//!
//! Owns which streams a version has and what they are for. The client opens them, in any order, each with a header that names it; the
//! process begins when all are there.
//!
//! ```text
//! streams opened ──all there──► process started ──output ended, process ended──► status, FIN ──► closed
//!       │ timeout                     │ can't be                                    ▲
//!       └─────────────────────────────┴─────────────────────────────────────────────┘
//! ```

use super::pump;
use super::resize::Sizes;
use super::status::{Outcome, Status};
use super::{CLOSING, Command, Eof, Terms};
use crate::streaming::backend::{Ended, Input, Output, Session, Size};
use crate::streaming::grant::{Kind, OnEof, Wanted};
use crate::streaming::spdy::{self, Incoming, Limits, Reader, Stream, Writer};
use futures_util::future::{join, pending};
use std::convert::Infallible;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt};

/// More than any version has.
const STREAMS: usize = 16;

/// What has been negotiated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Ends the input from the server's side and resets the error stream as soon as all are there: what the first servers did by
    /// mistake, and clients of that version rely on.
    V1,
    /// Neither of these.
    V2,
    /// Has a stream of terminal sizes.
    V3,
    /// Tells the end as JSON.
    V4,
}

/// Speaks with a client until one of the two has ended.
pub(crate) async fn serve<IO>(io: IO, version: Version, command: Command, terms: Terms)
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let limits = Limits { streams: STREAMS, idle: terms.idle, ..Limits::default() };
    let mut session = spdy::serve(io, limits);
    let closer = session.closer();
    let Command { kind, wanted, on_eof, start } = command;
    let mut streams = Streams::default();
    let expected = Expected { wanted, version };
    let opened = tokio::select! {
        opened = tokio::time::timeout(terms.creation, streams.open(&mut session, expected)) => opened,
        () = terms.end.cancelled() => return,
    };
    let mut error = match streams.error.take() {
        Some(error) if version > Version::V1 => Some(error.split().1),
        Some(error) => {
            error.reset();
            None
        }
        None => None,
    };
    let (readers, mut writers) = streams.split();
    if let (Version::V1, Some(stdin)) = (version, &mut writers.stdin) {
        drop(stdin.shutdown().await);
    }
    let outcome = match opened {
        Ok(Opened::All) => {
            let work = async {
                match start.await {
                    Ok(process) => converse(process, readers, &mut writers, on_eof).await,
                    Err(problem) => Outcome::Failed(problem),
                }
            };
            tokio::select! {
                () = refuse_more(&mut session) => return,
                outcome = work => outcome,
                () = terms.end.cancelled() => Outcome::Stopping,
            }
        }
        Ok(Opened::Gone) => return,
        Err(_elapsed) => Outcome::Failed("its streams were not opened in time".to_owned()),
    };
    if let Some(error) = &mut error {
        tell(error, version, kind, &outcome).await;
    }
    tokio::select! {
        () = closer.close() => {}
        () = terms.activity.ceased(CLOSING) => {}
    }
}

/// Nobody is left to hear that it can't be told.
async fn tell(error: &mut Writer, version: Version, kind: Kind, outcome: &Outcome) {
    let status = Status::new(kind, outcome);
    let bytes = if version >= Version::V4 { status.json() } else { status.text() };
    if error.write_all(&bytes).await.is_ok() {
        drop(error.shutdown().await);
    }
}

/// Ends when the client has gone.
async fn refuse_more(session: &mut spdy::Session) {
    while let Some(more) = session.accept().await {
        more.refuse();
    }
}

#[derive(Debug, Clone, Copy)]
struct Expected {
    wanted: Wanted,
    version: Version,
}

enum Opened {
    All,
    Gone,
}

/// The streams of one client.
#[derive(Debug, Default)]
struct Streams {
    error: Option<Stream>,
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    resize: Option<Stream>,
}

impl Streams {
    /// Takes what the client opens until everything is there.
    async fn open(&mut self, session: &mut spdy::Session, expected: Expected) -> Opened {
        while !self.complete(expected) {
            let Some(incoming) = session.accept().await else { return Opened::Gone };
            self.place(incoming);
        }
        Opened::All
    }

    fn complete(&self, Expected { wanted, version }: Expected) -> bool {
        self.error.is_some()
            && (self.stdin.is_some() || !wanted.stdin)
            && (self.stdout.is_some() || !wanted.stdout)
            && (self.stderr.is_some() || !wanted.stderr)
            && (self.resize.is_some() || !wanted.terminal || version < Version::V3)
    }

    /// One of each kind. One that the call did not ask for is taken all the same and ends at once: clients open what they have.
    fn place(&mut self, incoming: Incoming) {
        let place = match incoming.headers.get("streamtype") {
            Some("error") => &mut self.error,
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("resize") => &mut self.resize,
            Some(_) | None => return incoming.refuse(),
        };
        match place {
            Some(_) => incoming.refuse(),
            None => *place = Some(incoming.accept()),
        }
    }
}

/// What the client writes.
#[derive(Debug)]
struct Readers {
    stdin: Option<Reader>,
    resize: Option<Reader>,
}

/// What it reads, but for the end. They are kept until that is told: a stream without a handle whose other half is open is reset.
#[derive(Debug)]
struct Writers {
    stdin: Option<Writer>,
    stdout: Option<Writer>,
    stderr: Option<Writer>,
    _resize: Option<Writer>,
}

impl Streams {
    /// What the client may say on a stream of output nobody hears.
    fn split(self) -> (Readers, Writers) {
        let (stdin_reader, stdin) = self.stdin.map(Stream::split).unzip();
        let (resize_reader, resize) = self.resize.map(Stream::split).unzip();
        let writer = |stream: Option<Stream>| stream.map(|stream| stream.split().1);
        let (stdout, stderr) = (writer(self.stdout), writer(self.stderr));
        let readers = Readers { stdin: stdin_reader, resize: resize_reader };
        (readers, Writers { stdin, stdout, stderr, _resize: resize })
    }
}

/// From the process's start to its end.
async fn converse(
    process: Session,
    readers: Readers,
    writers: &mut Writers,
    on_eof: OnEof,
) -> Outcome {
    let Session { stdin, stdout, stderr, resize, ended } = process;
    // Nothing is ever told on the stream of sizes.
    let Writers { stdin: stdin_writer, stdout: stdout_writer, stderr: stderr_writer, _resize: _ } =
        writers;
    let outputs = join(output(stdout, stdout_writer), output(stderr, stderr_writer));
    let left = async {
        match (input(readers.stdin, stdin, stdin_writer).await, on_eof) {
            (Eof::Client, OnEof::Detach) => {}
            (Eof::Client | Eof::Process, OnEof::Stay | OnEof::Detach) => pending().await,
        }
    };
    let sizes = async {
        sizes(readers.resize, resize).await;
        pending::<Infallible>().await
    };
    let ended = tokio::select! {
        (_, ended) = join(outputs, ended) => ended,
        () = left => Ok(Ended::Detached { reason: None }),
        never = sizes => match never {},
    };
    ended.map_or_else(Outcome::Failed, Outcome::Ended)
}

/// What the process says, if the client wants to hear it.
async fn output(output: Option<Output>, writer: &mut Option<Writer>) {
    let Some(writer) = writer else { return };
    let passed = match output {
        Some(output) => pump::pass_on(output, writer).await,
        None => writer.shutdown().await,
    };
    if let Err(error) = passed {
        tracing::debug!(%error, "pass on what a process says");
    }
}

/// What the client writes, until it ends its half or the process reads no more; then the process's input ends.
async fn input(reader: Option<Reader>, stdin: Option<Input>, writer: &mut Option<Writer>) -> Eof {
    let mut eof = Eof::Process;
    if let (Some(mut reader), Some(mut stdin)) = (reader, stdin) {
        let ended = match reader.pass_on(&mut stdin).await {
            Ok(()) => {
                eof = Eof::Client;
                stdin.shutdown().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "pass on a process's input");
        }
    }
    // The client learns that nobody reads when its other half ends.
    if let Some(writer) = writer {
        drop(writer.shutdown().await);
    }
    eof
}

async fn sizes(reader: Option<Reader>, resize: Box<dyn Fn(Size) + Send + Sync>) {
    let Some(mut reader) = reader else { return };
    let mut sizes = Sizes::default();
    while let Ok(bytes) = reader.fill_buf().await
        && !bytes.is_empty()
    {
        let (last, count) = (sizes.last(bytes), bytes.len());
        last.into_iter().for_each(&resize);
        reader.consume(count);
    }
}
