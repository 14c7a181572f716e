//! The events in memory, and those who read them.
//!
//! Owns the last so many events and what a reader has missed. Nothing here grows: an event that comes pushes out the oldest, whoever has not read it.

use super::Entry;
use crate::counters::Listening;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many events there are in memory at least, so that a reader may be slow for a moment even where none are kept.
const LIVE: usize = 256;
/// How many events a reader gets at a time.
const BATCH: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Window {
    shown: Mutex<Shown>,
    changed: watch::Sender<u64>,
    /// How many can be replayed.
    retain: usize,
}

#[derive(Debug)]
struct Shown {
    entries: VecDeque<Arc<Entry>>,
    /// What has a lower number has left the window.
    begin: u64,
    /// The number that the next event gets.
    next: u64,
}

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest that is kept.
    Oldest,
    /// With what happens from now on.
    Now,
    /// With the one after this number.
    After(u64),
}

/// No event has this number yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no event has the number {asked} yet: the last one is {last}")]
pub struct Ahead {
    /// What was asked for.
    pub asked: u64,
    /// The last event's number.
    pub last: u64,
}

/// What a reader gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// An event.
    Event(Arc<Entry>),
    /// Events that it does not get.
    Missed {
        /// How many.
        count: u64,
        /// Why.
        why: Gap,
    },
}

/// Why events are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    /// They were not kept any more when the reader came.
    NotKept,
    /// The reader was too slow for them.
    TooSlow,
    /// They could not be kept when they happened.
    NotStored,
}

impl Window {
    /// With what was kept, oldest first, and the number that comes next.
    pub(super) fn new(retain: usize, kept: Vec<Arc<Entry>>, next: u64) -> Self {
        let begin = kept.first().map_or(next, |entry| entry.number);
        let shown = Shown { entries: kept.into(), begin, next };
        Self { shown: Mutex::new(shown), changed: watch::Sender::new(next), retain }
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows events to everybody; `next` comes after them.
    pub(super) fn show(&self, entries: Vec<Arc<Entry>>, next: u64) {
        let mut shown = self.lock();
        shown.entries.extend(entries);
        while shown.entries.len() > self.retain.max(LIVE) {
            if let Some(gone) = shown.entries.pop_front() {
                shown.begin = gone.number.saturating_add(1);
            }
        }
        shown.next = next;
        drop(shown);
        self.changed.send_replace(next);
    }

    /// How many can be replayed, and the number that comes next.
    pub(super) fn extent(&self) -> (u64, u64) {
        let shown = self.lock();
        let retained = shown.entries.len().min(self.retain);
        (u64::try_from(retained).unwrap_or(u64::MAX), shown.next)
    }
}

impl Shown {
    /// The number from which on events are replayed.
    fn floor(&self, retain: usize) -> u64 {
        let beyond = self.entries.len().saturating_sub(retain);
        match self.entries.get(beyond) {
            _ if beyond == 0 => self.begin,
            Some(entry) => entry.number,
            None => self.next,
        }
    }
}

/// Somebody's place among the events. Counted as a listener while it lives.
#[derive(Debug)]
pub struct Reader {
    window: Arc<Window>,
    changed: watch::Receiver<u64>,
    /// The number of what it reads next.
    at: u64,
    /// What was not kept any more when it came.
    not_kept: u64,
    listening: Listening,
}

impl Reader {
    pub(super) fn new(
        window: Arc<Window>,
        start: Start,
        listening: Listening,
    ) -> Result<Self, Ahead> {
        let changed = window.changed.subscribe();
        let shown = window.lock();
        let from = match start {
            Start::Oldest => 1,
            Start::Now => shown.next,
            Start::After(asked) if asked >= shown.next => {
                return Err(Ahead { asked, last: shown.next.saturating_sub(1) });
            }
            Start::After(asked) => asked.saturating_add(1),
        };
        let at = from.max(shown.floor(window.retain).min(shown.next));
        drop(shown);
        Ok(Self { window, changed, at, not_kept: at.saturating_sub(from), listening })
    }

    /// When the oldest event happened that is there for it, if any is.
    #[must_use]
    pub fn oldest(&self) -> Option<i64> {
        let shown = self.window.lock();
        let first = shown.entries.partition_point(|entry| entry.number < self.at);
        shown.entries.get(first).map(|entry| entry.at)
    }

    /// The next events, without waiting; none if it has read all.
    pub fn ready(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        let mut missed = |count: u64, why| {
            if count > 0 {
                items.push(Item::Missed { count, why });
            }
        };
        missed(std::mem::take(&mut self.not_kept), Gap::NotKept);
        self.changed.mark_unchanged();
        let shown = self.window.lock();
        let too_slow = shown.begin.saturating_sub(self.at);
        missed(too_slow, Gap::TooSlow);
        self.at = self.at.max(shown.begin);
        let first = shown.entries.partition_point(|entry| entry.number < self.at);
        for entry in shown.entries.iter().skip(first).take(BATCH) {
            push_gap(&mut items, entry.number.saturating_sub(self.at));
            items.push(Item::Event(Arc::clone(entry)));
            self.at = entry.number.saturating_add(1);
        }
        if shown.entries.back().is_none_or(|last| last.number < self.at) {
            push_gap(&mut items, shown.next.saturating_sub(self.at));
            self.at = shown.next;
        }
        drop(shown);
        if too_slow > 0 {
            self.listening.dropped(too_slow);
        }
        items
    }

    /// The next events, once there are some; never none.
    pub async fn next(&mut self) -> Vec<Item> {
        loop {
            let items = self.ready();
            if !items.is_empty() {
                return items;
            }
            if self.changed.changed().await.is_err() {
                // The sender is in the window, which this holds.
                std::future::pending::<()>().await;
            }
        }
    }
}

fn push_gap(items: &mut Vec<Item>, count: u64) {
    if count > 0 {
        items.push(Item::Missed { count, why: Gap::NotStored });
    }
}
