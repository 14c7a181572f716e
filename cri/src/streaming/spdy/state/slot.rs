//! One stream's part of the state: how far each direction is, what lies in it, and who waits.
//!
//! Owns no rule: those are the session's, since one stream's bytes count against all.

use super::super::frame::Half;
use bytes::Bytes;
use std::collections::VecDeque;
use std::task::Waker;

/// Why a stream can't be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Failure {
    /// The peer gave it up, or broke its rules.
    Reset,
    /// The connection ended before the stream did.
    Gone,
}

/// Whether our end of a direction is held by anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Yes,
    No,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) inbound: Half,
    pub(super) outbound: Half,
    pub(super) failure: Option<Failure>,
    pub(super) reader: Held,
    pub(super) writer: Held,
    pub(super) unread: VecDeque<Bytes>,
    /// What `unread` is charged.
    pub(super) charged: usize,
    pub(super) unsent: usize,
    pub(super) reading: Option<Waker>,
    pub(super) writing: Option<Waker>,
    pub(super) watching: Option<Waker>,
}

impl Slot {
    pub(super) fn new(inbound: Half) -> Self {
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

    pub(super) fn wake(&mut self) {
        wake(&mut self.reading);
        wake(&mut self.writing);
        wake(&mut self.watching);
    }

    pub(super) fn can_say_more(&self) -> bool {
        self.inbound == Half::Open && self.failure.is_none() && self.reader == Held::Yes
    }
}

/// Wakes whoever waits, once.
pub(super) fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
