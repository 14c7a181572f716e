//! The task that has the connection: bytes in, bytes out, and the clock.
//!
//! One task does both directions, since splitting a connection of any kind takes a lock that a reader would hold while the writer
//! waits. Neither direction waits for the other: each is polled for as long as it gets on.
//!
//! ```text
//! Open ──close──► Flushing ── all is out ──► Parting ── GOAWAY is out, our half shut ──► Lingering ── peer's half shut ──► (ended)
//!   └─ violation ──► Refusing ── GOAWAY is out, or a second over ──► (ended)         anywhere: connection gone, idle too long ──► (ended)
//! ```
//!
//! Lingering matters: a socket that is closed while something unread lies in it is reset, and then the peer loses what it had not yet
//! read, which may be the end of a command's output. Clients send PINGs, so there is always something.

use super::frame::{self, Decoder, Parting, Violation};
use super::limits::Limits;
use super::state::{Phase, State};
use bytes::BytesMut;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

/// What one read asks for: several of the frames that clients send, which are of 32 KiB.
const CHUNK: usize = 256 * 1024;
/// Frames handed to the kernel at once.
const SLICES: usize = 64;
/// Turns before other tasks get theirs, for a connection that is never out of breath.
const TURNS: usize = 32;
/// How long a peer that broke the rules has for taking the frame that says so.
const REFUSAL: Duration = Duration::from_secs(1);

/// What the driver and the handles share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Cancelled when the connection is gone.
    pub(super) ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(limits: Limits) -> Self {
        Self { state: Mutex::new(State::new(limits)), ended: CancellationToken::new() }
    }

    /// A panic under this lock leaves nothing half-done that matters more than the session's going on.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn end(&self) {
        self.lock().end();
        self.ended.cancel();
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the connection was closed")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the peer sent {0}")]
    Violation(#[from] Violation),
    #[error("nothing went either way for {0:?}")]
    Idle(Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    Flushing,
    Parting,
    Lingering,
    Refusing,
}

/// Whether a step got on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    On,
    Waits,
}

impl Step {
    fn or(self, other: Self) -> Self {
        match self {
            Self::On => self,
            Self::Waits => other,
        }
    }
}

/// The task's own.
pub(super) struct Driver<'a, IO> {
    io: IO,
    shared: &'a Shared,
    limits: Limits,
    stage: Stage,
    decoder: Decoder,
    inbox: BytesMut,
    outbound: VecDeque<Vec<u8>>,
    /// Bytes of the first of `outbound` that are out.
    sent: usize,
    unflushed: bool,
    clock: Clock,
}

/// The moments that the timer goes by.
struct Clock {
    timer: Pin<Box<Sleep>>,
    active: Instant,
    /// Since when the connection is not read.
    stalled: Option<Instant>,
    kept_alive: Instant,
    /// When waiting for the peer to go has an end.
    deadline: Option<Instant>,
}

impl<'a, IO: AsyncRead + AsyncWrite + Unpin> Driver<'a, IO> {
    pub(super) fn new(io: IO, limits: Limits, shared: &'a Shared) -> Self {
        let now = Instant::now();
        let first = limits.keep_alive.min(limits.idle);
        Self {
            io,
            shared,
            limits,
            stage: Stage::Open,
            decoder: Decoder::new(limits.control),
            inbox: BytesMut::with_capacity(CHUNK),
            outbound: VecDeque::new(),
            sent: 0,
            unflushed: false,
            clock: Clock {
                timer: Box::pin(tokio::time::sleep(first)),
                active: now,
                stalled: None,
                kept_alive: now,
                deadline: None,
            },
        }
    }

