//! What a session knows of its streams: decided here, without I/O, under one lock.
//!
//! Owns the streams' states, what of them is unread and unsent, and whom to wake. The driver brings frames in and takes bytes out; the
//! handles read, write and let go. A stream is known for exactly as long as somebody holds a handle of it, and counts as long as that:
//! a peer that opens and resets without end makes no more than [`Limits::streams`] of anything.
//!
//! ```text
//!             SYN_STREAM          accept                FIN, FIN, handles dropped
//! (unknown) ─────────────► Offered ─────► Open ──────────────────────────────────► (unknown)
//!                             └─ refuse, dropped ─► RST        └─ RST either way: failed, until its handles are dropped
//! ```

use super::frame::{self, Frame, Half, Parting, Reason, Violation};
use super::headers::{Deflate, Headers};
use super::limits::Limits;
use super::outbox::Outbox;
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::task::Waker;

/// What an unread piece is charged beyond its bytes, for the record of it: many small ones must count too.
const RECORD: usize = 64;

/// How far the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Streams come and go.
    Open,
    /// No new ones; what is written goes out, then GOAWAY.
    Closing,
    /// The connection is gone.
    Ended,
}

/// Why a stream can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The peer gave it up, or broke its rules.
    Reset,
    /// The connection ended before the stream did.
    Gone,
}

/// Whether our end of a direction is held by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Yes,
    No,
}

/// One stream.
#[derive(Debug)]
struct Slot {
    inbound: Half,
    outbound: Half,
    failure: Option<Failure>,
    reader: Held,
    writer: Held,
    unread: VecDeque<Bytes>,
    /// What `unread` is charged.
    charged: usize,
    unsent: usize,
    reading: Option<Waker>,
    writing: Option<Waker>,
    watching: Option<Waker>,
}

impl Slot {
    fn new(inbound: Half) -> Self {
        Self {
            inbound,
            outbound: Half::Open,
            failure: None,
            reader: Held::Yes,
            writer: Held::Yes,
            unread: VecDeque::new(),
            charged: 0,
            unsent: 0,
            reading: None,
            writing: None,
            watching: None,
        }
    }

    fn wake(&mut self) {
        wake(&mut self.reading);
        wake(&mut self.writing);
        wake(&mut self.watching);
    }

    fn can_say_more(&self) -> bool {
        self.inbound == Half::Open && self.failure.is_none() && self.reader == Held::Yes
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Taken {
    Bytes(Bytes),
    End,
    Failed(Failure),
    /// Nothing yet; the waker is kept.
    Later,
}

/// What a writer gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// So many bytes were taken.
    Bytes(usize),
    Failed(Failure),
    /// This side had ended it already.
    Finished,
    /// No room; the waker is kept.
    Later,
}

/// A session's streams.
#[derive(Debug)]
pub(super) struct State {
    limits: Limits,
    phase: Phase,
    slots: HashMap<u32, Slot>,
    arrivals: VecDeque<(u32, Headers)>,
    accepting: Option<Waker>,
    driver: Option<Waker>,
    deflate: Deflate,
    outbox: Outbox,
    /// The highest stream that the peer opened.
    last: u32,
    /// The stream whose bytes filled its room.
    full: Option<u32>,
    /// What all streams' unread pieces are charged.
    charged: usize,
}

impl State {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            phase: Phase::Open,
            slots: HashMap::new(),
            arrivals: VecDeque::new(),
            accepting: None,
            driver: None,
            deflate: Deflate::default(),
            outbox: Outbox::default(),
            last: 0,
            full: None,
            charged: 0,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    // ---- the driver's side

    /// Whom to wake when there is something to send, or room to read for.
    pub(super) fn drive(&mut self, waker: &Waker) {
        if !self.driver.as_ref().is_some_and(|old| old.will_wake(waker)) {
            self.driver = Some(waker.clone());
        }
    }

    /// All that is to be sent, for as long as `into` has none left; writers get their room back.
    pub(super) fn take(&mut self, into: &mut VecDeque<Vec<u8>>) {
        let slots = &mut self.slots;
        self.outbox.take(into, |id| {
            if let Some(slot) = slots.get_mut(&id) {
                slot.unsent = 0;
                wake(&mut slot.writing);
            }
        });
    }

    /// Whether the connection is not to be read now.
    pub(super) fn is_full(&mut self) -> bool {
        if let Some(id) = self.full {
            let limit = self.limits.unread;
            if self.slots.get(&id).is_some_and(|slot| slot.charged >= limit) {
                return true;
            }
            self.full = None;
        }
        self.charged >= self.limits.unread_session || self.outbox.is_flooded()
    }

    /// Gives up the fullest stream, if any other could have something to say.
    pub(super) fn give_up_fullest(&mut self) -> Option<u32> {
        let (&id, _) = self.slots.iter().max_by_key(|(_, slot)| slot.charged)?;
        let others = self.slots.iter().any(|(other, slot)| *other != id && slot.can_say_more());
        if !others {
            return None;
        }
        self.fail_stream(id, Reason::FlowControl);
        Some(id)
    }

