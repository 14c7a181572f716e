//! The conversation: keys in, output out, until one side ends it.

use super::keys::{DetachKeys, Typed, Watch};
use super::socket::{End, Said, Socket};
use super::terminal::{self, Raw};
use crate::client::error::ClientError;
use crate::output;
use std::io::Read as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How much is read of standard input at once.
const CHUNK: usize = 32 << 10;

/// Whether the process has a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// This program's own is made raw, and its sizes are passed on.
    Yes,
    /// Bytes are bytes.
    No,
}

/// Whether standard input is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It is.
    Passed,
    /// It isn't read.
    Left,
}

/// How a conversation is held.
#[derive(Debug)]
pub(crate) struct Manner {
    pub(crate) terminal: Terminal,
    pub(crate) input: Input,
    pub(crate) keys: DetachKeys,
    /// Signals that end this program go here instead.
    pub(crate) signals: Option<mpsc::Sender<i32>>,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The other side did.
    Ended(End),
    /// By the keys that leave.
    Left,
    /// A signal came.
    Signal(i32),
    /// The connection broke.
    Lost,
}

/// Signals that end a program.
struct Signals {
    hangup: Signal,
    interrupt: Signal,
    terminate: Signal,
}

fn take(kind: SignalKind) -> Result<Signal, ClientError> {
    signal(kind).map_err(ClientError::Signals)
}

impl Signals {
    fn new() -> Result<Self, ClientError> {
        Ok(Self {
            hangup: take(SignalKind::hangup())?,
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
        }
    }
}

/// Holds the conversation to its end.
///
/// # Errors
/// The terminal or standard output refuses.
pub(crate) async fn hold(mut socket: Socket, manner: Manner) -> Result<Over, ClientError> {
    let Manner { terminal, input, keys, signals } = manner;
    let (mut taken, mut resized) = (Signals::new()?, take(SignalKind::window_change())?);
    // Dropped last, after everything was written.
    let _raw = match terminal {
        Terminal::Yes if terminal::is_one() => Some(Raw::new().map_err(ClientError::Terminal)?),
        Terminal::Yes | Terminal::No => None,
    };
    resize(&mut socket, terminal).await;
    let mut typed = (input == Input::Passed).then(read_input);
    let mut watch = Watch::new(keys);
    loop {
        tokio::select! {
            said = socket.next() => match said {
                Some(Said::Output(bytes)) => output::print_bytes(&bytes)?,
                Some(Said::Errors(bytes)) => output::print_error_bytes(&bytes)?,
                Some(Said::End(end)) => return Ok(Over::Ended(end)),
                None => return Ok(Over::Lost),
            },
            bytes = next(&mut typed), if typed.is_some() => {
                match pass(&mut socket, &mut watch, terminal, bytes).await {
                    Passed::On => {}
                    Passed::Last => typed = None,
                    Passed::Left => return Ok(Over::Left),
                }
            }
            _ = resized.recv(), if terminal == Terminal::Yes => resize(&mut socket, terminal).await,
            number = taken.next() => match &signals {
                // A few wait to be passed on; more than that say the same.
                Some(signals) => drop(signals.try_send(number)),
                None => return Ok(Over::Signal(number)),
            }
        }
    }
}

/// Tells the other side how large this terminal is, if there is one.
async fn resize(socket: &mut Socket, terminal: Terminal) {
    if let (Terminal::Yes, Some(size)) = (terminal, terminal::size()) {
        // Who isn't there is found out by reading.
        let _gone: Option<()> = socket.resize(size).await;
    }
}

/// What became of some input.
enum Passed {
    On,
    /// There is no more, or nobody takes more; there may still be something to hear.
    Last,
    Left,
}

async fn pass(
    socket: &mut Socket,
    watch: &mut Watch,
    terminal: Terminal,
    bytes: Option<Vec<u8>>,
) -> Passed {
    let sent = match (bytes, terminal) {
        (None, _) => {
            let _gone: Option<()> = socket.end_input().await;
            None
        }
        (Some(bytes), Terminal::No) => socket.input(&bytes).await,
        (Some(bytes), Terminal::Yes) => match watch.typed(&bytes) {
            Typed::Bytes(bytes) if bytes.is_empty() => Some(()),
            Typed::Bytes(bytes) => socket.input(&bytes).await,
            Typed::Leave(bytes) => {
                let _gone: Option<()> = socket.input(&bytes).await;
                return Passed::Left;
            }
        },
    };
    sent.map_or(Passed::Last, |()| Passed::On)
}

async fn next(typed: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    typed.as_mut()?.recv().await
}

/// Reads standard input in a thread that nobody waits for: it may hang in a read for as long as nobody types. A runtime's own thread would be
/// waited for at the end, and a terminal that doesn't block would not block for the shell behind this program either.
fn read_input() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                    if sender.blocking_send(bytes).is_err() {
                        return;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                // A terminal that has gone has no more to say.
                Err(_) => return,
            }
        }
    });
    receiver
}
