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

mod handles;
mod slot;

use super::frame::{self, Frame, Half, Parting, Reason, Violation};
use super::headers::{Deflate, Headers};
use super::limits::Limits;
use super::outbox::Outbox;
use bytes::Bytes;
pub(super) use handles::{Put, Taken};
pub(super) use slot::Failure;
use slot::{Held, Slot, wake};
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