    /// Until the session's end; says which.
    pub(super) async fn run(mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        for _ in 0..TURNS {
            match self.turn(cx) {
                Ok(Step::On) => {}
                Ok(Step::Waits) => return Poll::Pending,
                Err(end) => return Poll::Ready(end),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        let sent = self.send(cx)?;
        let received = match self.receive(cx) {
            Err(End::Violation(violation)) => self.refuse(&violation),
            other => other?,
        };
        let timed = self.time(cx)?;
        Ok(sent.or(received).or(timed))
    }

    // ---- out

    fn send(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        if self.outbound.is_empty() {
            let mut state = self.shared.lock();
            state.drive(cx.waker());
            if self.stage != Stage::Lingering {
                state.take(&mut self.outbound);
            }
        }
        if self.outbound.is_empty() {
            return self.sent_all(cx);
        }
        let says_nothing = self.outbound.len() == 1
            && self.outbound.front().is_some_and(|only| *only == frame::no_settings());
        match self.write(cx) {
            Poll::Ready(Ok(())) => {
                // Our own keep-alive must not keep alive what nobody uses.
                if !says_nothing {
                    self.clock.active = Instant::now();
                }
                self.unflushed = true;
                Ok(Step::On)
            }
            Poll::Ready(Err(error)) => Err(error.into()),
            Poll::Pending => Ok(Step::Waits),
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut skip = self.sent;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        for (slot, frame) in slices.iter_mut().zip(&self.outbound) {
            *slot = IoSlice::new(frame.get(skip..).unwrap_or_default());
            skip = 0;
            count += 1;
        }
        let slices = slices.get(..count).unwrap_or_default();
        let written = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, slices))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.sent = self.sent.saturating_add(written);
        while let Some(first) = self.outbound.front()
            && self.sent >= first.len()
        {
            self.sent = self.sent.saturating_sub(first.len());
            self.outbound.pop_front();
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing waits: on to the next stage, if the session is ending.
    fn sent_all(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        if self.unflushed {
            match Pin::new(&mut self.io).poll_flush(cx)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Ok(Step::Waits),
            }
        }
        match self.stage {
            Stage::Open if self.shared.lock().phase() == Phase::Closing => {
                self.stage = Stage::Flushing;
                Ok(Step::On)
            }
            Stage::Open | Stage::Lingering => Ok(Step::Waits),
            Stage::Flushing => {
                self.shared.lock().part(Parting::Ok);
                self.stage = Stage::Parting;
                Ok(Step::On)
            }
            Stage::Parting => match Pin::new(&mut self.io).poll_shutdown(cx)? {
                Poll::Ready(()) => {
                    self.stage = Stage::Lingering;
                    self.wait_at_most(self.limits.idle);
                    Ok(Step::On)
                }
                Poll::Pending => Ok(Step::Waits),
            },
            Stage::Refusing => match Pin::new(&mut self.io).poll_shutdown(cx)? {
                Poll::Ready(()) => Err(End::Closed),
                Poll::Pending => Ok(Step::Waits),
            },
        }
    }

    /// The peer broke the rules: it is told, and nothing else.
    fn refuse(&mut self, violation: &Violation) -> Step {
        tracing::debug!(%violation, "end a SPDY session");
        let mut state = self.shared.lock();
        state.end();
        state.part(Parting::ProtocolError);
        drop(state);
        self.stage = Stage::Refusing;
        self.wait_at_most(REFUSAL);
        Step::On
    }

    fn wait_at_most(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        self.clock.deadline = Some(deadline);
        self.clock.timer.as_mut().reset(deadline);
    }

    // ---- in

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        match self.stage {
            Stage::Open | Stage::Flushing | Stage::Parting => {}
            Stage::Lingering => {
                self.inbox.clear();
                return self.read(cx);
            }
            Stage::Refusing => return Ok(Step::Waits),
        }
        let shared = self.shared;
        let mut state = shared.lock();
        let mut step = Step::Waits;
        while !state.is_full() {
            self.clock.stalled = None;
            let Some(frame) = self.decoder.next(&mut self.inbox)? else {
                drop(state);
                // What came may have left something to send, also when nothing more is there to be read.
                return self.read(cx).map(|read| step.or(read));
            };
            state.receive(frame)?;
            step = Step::On;
        }
        // What is written meanwhile may have used the waker up, and nobody else wakes for the room.
        state.drive(cx.waker());
        drop(state);
        if self.clock.stalled.is_none() {
            self.stall();
        }
        Ok(step)
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        // Never less than half a chunk is asked for, or a buffer that is nearly used up would be read to its end byte by byte.
        if self.inbox.capacity().saturating_sub(self.inbox.len()) < CHUNK / 2 {
            self.inbox.reserve(CHUNK);
        }
        match tokio_util::io::poll_read_buf(Pin::new(&mut self.io), cx, &mut self.inbox)? {
            Poll::Ready(0) => Err(End::Closed),
            Poll::Ready(_) => {
                self.clock.active = Instant::now();
                Ok(Step::On)
            }
            Poll::Pending => Ok(Step::Waits),
        }
    }

    fn stall(&mut self) {
        let now = Instant::now();
        self.clock.stalled = Some(now);
        if let Some(stall) = self.limits.stall {
            let due = (now + stall).min(self.clock.timer.deadline());
            self.clock.timer.as_mut().reset(due);
        }
    }

    // ---- time

    /// The timer is set anew only when it fires, and not with every byte: what happened meanwhile only makes it later.
    fn time(&mut self, cx: &mut Context<'_>) -> Result<Step, End> {
        if self.clock.timer.as_mut().poll(cx).is_pending() {
            return Ok(Step::Waits);
        }
        let now = Instant::now();
        if self.clock.deadline.is_some_and(|deadline| deadline <= now) {
            return Err(End::Idle(self.limits.idle));
        }
        let idle = self.clock.active + self.limits.idle;
        if idle <= now {
            return Err(End::Idle(self.limits.idle));
        }
        let mut next = self.clock.deadline.map_or(idle, |deadline| deadline.min(idle));
        next = next.min(self.keep_alive(now));
        if let (Some(since), Some(stall)) = (self.clock.stalled, self.limits.stall) {
            next = next.min(self.end_stall(now, since, stall));
        }
        self.clock.timer.as_mut().reset(next);
        Ok(Step::On)
    }

    /// While the connection is not read, what the peer sends is no sign of life: only writing finds out that it is gone.
    fn keep_alive(&mut self, now: Instant) -> Instant {
        let quiet = match self.clock.stalled {
            Some(_) => self.clock.kept_alive,
            None => self.clock.active.max(self.clock.kept_alive),
        };
        let due = quiet + self.limits.keep_alive;
        if now < due {
            return due;
        }
        if self.stage == Stage::Open && self.outbound.is_empty() {
            self.shared.lock().keep_alive();
        }
        self.clock.kept_alive = now;
        now + self.limits.keep_alive
    }

    fn end_stall(&mut self, now: Instant, since: Instant, stall: Duration) -> Instant {
        let due = since + stall;
        if now < due {
            return due;
        }
        if let Some(id) = self.shared.lock().give_up_fullest() {
            tracing::debug!(stream = id, "give up a stream that nobody reads");
        }
        self.clock.stalled = Some(now);
        now + stall
    }
}
