//! Reading a terminal by its master side for as long as its container lives.
//!
//! A terminal that nobody has open reads as if it were at its end, and is not: it goes on when somebody opens it again, as an init does that closes all it was
//! given and logs to /dev/console. tokio takes such a hang-up for the last there is to wait for and would never wait again, so the events are taken from an
//! epoll instance of its own, which tells each once. The opening is no event; the bytes that follow it are.

use super::log::{Log, Source};
use super::stream::{pass_on, read_now};
use super::tee::Tee;
use davit_sys::readiness;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// Reads a terminal until its container has ended, into the log and to whoever is attached. `master` must not block.
pub(crate) fn spawn_logging(
    master: OwnedFd,
    log: Arc<Log>,
    tee: Arc<Tee>,
) -> io::Result<JoinHandle<()>> {
    let terminal = Terminal::new(master)?;
    // A terminal is one stream.
    let source = Source::Stdout;
    Ok(tokio::spawn(async move {
        while let Ok(Some(bytes)) = terminal.read(&tee).await {
            pass_on(source, bytes, &log, &tee).await;
        }
        log.end(source);
        tee.end(source);
    }))
}

/// A terminal that is read from as bytes come.
#[derive(Debug)]
struct Terminal {
    master: OwnedFd,
    events: AsyncFd<OwnedFd>,
}

impl Terminal {
    fn new(master: OwnedFd) -> io::Result<Self> {
        use epoll::{CreateFlags, EventData, EventFlags};
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&events, &master, EventData::new_u64(0), EventFlags::IN | EventFlags::ET)?;
        Ok(Self { master, events: readiness::readable(events)? })
    }

    /// What is there, once something is; `None` when nobody has it open after its container's end, of which `tee` knows. Nothing is lost if the future is
    /// dropped.
    async fn read(&self, tee: &Tee) -> io::Result<Option<Vec<u8>>> {
        loop {
            // Before the look, so that what was written last is seen by it.
            let over = tee.has_ended();
            match read_now(&self.master) {
                Ok(None) if over => return Ok(None),
                Ok(None) | Err(Errno::WOULDBLOCK) => {}
                other => return Ok(other?),
            }
            tokio::select! {
                event = self.event() => event?,
                () = tee.ended(), if !over => {}
            }
        }
    }

    /// Answers when something has happened since the last time.
    async fn event(&self) -> io::Result<()> {
        loop {
            let mut guard = self.events.readable().await?;
            if let Ok(result) = guard.try_io(|events| take(events.get_ref())) {
                return result;
            }
        }
    }
}

fn take(events: &OwnedFd) -> io::Result<()> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut room = [MaybeUninit::<epoll::Event>::uninit(); 1];
    match epoll::wait(events, &mut room, Some(&at_once)) {
        Ok(([], _)) => Err(io::ErrorKind::WouldBlock.into()),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdio::stream::nonblocking;
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use std::fs::File;
    use std::io::Write as _;
    use std::time::Duration;

    struct Pair {
        terminal: Terminal,
        name: std::ffi::CString,
    }

    impl Pair {
        fn new() -> Self {
            let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
            grantpt(&master).unwrap();
            unlockpt(&master).unwrap();
            let name = ptsname(&master, Vec::new()).unwrap();
            let terminal = Terminal::new(nonblocking(master).unwrap()).unwrap();
            Self { terminal, name }
        }

        fn open(&self) -> File {
            let flags = OFlags::RDWR | OFlags::NOCTTY;
            File::from(rustix::fs::open(self.name.as_c_str(), flags, Mode::empty()).unwrap())
        }

        fn say(&self, text: &str) {
            self.open().write_all(text.as_bytes()).unwrap();
        }
    }

    async fn quiet(reading: impl Future<Output = io::Result<Option<Vec<u8>>>>) {
        let heard = tokio::time::timeout(Duration::from_millis(50), reading).await;
        assert!(heard.is_err(), "{heard:?}");
    }

    #[tokio::test]
    async fn a_terminal_goes_on_whenever_it_is_opened_again_until_its_container_has_ended() {
        let (pair, tee) = (Pair::new(), Tee::default());
        for n in 0..3 {
            // Opened and closed before anybody looks, and while it is waited for.
            pair.say("first");
            assert_eq!(pair.terminal.read(&tee).await.unwrap().unwrap(), b"first", "{n}");
            quiet(pair.terminal.read(&tee)).await;
            let (read, open) = tokio::join!(pair.terminal.read(&tee), async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let mut open = pair.open();
                tokio::time::sleep(Duration::from_millis(20)).await;
                open.write_all(b"late").unwrap();
                open
            });
            assert_eq!(read.unwrap().unwrap(), b"late", "{n}");
            quiet(pair.terminal.read(&tee)).await;
            drop(open);
        }
        pair.say("last");
        tee.hurry();
        assert_eq!(pair.terminal.read(&tee).await.unwrap().unwrap(), b"last");
        assert_eq!(pair.terminal.read(&tee).await.unwrap(), None);
    }

    #[tokio::test]
    async fn that_of_a_container_which_was_taken_back_ends_too() {
        let (pair, tee) = (Pair::new(), Tee::default());
        drop(pair.open());
        quiet(pair.terminal.read(&tee)).await;
        tee.close();
        assert_eq!(pair.terminal.read(&tee).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_end_is_told_while_it_is_waited_for() {
        let (pair, tee) = (Pair::new(), Tee::default());
        let kept = pair.open();
        let reading = async { pair.terminal.read(&tee).await.unwrap() };
        let ending = async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            tee.hurry();
            // Somebody has it still.
            tokio::time::sleep(Duration::from_millis(20)).await;
            drop(kept);
        };
        let both = async { tokio::join!(reading, ending).0 };
        let read = tokio::time::timeout(Duration::from_secs(5), both).await.unwrap();
        assert_eq!(read, None);
    }

    #[tokio::test]
    async fn one_that_nobody_has_open_costs_nothing() {
        let (pair, tee) = (Pair::new(), Tee::default());
        drop(pair.open());
        quiet(pair.terminal.read(&tee)).await;
        let woken = std::cell::Cell::new(0);
        let mut reading = std::pin::pin!(pair.terminal.read(&tee));
        let counted = std::future::poll_fn(|cx| {
            woken.set(woken.get() + 1);
            reading.as_mut().poll(cx)
        });
        quiet(counted).await;
        // One is the first, and another may be the readiness that was there from before.
        assert!(woken.get() <= 3, "{}", woken.get());
    }
}