    /// A frame that the peer sent.
    pub(super) fn receive(&mut self, frame: Frame) -> Result<(), Violation> {
        match frame {
            Frame::Open { id, headers, then } => self.open(id, headers, then),
            Frame::OpenOneWay { id } => {
                self.advance(id)?;
                self.outbox.control(frame::reset(id, Reason::Refused));
                Ok(())
            }
            Frame::Data { id, bytes, then } => self.data(id, bytes, then),
            Frame::Headers { id, then } => self.data(id, Bytes::new(), then),
            Frame::Reset { id } => {
                self.drop_stream(id, Failure::Reset);
                Ok(())
            }
            // An even number would be the answer to one of ours, of which there are none.
            Frame::Ping { id } if !id.is_multiple_of(2) => {
                self.outbox.control(frame::ping(id));
                Ok(())
            }
            Frame::Ping { .. } | Frame::Nothing => Ok(()),
        }
    }

    /// A frame that says nothing.
    pub(super) fn keep_alive(&mut self) {
        self.outbox.control(frame::no_settings());
    }

    /// The last frame.
    pub(super) fn part(&mut self, parting: Parting) {
        self.outbox.control(frame::go_away(self.last, parting));
    }

    /// The connection is gone: whoever waits for it finds out.
    pub(super) fn end(&mut self) {
        self.phase = Phase::Ended;
        for (id, _) in std::mem::take(&mut self.arrivals) {
            self.let_go(id, Reason::Refused);
        }
        self.outbox = Outbox::default();
        for slot in self.slots.values_mut() {
            slot.failure.get_or_insert(Failure::Gone);
            slot.wake();
        }
        wake(&mut self.accepting);
        wake(&mut self.driver);
    }

    fn open(&mut self, id: u32, headers: Headers, inbound: Half) -> Result<(), Violation> {
        self.advance(id)?;
        if self.phase != Phase::Open || self.slots.len() >= self.limits.streams {
            self.outbox.control(frame::reset(id, Reason::Refused));
            return Ok(());
        }
        self.slots.insert(id, Slot::new(inbound));
        self.arrivals.push_back((id, headers));
        wake(&mut self.accepting);
        Ok(())
    }

    /// Clients' streams have odd numbers that only rise.
    fn advance(&mut self, id: u32) -> Result<(), Violation> {
        if id.is_multiple_of(2) || id <= self.last {
            return Err(Violation::StreamId(id));
        }
        self.last = id;
        Ok(())
    }

    fn data(&mut self, id: u32, bytes: Bytes, then: Half) -> Result<(), Violation> {
        let Some(slot) = self.slots.get_mut(&id) else {
            // Let go by us already: what was under way is of no interest, but what never was is no stream.
            let known = !id.is_multiple_of(2) && id <= self.last;
            return known.then_some(()).ok_or(Violation::Unopened(id));
        };
        if slot.failure.is_some() {
            return Ok(());
        }
        if slot.inbound == Half::Finished {
            self.fail_stream(id, Reason::AlreadyClosed);
            return Ok(());
        }
        slot.inbound = then;
        if slot.reader == Held::Yes {
            if !bytes.is_empty() {
                let charge = bytes.len().saturating_add(RECORD);
                slot.charged = slot.charged.saturating_add(charge);
                self.charged = self.charged.saturating_add(charge);
                slot.unread.push_back(bytes);
                if slot.charged >= self.limits.unread {
                    self.full = Some(id);
                }
            }
            wake(&mut slot.reading);
        }
        Ok(())
    }

    /// Gives a stream up, and tells the peer.
    fn fail_stream(&mut self, id: u32, reason: Reason) {
        self.outbox.forget(id);
        self.outbox.control(frame::reset(id, reason));
        self.drop_stream(id, Failure::Reset);
    }

    /// The stream can't be used any more; what is left in it is of no use.
    fn drop_stream(&mut self, id: u32, failure: Failure) {
        let Some(slot) = self.slots.get_mut(&id) else {
            return;
        };
        slot.failure.get_or_insert(failure);
        slot.wake();
        self.outbox.forget(id);
        self.discard(id);
    }

    fn discard(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unread = VecDeque::new();
            self.charged = self.charged.saturating_sub(slot.charged);
            slot.charged = 0;
            wake(&mut self.driver);
        }
    }

    // ---- the handles' side

    /// The next stream that the peer opened; `Err` when no more will come.
    pub(super) fn next_arrival(&mut self, waker: &Waker) -> Result<Option<(u32, Headers)>, ()> {
        match (self.arrivals.pop_front(), self.phase) {
            (Some(arrival), Phase::Open) => Ok(Some(arrival)),
            (None, Phase::Open) => {
                self.accepting = Some(waker.clone());
                Ok(None)
            }
            (_, Phase::Closing | Phase::Ended) => Err(()),
        }
    }

    /// The stream is taken: its peer may use it.
    pub(super) fn accept(&mut self, id: u32) {
        // One that the peer has reset since is accepted like any other, and fails at its first use.
        if self.slots.get(&id).is_some_and(|slot| slot.failure.is_none()) {
            let block = self.deflate.empty();
            self.outbox.control(frame::reply(id, &block));
            wake(&mut self.driver);
        }
    }

