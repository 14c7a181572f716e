//! What has happened to pods, containers and images, numbered and kept for a while.
//!
//! Owns the numbers, the last so many events in memory and on disk, and those who read them. Derives nothing: what happened to pods and containers
//! is told by [`crate::events`], to images by the image store. Whoever tells is never held up: it puts a pointer or two into a queue, and what does not fit
//! into that is counted and lost. An event is shown once it is written (to the kernel, not to the disk), so a number that anybody has seen is never
//! given again, even after a SIGKILL; if the disk hangs or is full, events are shown all the same, kept in memory only, and counted.
//!
//! ```text
//! pod's task, image store ──► Inbox (bounded) ──► Writer: number ─► Log (files) ─► Window (memory) ──► Reader ──► client
//!                               └─ full: lost                        └─ fails: in memory only       └─ too slow: told how many it missed
//! ```
//!
//! A reader has no queue of its own, only a place in the window that all share: one that does not read costs nothing and misses what has left the window.

mod describe;
mod entry;
mod log;
mod window;
mod writer;

pub use entry::{Entry, UnknownWhat, What};
pub use window::{Ahead, Gap, Item, Reader, Start};

use crate::clock;
use crate::counters::Counters;
use crate::events::Event;
use crate::image::Image;
use crate::shortage::is_shortage;
use crate::store::StoreError;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, oneshot};
use window::Window;
use writer::Writer;

/// How many events wait for the writer. It takes them within milliseconds, unless the disk hangs, and then takes them all the same.
const INBOX: usize = 4096;

/// How the journal stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stored {
    /// Events that can be replayed.
    pub retained: u64,
    /// Events that could not be written to the log. It only grows.
    pub not_stored: u64,
    /// The number that the next event gets.
    pub next: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    inbox: Inbox,
    window: Arc<Window>,
    not_stored: Arc<AtomicU64>,
}

impl Journal {
    /// Takes up what is kept in `directory`, and keeps the last `retain` events from now on. Files that can't be used are named in the log and hinder nobody.
    ///
    /// # Errors
    /// Only a want of descriptors or memory: without the files, numbers that were given would be given again.
    pub(crate) async fn open(directory: &Path, retain: usize) -> Result<Self, StoreError> {
        let path = directory.to_owned();
        let found = tokio::task::spawn_blocking(move || log::open(&path, retain)).await;
        let (log, kept, next) = match found {
            Ok(Ok(log::Found { log, entries, next })) => (Some(log), entries, next),
            Ok(Err(error)) if is_shortage(&error) => return Err(error),
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "events are not stored");
                (None, Vec::new(), 1)
            }
            Err(error) => {
                tracing::error!(%error, "events are not stored");
                (None, Vec::new(), 1)
            }
        };
        let window = Arc::new(Window::new(retain, kept, next));
        let not_stored = Arc::new(AtomicU64::new(0));
        let (sender, receiver) = mpsc::channel(INBOX);
        let lost = Arc::new(AtomicU64::new(0));
        let inbox = Inbox { sender: Some(sender), lost: Arc::clone(&lost) };
        let writer = Writer::new(log, next, (Arc::clone(&window), Arc::clone(&not_stored)), lost);
        tokio::spawn(writer.run(receiver));
        Ok(Self { inbox, window, not_stored })
    }

    /// Where what happens is told.
    pub(crate) fn inbox(&self) -> Inbox {
        self.inbox.clone()
    }

    /// A reader that begins there. Counted as a listener while it lives.
    ///
    /// # Errors
    /// [`Ahead`]: nothing has this number yet.
    pub(crate) fn read(&self, start: Start, counters: &Arc<Counters>) -> Result<Reader, Ahead> {
        Reader::new(Arc::clone(&self.window), start, counters.listen())
    }

    /// How it stands.
    pub(crate) fn stored(&self) -> Stored {
        let (retained, next) = self.window.extent();
        Stored { retained, not_stored: self.not_stored.load(Ordering::Relaxed), next }
    }

    /// Waits until what was told so far is written, as far as it can be.
    pub(crate) async fn flush(&self) {
        let Some(sender) = &self.inbox.sender else { return };
        let (done, written) = oneshot::channel();
        if sender.send(Told::Flush(done)).await.is_ok() {
            // A writer that has gone has nothing more to write.
            drop(written.await);
        }
    }
}

/// Something for the writer.
#[derive(Debug)]
enum Told {
    /// To a pod or a container.
    Pod(Event),
    /// To an image.
    Image { what: What, image: Arc<Image>, at: i64 },
    /// Whoever waits wants to know that all before this is written.
    Flush(oneshot::Sender<()>),
}

/// Where what happens is told. Clones are the same one; the default one forgets everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Inbox {
    sender: Option<mpsc::Sender<Told>>,
    lost: Arc<AtomicU64>,
}

impl Inbox {
    /// This has happened to a pod and its containers.
    pub(crate) fn pods(&self, events: Vec<Event>) {
        events.into_iter().for_each(|event| self.put(Told::Pod(event)));
    }

    /// This has happened to an image.
    pub(crate) fn image(&self, what: What, image: &Arc<Image>) {
        self.put(Told::Image { what, image: Arc::clone(image), at: clock::now() });
    }

    fn put(&self, told: Told) {
        let Some(sender) = &self.sender else { return };
        if sender.try_send(told).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
