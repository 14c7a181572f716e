//! A connection that knows when something happened on it last.
//!
//! Owns the idle timeout's clock. Every read and write that moves bytes sets it, whatever protocol they belong to: a ping counts, for
//! somebody is there who sends it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// When something happened last. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    began: Instant,
    /// In milliseconds since then.
    last: AtomicU64,
}

impl Activity {
    /// Something has just happened.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Clock { began: Instant::now(), last: AtomicU64::new(0) }))
    }

    /// Ends when nothing has happened for `limit`. Sleeps as long as that can't be.
    pub(crate) async fn ceased(&self, limit: Duration) {
        loop {
            let last = Duration::from_millis(self.0.last.load(Ordering::Relaxed));
            let over = self.0.began + last + limit;
            if over <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(over).await;
        }
    }

    fn mark(&self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Relaxed);
    }
}

/// A connection that is watched.
#[derive(Debug)]
pub(crate) struct Watched<T> {
    inner: T,
    activity: Activity,
}

impl<T> Watched<T> {
    /// What happens on `inner` is noted in `activity`.
    pub(crate) fn new(inner: T, activity: Activity) -> Self {
        Self { inner, activity }
    }

    fn moved(&self, result: io::Result<usize>) -> Poll<io::Result<usize>> {
        if matches!(result, Ok(1..)) {
            self.activity.mark();
        }
        Poll::Ready(result)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.activity.mark();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write(context, bytes));
        self.moved(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices));
        self.moved(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn only_what_moves_bytes_is_activity() {
        let activity = Activity::new();
        let (near, mut far) = tokio::io::duplex(64);
        let mut near = Watched::new(near, activity.clone());
        let limit = Duration::from_secs(10);
        let ceased = tokio::spawn(async move { activity.ceased(limit).await });
        for _ in 0..3 {
            tokio::time::sleep(limit - Duration::from_secs(1)).await;
            far.write_all(b"x").await.unwrap();
            near.read_u8().await.unwrap();
            tokio::time::sleep(limit - Duration::from_secs(1)).await;
            near.write_all(b"x").await.unwrap();
        }
        assert!(!ceased.is_finished());
        near.flush().await.unwrap();
        let before = Instant::now();
        ceased.await.unwrap();
        assert_eq!(before.elapsed(), limit);
    }
}