    /// The stream is given up, and what was written to it with it.
    pub(super) fn reset(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unsent = 0;
            self.outbox.forget(id);
            self.let_go(id, Reason::Cancel);
        }
    }

    /// The stream is let go of by its only handle.
    pub(super) fn let_go(&mut self, id: u32, reason: Reason) {
        self.discard(id);
        let Some(slot) = self.slots.remove(&id) else {
            return;
        };
        let complete = slot.inbound == Half::Finished && slot.outbound == Half::Finished;
        self.outbox.orphan(slot.unsent);
        if slot.failure.is_none() && !complete {
            self.outbox.control(frame::reset(id, reason));
            wake(&mut self.driver);
        }
    }

    /// The next piece of what the peer wrote.
    pub(super) fn read(&mut self, id: u32, waker: &Waker) -> Taken {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Taken::Failed(Failure::Gone);
        };
        if let Some(bytes) = slot.unread.pop_front() {
            let charge = bytes.len().saturating_add(RECORD);
            slot.charged = slot.charged.saturating_sub(charge);
            let was_full = self.full.is_some() || self.charged >= self.limits.unread_session;
            self.charged = self.charged.saturating_sub(charge);
            if was_full && !self.is_full() {
                wake(&mut self.driver);
            }
            return Taken::Bytes(bytes);
        }
        match (slot.failure, slot.inbound) {
            (Some(Failure::Reset), _) => Taken::Failed(Failure::Reset),
            (_, Half::Finished) => Taken::End,
            (Some(Failure::Gone), Half::Open) => Taken::Failed(Failure::Gone),
            (None, Half::Open) => {
                slot.reading = Some(waker.clone());
                Taken::Later
            }
        }
    }

    /// Whether the stream has failed; the waker is kept if not.
    pub(super) fn watch(&mut self, id: u32, waker: &Waker) -> Option<Failure> {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Some(Failure::Gone);
        };
        if slot.failure.is_none() {
            slot.watching = Some(waker.clone());
        }
        slot.failure
    }

    /// Takes of `bytes` what there is room for.
    pub(super) fn write(&mut self, id: u32, bytes: &[u8], waker: &Waker) -> Put {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Put::Failed(Failure::Gone);
        };
        if let Some(failure) = slot.failure {
            return Put::Failed(failure);
        }
        if slot.outbound == Half::Finished || self.phase == Phase::Closing {
            return Put::Finished;
        }
        let room = if self.outbox.len() < self.limits.unsent_session {
            self.limits.unsent
        } else {
            self.limits.unsent_crowded
        };
        let room = room.saturating_sub(slot.unsent);
        if room == 0 {
            slot.writing = Some(waker.clone());
            return Put::Later;
        }
        let bytes = bytes.get(..room).unwrap_or(bytes);
        slot.unsent = slot.unsent.saturating_add(bytes.len());
        self.outbox.data(id, bytes);
        wake(&mut self.driver);
        Put::Bytes(bytes.len())
    }

    /// This side has written all it will.
    pub(super) fn finish(&mut self, id: u32) -> Result<(), Failure> {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Err(Failure::Gone);
        };
        match (slot.failure, slot.outbound) {
            (_, Half::Finished) => Ok(()),
            (Some(failure), Half::Open) => Err(failure),
            (None, Half::Open) => {
                slot.outbound = Half::Finished;
                self.outbox.fin(id);
                wake(&mut self.driver);
                Ok(())
            }
        }
    }

    /// Nobody reads the stream any more: what comes is thrown away, so that it never fills.
    pub(super) fn drop_reader(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.reader = Held::No;
            let last = slot.writer == Held::No;
            self.discard(id);
            if last {
                self.let_go(id, Reason::Cancel);
            }
        }
    }

    /// Nobody writes to the stream any more. Without a fin the peer is told when the reader goes too: that was no proper end.
    pub(super) fn drop_writer(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.writer = Held::No;
            if slot.reader == Held::No {
                self.let_go(id, Reason::Cancel);
            }
        }
    }

    /// No new streams; the driver sees the rest through.
    pub(super) fn close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            wake(&mut self.accepting);
            wake(&mut self.driver);
        }
    }
}

#[cfg(test)]
impl State {
    /// What must hold at any time.
    pub(super) fn check(&self) {
        let sum: usize = self.slots.values().map(|slot| slot.charged).sum();
        assert_eq!(sum, self.charged);
        assert!(self.slots.len() <= self.limits.streams);
        assert!(self.arrivals.len() <= self.limits.streams);
        for slot in self.slots.values() {
            let pieces: usize = slot.unread.iter().map(|piece| piece.len() + RECORD).sum();
            assert_eq!(pieces, slot.charged);
            // Up to a piece more than the limit: here pieces have at most 3000 bytes.
            assert!(slot.charged < self.limits.unread + 3000 + RECORD);
            assert!(slot.unsent <= self.limits.unsent);
        }
        assert!(self.outbox.len() <= self.limits.streams * self.limits.unsent * 3 + (2 << 20));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.charged == 0
    }
}
