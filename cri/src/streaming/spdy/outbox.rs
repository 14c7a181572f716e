//! What waits to be sent.
//!
//! Owns the order of it: one queue, first in, first out, so that streams take turns by themselves (each may only have so much in it).
//! What one stream writes in a row becomes one frame, up to a size: the clients read a frame's head in two small reads, so a few large
//! frames are worth much to them.

use super::frame;
use std::collections::VecDeque;

/// Bytes of data in one frame.
const FRAME: usize = 64 * 1024;
/// Control frames that may wait, in bytes. A peer that makes us answer without reading the answers is not read any further.
const ANSWERS: usize = 16 * 1024;
/// The same for what was written to streams that have ended since: nobody waits for room there any more, so nothing else holds it back.
const ORPHANS: usize = 1024 * 1024;

#[derive(Debug)]
struct Parcel {
    /// The stream whose data it is; none for a control frame.
    stream: Option<u32>,
    bytes: Vec<u8>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Parcel>,
    control: usize,
    orphans: usize,
    len: usize,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is too much that only the peer's reading makes less.
    pub(super) fn is_flooded(&self) -> bool {
        self.control >= ANSWERS || self.orphans >= ORPHANS
    }

    /// A stream has ended that has so much waiting.
    pub(super) fn orphan(&mut self, unsent: usize) {
        self.orphans = self.orphans.saturating_add(unsent);
    }

    pub(super) fn control(&mut self, bytes: Vec<u8>) {
        self.control = self.control.saturating_add(bytes.len());
        self.push(None, bytes);
    }

    pub(super) fn data(&mut self, id: u32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(at) = self.frame_with_room(id) else {
                return;
            };
            let room = FRAME.saturating_sub(at.len().saturating_sub(frame::HEAD));
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            at.extend_from_slice(now);
            frame::set_length(at);
            self.len = self.len.saturating_add(now.len());
            bytes = later;
        }
    }

    /// A stream's last frame: the one that waits, if it is at the end of the queue.
    pub(super) fn fin(&mut self, id: u32) {
        match self.queue.back_mut() {
            Some(parcel) if parcel.stream == Some(id) => frame::set_fin(&mut parcel.bytes),
            Some(_) | None => {
                let mut bytes = frame::data_head(id).to_vec();
                frame::set_fin(&mut bytes);
                self.push(Some(id), bytes);
            }
        }
    }

    /// Drops what a stream that is given up had waiting.
    pub(super) fn forget(&mut self, id: u32) {
        let len = &mut self.len;
        self.queue.retain(|parcel| {
            let keep = parcel.stream != Some(id);
            if !keep {
                *len = len.saturating_sub(parcel.bytes.len());
            }
            keep
        });
    }

    /// Hands everything over; `sent` hears of each stream that had some.
    pub(super) fn take(&mut self, into: &mut VecDeque<Vec<u8>>, mut sent: impl FnMut(u32)) {
        for parcel in self.queue.drain(..) {
            if let Some(id) = parcel.stream {
                sent(id);
            }
            into.push_back(parcel.bytes);
        }
        self.control = 0;
        self.orphans = 0;
        self.len = 0;
    }

    /// The stream's frame at the end of the queue, or a new one there.
    fn frame_with_room(&mut self, id: u32) -> Option<&mut Vec<u8>> {
        let fits = |parcel: &Parcel| {
            parcel.stream == Some(id) && parcel.bytes.len() < FRAME.saturating_add(frame::HEAD)
        };
        if !self.queue.back().is_some_and(fits) {
            self.push(Some(id), frame::data_head(id).to_vec());
        }
        self.queue.back_mut().map(|parcel| &mut parcel.bytes)
    }

    fn push(&mut self, stream: Option<u32>, bytes: Vec<u8>) {
        self.len = self.len.saturating_add(bytes.len());
        self.queue.push_back(Parcel { stream, bytes });
    }
}
