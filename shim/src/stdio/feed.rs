//! A container's standard input, which attached clients write to.
//!
//! Bytes go from a client's pipe to the container's without passing through this process. What is in neither pipe waits with the client.
//! The input of a container that takes one client's only is closed at the end of the first; then everybody else's copying ends too.

use super::stream::{Reader, Writer, nonblocking};
use davit_sys::readiness;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};
use std::io;
use std::os::fd::OwnedFd;
use tokio::sync::watch;

/// How much is moved at once, at most.
const MOVED: usize = 1 << 20;

/// What ends a container's standard input besides its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// The end of the first client's.
    WithTheFirst,
    /// Nothing.
    Never,
}

/// The writing end of a container's standard input, held open as long as this lives.
#[derive(Debug)]
pub(crate) struct Feed {
    fd: OwnedFd,
    kind: Kind,
    pub(crate) ends: Ends,
    /// Its dropping tells those who copy.
    open: watch::Sender<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Pipe,
    Terminal,
}

impl Feed {
    /// A pipe.
    pub(crate) fn pipe(writer: OwnedFd, ends: Ends) -> io::Result<Self> {
        let (fd, open) = (nonblocking(writer)?, watch::Sender::new(()));
        Ok(Self { fd, kind: Kind::Pipe, ends, open })
    }

    /// A terminal, by its master side, which does not block. It has no end but the container's.
    pub(crate) fn terminal(master: OwnedFd) -> Self {
        Self { fd: master, kind: Kind::Terminal, ends: Ends::Never, open: watch::Sender::new(()) }
    }

    /// A way for one client.
    pub(crate) fn tap(&self) -> io::Result<Mouth> {
        Ok(Mouth { fd: self.fd.try_clone()?, kind: self.kind, open: self.open.subscribe() })
    }
}

/// One client's way into a container's standard input.
#[derive(Debug)]
pub(crate) struct Mouth {
    fd: OwnedFd,
    kind: Kind,
    open: watch::Receiver<()>,
}

impl Mouth {
    /// Copies until the client's input ends, or the container's does.
    pub(crate) async fn copy_from(self, input: OwnedFd) -> io::Result<()> {
        let Self { fd, kind, mut open } = self;
        let copy = async {
            match kind {
                Kind::Pipe => splice_all(input, fd).await,
                Kind::Terminal => copy_all(input, fd).await,
            }
        };
        tokio::select! {
            copied = copy => copied,
            // Nothing is ever sent: the feed has gone.
            _ = open.changed() => Ok(()),
        }
    }
}

/// By reading and writing: a terminal takes little at a time.
async fn copy_all(input: OwnedFd, output: OwnedFd) -> io::Result<()> {
    let (reader, writer) = (Reader::new(nonblocking(input)?)?, Writer::new(output)?);
    while let Some(bytes) = reader.read().await? {
        writer.write_all(&bytes).await?;
    }
    Ok(())
}

/// From pipe to pipe.
async fn splice_all(input: OwnedFd, output: OwnedFd) -> io::Result<()> {
    let (input, output) = (readiness::readable(input)?, readiness::writable(output)?);
    loop {
        let mut readable = input.readable().await?;
        let mut writable = output.writable().await?;
        let (from, to) = (input.get_ref(), output.get_ref());
        match splice(from, None, to, None, MOVED, SpliceFlags::NONBLOCK | SpliceFlags::MOVE) {
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // It does not say which of the two was not ready, and taking back the readiness of one that is would wait for ever.
                let (is_readable, is_writable) = ready_now(from, to)?;
                if !is_readable {
                    readable.clear_ready();
                }
                if !is_writable {
                    writable.clear_ready();
                }
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn ready_now(from: &OwnedFd, to: &OwnedFd) -> io::Result<(bool, bool)> {
    let mut asked = [PollFd::new(from, PollFlags::IN), PollFd::new(to, PollFlags::OUT)];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    let [from, to] = asked;
    Ok((!from.revents().is_empty(), !to.revents().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::pipe::{PipeFlags, pipe_with};
    use std::fs::File;
    use std::io::{Read as _, Write as _};

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe_with(PipeFlags::CLOEXEC).unwrap()
    }

    #[tokio::test]
    async fn all_bytes_pass_whatever_is_slow_and_the_end_is_told() {
        const ALL: usize = 8 << 20;
        for (pause_in, pause_out) in [(0, 0), (3, 0), (0, 3)] {
            let (client, from) = {
                let (reader, writer) = pipe();
                (writer, reader)
            };
            let (container, to) = pipe();
            let feed = Feed::pipe(to, Ends::WithTheFirst).unwrap();
            let nap = |n: i64| {
                let pause = Timespec { tv_sec: 0, tv_nsec: n * 1_000_000 };
                drop(rustix::thread::nanosleep(&pause));
            };
            let writing = std::thread::spawn(move || {
                let mut client = File::from(client);
                for n in 0..ALL / 4096 {
                    client.write_all(&[u8::try_from(n % 251).unwrap(); 4096]).unwrap();
                    if n % 256 == 0 {
                        nap(pause_in);
                    }
                }
            });
            let reading = std::thread::spawn(move || {
                let (mut container, mut all) = (File::from(container), Vec::new());
                let mut buffer = vec![0; 1 << 20];
                loop {
                    let read = container.read(&mut buffer).unwrap();
                    if read == 0 {
                        return all;
                    }
                    all.extend_from_slice(&buffer[..read]);
                    nap(pause_out);
                }
            });
            feed.tap().unwrap().copy_from(from).await.unwrap();
            drop(feed);
            writing.join().unwrap();
            let all = reading.join().unwrap();
            assert_eq!(all.len(), ALL);
            assert!(
                all.chunks(4096).enumerate().all(|(n, c)| c[0] == u8::try_from(n % 251).unwrap())
            );
        }
    }

    #[tokio::test]
    async fn when_the_feed_goes_everybody_s_copying_ends() {
        let ((from, _client), (_container, to)) = (pipe(), pipe());
        let feed = Feed::pipe(to, Ends::WithTheFirst).unwrap();
        let copying = tokio::spawn(feed.tap().unwrap().copy_from(from));
        tokio::task::yield_now().await;
        drop(feed);
        copying.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn copying_to_nobody_is_an_error() {
        let ((from, client), (container, to)) = (pipe(), pipe());
        let feed = Feed::pipe(to, Ends::Never).unwrap();
        drop(container);
        File::from(client).write_all(b"x").unwrap();
        let error = feed.tap().unwrap().copy_from(from).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
