//! A container's output to clients that are attached: beside the log, never instead of it.
//!
//! Each client has a queue per stream, bounded in bytes. A client that is slower than the container holds the output back while its queue
//! is full, but only for so long; then it is cut off, and the container, its log and the other clients go on. Once the container has ended
//! nobody holds anything back: what is left fits the queues, with a bounded surplus.
//!
//! ```text
//! read ─► log ─► queue of client 1 ─► its pipe            full: wait │ room │ patience over ─► cut off
//!            └─► queue of client 2 ─► its pipe                       │ container ended ─► the surplus
//! ```
//!
//! What comes after [`Tee::attach`] answered reaches the client, and nothing of what was read before. Nothing is kept for a client that
//! keeps up, and without clients this does nothing.

use super::log::Source;
use bytes::Bytes;
use futures_util::future::join_all;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::Instant;

/// What may wait for one client, per stream, in bytes.
const QUEUE: usize = 256 * 1024;
/// What a piece of output costs beyond its bytes, so that many small ones are as bounded as few large ones.
const PIECE: usize = 256;
/// What may come on top once the container has ended: as much as the biggest pipe holds.
const SURPLUS: usize = 1 << 20;
/// How long a client with a full queue may take nothing.
const STALL: Duration = Duration::from_secs(2);
/// How long it may hold output back in all without ever catching up.
const LAG: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Tee {
    clients: Mutex<Clients>,
    ended: AtomicBool,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Clients {
    taps: Vec<Tap>,
    next: u64,
    closed: bool,
}

/// One client's queue of one stream: the container's side.
#[derive(Debug, Clone)]
struct Tap {
    client: u64,
    source: Source,
    queue: mpsc::UnboundedSender<Bytes>,
    room: Arc<Room>,
    cut_off: Arc<Notify>,
}

/// What one queue may still take.
#[derive(Debug)]
struct Room {
    free: Semaphore,
    surplus: AtomicUsize,
    /// How long it was waited for since the client was last up to date.
    held: Mutex<Duration>,
}

/// What became of a piece of output.
#[derive(Debug, PartialEq, Eq)]
enum Offered {
    Taken,
    /// The client reads this stream no more.
    Gone,
    TooSlow,
}

impl Tee {
    /// Attaches a client to these streams; `None` once the container has ended.
    pub(crate) fn attach(self: &Arc<Self>, sources: &[Source]) -> Option<Attachment> {
        let mut clients = self.clients();
        if clients.closed {
            return None;
        }
        let client = clients.next;
        clients.next += 1;
        let cut_off = Arc::new(Notify::new());
        let mut queues = Vec::new();
        for &source in sources {
            let (queue, receiver) = mpsc::unbounded_channel();
            let room = Arc::new(Room {
                free: Semaphore::new(QUEUE),
                surplus: AtomicUsize::new(SURPLUS),
                held: Mutex::default(),
            });
            let cut_off = Arc::clone(&cut_off);
            clients.taps.push(Tap { client, source, queue, room: Arc::clone(&room), cut_off });
            queues.push((source, Queue { receiver, room }));
        }
        drop(clients);
        Some(Attachment { tee: Arc::clone(self), client, queues, cut_off })
    }

    /// Whether there is anybody to give output to.
    pub(crate) fn has_clients(&self) -> bool {
        !self.clients().taps.is_empty()
    }

    /// Gives everybody who is attached what was read. Waits for the slow, as long as it waits for anybody.
    pub(crate) async fn pass_on(&self, source: Source, mut bytes: Vec<u8>) {
        let taps: Vec<Tap> =
            self.clients().taps.iter().filter(|tap| tap.source == source).cloned().collect();
        if taps.is_empty() {
            return;
        }
        // Read with room to spare, which the queues would hold too.
        bytes.shrink_to_fit();
        let bytes = Bytes::from(bytes);
        let offered = join_all(taps.iter().map(|tap| self.offer(tap, bytes.clone()))).await;
        for (tap, offered) in taps.iter().zip(offered) {
            match offered {
                Offered::Taken => {}
                Offered::Gone => self.remove(|t| t.client == tap.client && t.source == source),
                Offered::TooSlow => {
                    tap.cut_off.notify_one();
                    self.remove(|t| t.client == tap.client);
                }
            }
        }
    }

    async fn offer(&self, tap: &Tap, bytes: Bytes) -> Offered {
        let cost = bytes.len() + PIECE;
        // Before the look, so that no hurry falls between the two.
        let hurried = self.hurry.notified();
        tokio::pin!(hurried);
        hurried.as_mut().enable();
        let offered = if self.has_ended() {
            tap.room.take_surplus(cost)
        } else {
            tokio::select! {
                biased;
                offered = tap.room.take(cost) => offered,
                () = hurried => tap.room.take_surplus(cost),
            }
        };
        match offered {
            Offered::Taken if tap.queue.send(bytes).is_err() => Offered::Gone,
            Offered::Taken => Offered::Taken,
            Offered::Gone => Offered::Gone,
            Offered::TooSlow => Offered::TooSlow,
        }
    }

    /// From now on nothing waits for a client: the container has ended.
    pub(crate) fn hurry(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.hurry.notify_waiters();
    }

    /// Whether the container has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Answers once it has.
    pub(super) async fn ended(&self) {
        // Before the look, as in an offer.
        let hurried = self.hurry.notified();
        tokio::pin!(hurried);
        hurried.as_mut().enable();
        if !self.has_ended() {
            hurried.await;
        }
    }

    /// A stream has ended.
    pub(crate) fn end(&self, source: Source) {
        self.remove(|tap| tap.source == source);
    }

    /// There is no more output, and nobody to attach to.
    pub(crate) fn close(&self) {
        // One that never came to be is not hurried before.
        self.hurry();
        self.clients().closed = true;
        self.remove(|_| true);
    }

    fn remove(&self, which: impl Fn(&Tap) -> bool) {
        let mut clients = self.clients();
        clients.taps.retain(|tap| !which(tap));
        if clients.taps.is_empty() {
            clients.taps = Vec::new();
        }
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    async fn take(&self, cost: usize) -> Offered {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        if let Ok(permit) = self.free.try_acquire_many(cost) {
            permit.forget();
            return Offered::Taken;
        }
        let begun = Instant::now();
        let patience = STALL.min(LAG.saturating_sub(*self.held()));
        match tokio::time::timeout(patience, self.free.acquire_many(cost)).await {
            Ok(Ok(permit)) => permit.forget(),
            // Closed by the client.
            Ok(Err(_)) => return Offered::Gone,
            Err(_elapsed) => return Offered::TooSlow,
        }
        *self.held() += begun.elapsed();
        Offered::Taken
    }

    fn take_surplus(&self, cost: usize) -> Offered {
        let take = |left: usize| left.checked_sub(cost);
        match self.surplus.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Offered::Taken,
            Err(_) => Offered::TooSlow,
        }
    }

    fn give_back(&self, cost: usize) {
        self.free.add_permits(cost);
        if self.free.available_permits() >= QUEUE {
            *self.held() = Duration::ZERO;
        }
    }

    fn held(&self) -> MutexGuard<'_, Duration> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's hold on a container's output. Dropped, the container knows it no more.
#[derive(Debug)]
pub(crate) struct Attachment {
    tee: Arc<Tee>,
    client: u64,
    queues: Vec<(Source, Queue)>,
    cut_off: Arc<Notify>,
}

impl Attachment {
    /// The client's queue of a stream, once.
    pub(crate) fn take_queue(&mut self, source: Source) -> Option<Queue> {
        let at = self.queues.iter().position(|(of, _)| *of == source)?;
        Some(self.queues.swap_remove(at).1)
    }

    /// Answers if the client was too slow.
    pub(crate) async fn cut_off(&self) {
        self.cut_off.notified().await;
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        self.tee.remove(|tap| tap.client == self.client);
    }
}

/// One client's queue of one stream: the client's side.
#[derive(Debug)]
pub(crate) struct Queue {
    receiver: mpsc::UnboundedReceiver<Bytes>,
    room: Arc<Room>,
}

impl Queue {
    /// The next piece of output; `None` at its end. It takes room until [`Self::done`].
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.receiver.recv().await
    }

    /// That piece has reached the client.
    pub(crate) fn done(&self, piece: &Bytes) {
        self.room.give_back(piece.len() + PIECE);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // Wakes an offer that waits for room.
        self.room.free.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Source; 2] = [Source::Stdout, Source::Stderr];

    fn attach(tee: &Arc<Tee>) -> (Attachment, Queue, Queue) {
        let mut attachment = tee.attach(&BOTH).unwrap();
        let stdout = attachment.take_queue(Source::Stdout).unwrap();
        let stderr = attachment.take_queue(Source::Stderr).unwrap();
        assert!(attachment.take_queue(Source::Stderr).is_none());
        (attachment, stdout, stderr)
    }

    #[tokio::test]
    async fn everybody_gets_what_comes_after_they_attached_and_the_streams_apart() {
        let tee = Arc::new(Tee::default());
        tee.pass_on(Source::Stdout, b"before".to_vec()).await;
        let (_one, mut out, mut err) = attach(&tee);
        tee.pass_on(Source::Stdout, b"a".to_vec()).await;
        let (_two, mut later, _) = attach(&tee);
        tee.pass_on(Source::Stderr, b"e".to_vec()).await;
        tee.pass_on(Source::Stdout, b"b".to_vec()).await;
        tee.close();
        assert_eq!(
            (out.next().await.unwrap(), out.next().await.unwrap()),
            ("a".into(), "b".into())
        );
        assert_eq!((err.next().await, later.next().await), (Some("e".into()), Some("b".into())));
        assert_eq!((out.next().await, err.next().await, later.next().await), (None, None, None));
        assert!(tee.attach(&BOTH).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_after_a_while_and_the_others_lose_nothing() {
        let tee = Arc::new(Tee::default());
        let (stuck, _unread, _) = attach(&tee);
        let (_other, mut out, _) = attach(&tee);
        let reading = tokio::spawn(async move {
            let mut all = 0;
            while let Some(piece) = out.next().await {
                out.done(&piece);
                all += piece.len();
            }
            all
        });
        let begun = Instant::now();
        for _ in 0..100 {
            tee.pass_on(Source::Stdout, vec![b'x'; 16 * 1024]).await;
        }
        assert_eq!(begun.elapsed(), STALL);
        stuck.cut_off().await;
        tee.close();
        assert_eq!(reading.await.unwrap(), 100 * 16 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_ever_takes_a_little_holds_output_back_for_a_bounded_time() {
        let tee = Arc::new(Tee::default());
        let (slow, mut out, _) = attach(&tee);
        tokio::spawn(async move {
            while let Some(piece) = out.next().await {
                tokio::time::sleep(Duration::from_secs(1)).await;
                out.done(&piece);
            }
        });
        let begun = Instant::now();
        for _ in 0..100 {
            tee.pass_on(Source::Stdout, vec![b'x'; 16 * 1024]).await;
        }
        slow.cut_off().await;
        let held = begun.elapsed();
        assert!(held >= LAG && held <= LAG + STALL, "{held:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn once_the_container_has_ended_nothing_is_held_back() {
        let tee = Arc::new(Tee::default());
        let (_slow, mut out, _) = attach(&tee);
        let filling = {
            let tee = Arc::clone(&tee);
            tokio::spawn(async move {
                for _ in 0..20 {
                    tee.pass_on(Source::Stdout, vec![b'x'; 16 * 1024]).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!filling.is_finished());
        let begun = Instant::now();
        tee.hurry();
        filling.await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
        tee.close();
        let mut all = 0;
        while let Some(piece) = out.next().await {
            all += piece.len();
        }
        assert_eq!(all, 20 * 16 * 1024);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_lets_go_of_the_output_at_once() {
        let tee = Arc::new(Tee::default());
        let (attachment, out, err) = attach(&tee);
        let filling = {
            let tee = Arc::clone(&tee);
            tokio::spawn(async move {
                for _ in 0..20 {
                    tee.pass_on(Source::Stdout, vec![b'x'; 16 * 1024]).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
        let begun = Instant::now();
        drop((attachment, out, err));
        filling.await.unwrap();
        assert_eq!((begun.elapsed(), tee.clients().taps.capacity()), (Duration::ZERO, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_pieces_are_as_bounded_as_few_large_ones() {
        let tee = Arc::new(Tee::default());
        let (_stuck, out, _) = attach(&tee);
        for _ in 0..QUEUE / PIECE + 5 {
            tee.pass_on(Source::Stdout, vec![b'x']).await;
        }
        assert!(out.receiver.len() <= QUEUE / PIECE);
    }
}
