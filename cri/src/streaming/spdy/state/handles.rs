//! What the handles do to the state: take streams, read, write, finish and let go.
//!
//! Owns when a handle has to wait, and whom to wake when it has made room; what frames do is the driver's half, beside this.

use super::super::frame::{self, Half, Reason};
use super::super::headers::Headers;
use super::slot::{Failure, Held, wake};
use super::{Phase, RECORD, State};
use bytes::Bytes;
use std::task::Waker;

/// What a reader gets.
#[derive(Debug)]
pub(in super::super) enum Taken {
    Bytes(Bytes),
    End,
    Failed(Failure),
    /// Nothing yet; the waker is kept.
    Later,
}

/// What a writer gets.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Put {
    /// So many bytes were taken.
    Bytes(usize),
    Failed(Failure),
    /// This side had ended it already.
    Finished,
    /// No room; the waker is kept.
    Later,
}

impl State {
    /// The next stream that the peer opened; `Err` when no more will come.
    pub(in super::super) fn next_arrival(
        &mut self,
        waker: &Waker,
    ) -> Result<Option<(u32, Headers)>, ()> {
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
    pub(in super::super) fn accept(&mut self, id: u32) {
        // One that the peer has reset since is accepted like any other, and fails at its first use.
        if self.slots.get(&id).is_some_and(|slot| slot.failure.is_none()) {
            let block = self.deflate.empty();
            self.outbox.control(frame::reply(id, &block));
            wake(&mut self.driver);
        }
    }

    /// The stream is given up, and what was written to it with it.
    pub(in super::super) fn reset(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.unsent = 0;
            self.outbox.forget(id);
            self.let_go(id, Reason::Cancel);
        }
    }

    /// The stream is let go of by its only handle.
    pub(in super::super) fn let_go(&mut self, id: u32, reason: Reason) {
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
    pub(in super::super) fn read(&mut self, id: u32, waker: &Waker) -> Taken {
        if let Some(bytes) = self.read_now(id) {
            return Taken::Bytes(bytes);
        }
        let Some(slot) = self.slots.get_mut(&id) else {
            return Taken::Failed(Failure::Gone);
        };
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

    /// The next piece, if there is one; nobody waits for it.
    pub(in super::super) fn read_now(&mut self, id: u32) -> Option<Bytes> {
        let slot = self.slots.get_mut(&id)?;
        let bytes = slot.unread.pop_front()?;
        let charge = bytes.len().saturating_add(RECORD);
        slot.charged = slot.charged.saturating_sub(charge);
        let was_full = self.full.is_some() || self.charged >= self.limits.unread_session;
        self.charged = self.charged.saturating_sub(charge);
        if was_full && !self.is_full() {
            wake(&mut self.driver);
        }
        Some(bytes)
    }

    /// Whether the stream has failed; the waker is kept if not.
    pub(in super::super) fn watch(&mut self, id: u32, waker: &Waker) -> Option<Failure> {
        let Some(slot) = self.slots.get_mut(&id) else {
            return Some(Failure::Gone);
        };
        if slot.failure.is_none() {
            slot.watching = Some(waker.clone());
        }
        slot.failure
    }

    /// Takes of `bytes` what there is room for.
    pub(in super::super) fn write(&mut self, id: u32, bytes: &[u8], waker: &Waker) -> Put {
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
    pub(in super::super) fn finish(&mut self, id: u32) -> Result<(), Failure> {
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
    pub(in super::super) fn drop_reader(&mut self, id: u32) {
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
    pub(in super::super) fn drop_writer(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.writer = Held::No;
            if slot.reader == Held::No {
                self.let_go(id, Reason::Cancel);
            }
        }
    }

    /// No new streams; the driver sees the rest through.
    pub(in super::super) fn close(&mut self) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing;
            wake(&mut self.accepting);
            wake(&mut self.driver);
        }
    }
}
