//! A program in a terminal of its own, which the test types into and looks at.
//!
//! Owns the terminal's master side and the program. When this is dropped, the terminal is gone, and the program is killed if it still runs.

use crate::host::eventually;
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long it may take to show or do what is waited for.
const WAIT: Duration = Duration::from_secs(20);

/// A program in a terminal.
#[derive(Debug)]
pub struct Pty {
    child: Child,
    master: Option<File>,
    shown: Arc<Mutex<Vec<u8>>>,
    /// Nobody reads any more.
    gone: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    leave: bool,
}

impl Pty {
    /// Starts a program in a new session, whose terminal has this many columns and rows.
    ///
    /// # Errors
    /// If there is no terminal to be had, or the program cannot be started.
    pub fn start(command: &Command, (columns, rows): (u16, u16)) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let slave = OsStr::from_bytes(name.as_bytes());
        let slave = OpenOptions::new().read(true).write(true).open(slave)?;
        let master = File::from(master);
        tcsetwinsize(&master, size(columns, rows))?;
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => session.env(key, value),
                None => session.env_remove(key),
            };
        }
        session.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = session.spawn().with_context(|| format!("start {session:?}"))?;
        // The other side's descriptors are in the command, and would keep the terminal.
        drop(session);
        let (shown, gone) = (Arc::default(), Arc::default());
        let reader = read(master.try_clone()?, Arc::clone(&shown), Arc::clone(&gone));
        let (master, reader) = (Some(master), Some(reader));
        Ok(Self { child, master, shown, gone, reader, leave: false })
    }

    /// All that was shown so far.
    #[must_use]
    pub fn shown(&self) -> String {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&shown).into_owned()
    }

    /// Waits until this is shown.
    ///
    /// # Errors
    /// If it isn't, with what is.
    pub fn wait_for(&self, text: &str) -> Result<()> {
        let what = format!("{text:?} is shown");
        let found = eventually(WAIT, &what, || Ok(self.shown().contains(text).then_some(())));
        found.with_context(|| format!("shown is {:?}", self.shown()))
    }

    /// Types.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        let master = self.master.as_mut().context("the terminal is gone")?;
        master.write_all(text.as_bytes()).context("type")
    }

    /// Changes the terminal's size; the program in it is told.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let master = self.master.as_ref().context("the terminal is gone")?;
        Ok(tcsetwinsize(master, size(columns, rows))?)
    }

    /// How the terminal treats what is typed.
    ///
    /// # Errors
    /// If the terminal is gone.
    pub fn modes(&self) -> Result<Termios> {
        Ok(tcgetattr(self.master.as_ref().context("the terminal is gone")?)?)
    }

    /// Takes the terminal away, and leaves the program alone: it is not killed, and has to find out by itself.
    pub fn hang_up(mut self) {
        self.leave = true;
    }

    /// Waits until the program ends by itself.
    ///
    /// # Errors
    /// If it does not.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let child = &mut self.child;
        let ended = eventually(WAIT, "it ends", || child.try_wait().context("look after it"));
        ended.with_context(|| format!("shown is {:?}", self.shown()))
    }

    /// Waits until the program ends by itself with this code.
    ///
    /// # Errors
    /// If it does not.
    pub fn ends_with(&mut self, code: i32) -> Result<()> {
        let status = self.wait()?;
        ensure!(status.code() == Some(code), "it ended with {status}; shown is {:?}", self.shown());
        Ok(())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // The terminal is there as long as anybody has its master side, the reader too.
        self.gone.store(true, Ordering::Relaxed);
        drop(self.reader.take().map(JoinHandle::join));
        drop(self.master.take());
        if !self.leave {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Ends when nobody has the other side any more, or nobody wants to know.
fn read(mut master: File, shown: Arc<Mutex<Vec<u8>>>, gone: Arc<AtomicBool>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        let look = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        while !gone.load(Ordering::Relaxed) {
            let mut wanted = [PollFd::new(&master, PollFlags::IN)];
            if !matches!(poll(&mut wanted, Some(&look)), Ok(1..)) {
                continue;
            }
            let Ok(count @ 1..) = master.read(&mut buffer) else { return };
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            shown.extend_from_slice(buffer.get(..count).unwrap_or_default());
        }
    })
}
