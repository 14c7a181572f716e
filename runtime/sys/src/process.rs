//! Starting programs from a process with one thread, with steps of one's own between fork and exec.
//!
//! Not `std::process::Command`: it reads the child's error pipe before it returns, so a mount that hangs in a `pre_exec`
//! would hang the caller, and such an error is a bare number without the step that failed. Here the pipe is the caller's to
//! read, and carries text. Nothing here waits for children either: their owner has one reaper.

use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use rustix::io::{Errno, FdFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use std::convert::Infallible;
use std::ffi::{CString, NulError, OsStr};
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

/// The exit code of a child that could not exec.
pub const NOT_STARTED: i32 = 127;

/// Why a program could not be started. What fails in the child comes through [`Spawned::failure`].
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// An argument holds a NUL byte.
    #[error("start a program: an argument holds a NUL byte")]
    Nul(#[from] NulError),
    /// The process has other threads, so that its copy might find a lock held for ever.
    #[error("fork: {0} threads run, and the child could find their locks held for ever")]
    Threads(u64),
    /// A system call failed.
    #[error("{call}")]
    System {
        /// Which.
        call: &'static str,
        /// How.
        source: std::io::Error,
    },
}

/// A program to start.
#[derive(Debug)]
pub struct Command {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    stdio: [OwnedFd; 3],
}

/// A program that was started, or is on its way.
#[derive(Debug)]
pub struct Spawned {
    /// The child. It leads a process group of its own.
    pub pid: Pid,
    /// Ends without a byte once the program runs; else holds the text of what failed before.
    pub failure: OwnedFd,
}

impl Command {
    /// The program at `path` (not searched for), with these as descriptors 0, 1 and 2. Its `argv[0]` is the path.
    pub fn new(path: &OsStr, stdio: [OwnedFd; 3]) -> Result<Self, SpawnError> {
        let path = CString::new(path.as_bytes())?;
        Ok(Self { arguments: vec![path.clone()], path, environment: Vec::new(), stdio })
    }

    /// One more argument.
    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> Result<&mut Self, SpawnError> {
        self.arguments.push(CString::new(argument.as_ref().as_bytes())?);
        Ok(self)
    }

    /// One more variable of the environment, which is otherwise empty.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> Result<&mut Self, SpawnError> {
        let mut pair = Vec::from(name.as_bytes());
        pair.push(b'=');
        pair.extend_from_slice(value.as_ref().as_bytes());
        self.environment.push(CString::new(pair)?);
        Ok(self)
    }

    /// Forks; the child runs `prepare` and becomes the program, with no signal blocked or ignored and no other
    /// descriptor open. Does not wait for either.
    ///
    /// `prepare` runs in the copy: what it changes in memory is lost with the exec.
    pub fn spawn<E: Display>(
        self,
        prepare: impl FnOnce() -> Result<(), E>,
    ) -> Result<Spawned, SpawnError> {
        let (failure, writer) = pipe_with(PipeFlags::CLOEXEC)
            .map_err(|e| SpawnError::System { call: "make a pipe", source: e.into() })?;
        match fork_single_threaded()? {
            Some(pid) => Ok(Spawned { pid, failure }),
            None => self.run_as_child(&writer, prepare),
        }
    }

    /// The child's part: never returns to the code that forked.
    fn run_as_child<E: Display>(
        &self,
        writer: &OwnedFd,
        prepare: impl FnOnce() -> Result<(), E>,
    ) -> ! {
        let _exits_even_on_panic = ExitGuard;
        let text = match prepare().map_err(|e| e.to_string()).and_then(|()| self.exec()) {
            Ok(never) => match never {},
            Err(text) => text,
        };
        // Less than a pipe holds, so it cannot block; if the reader is gone there is nobody to tell.
        let _ = rustix::io::write(writer, text.as_bytes().get(..4096).unwrap_or(text.as_bytes()));
        exit_now(NOT_STARTED)
    }

    fn exec(&self) -> Result<Infallible, String> {
        let step =
            |call: &'static str| move |e: Errno| format!("{call}: {}", std::io::Error::from(e));
        rustix::process::setpgid(None, None).map_err(step("setpgid"))?;
        let [stdin, stdout, stderr] = &self.stdio;
        rustix::stdio::dup2_stdin(stdin).map_err(step("dup2 stdin"))?;
        rustix::stdio::dup2_stdout(stdout).map_err(step("dup2 stdout"))?;
        rustix::stdio::dup2_stderr(stderr).map_err(step("dup2 stderr"))?;
        close_others_on_exec();
        default_signals();
        nix::unistd::execve(&self.path, &self.arguments, &self.environment).map_err(|e| {
            format!("exec {}: {}", self.path.to_string_lossy(), std::io::Error::from(e))
        })
    }
}

/// Forks, if this process has one thread only; `None` in the child.
fn fork_single_threaded() -> Result<Option<Pid>, SpawnError> {
    let threads =
        thread_count().map_err(|source| SpawnError::System { call: "count threads", source })?;
    if threads != 1 {
        return Err(SpawnError::Threads(threads));
    }
    // SAFETY: no other thread exists, as just counted, and only this one could make one; so no lock of the allocator or of
    // the standard library is held in the copy by a thread that it does not have.
    let result = unsafe { nix::unistd::fork() };
    match result {
        Ok(nix::unistd::ForkResult::Child) => Ok(None),
        Ok(nix::unistd::ForkResult::Parent { child }) => Ok(Pid::from_raw(child.as_raw())),
        Err(e) => Err(SpawnError::System { call: "fork", source: e.into() }),
    }
}

/// By the link count of the directory that has one folder per thread: one call, no reading of folders.
fn thread_count() -> std::io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// A second belt: every descriptor here is made to close on exec, and libraries' should be.
fn close_others_on_exec() {
    // SAFETY: closes nothing now, so no owner in this copy is left with a closed descriptor.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 {
        return;
    }
    // Kernels before 5.11.
    for fd in 3..1024 {
        // SAFETY: only a flag is set, on a number that may be open or not.
        let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let _ = rustix::io::fcntl_setfd(borrowed, FdFlags::CLOEXEC);
    }
}

/// What exec does not reset: the mask, and what is ignored here (SIGPIPE, by the standard library) or was by the one who
/// started this process.
fn default_signals() {
    let _ = SigSet::empty().thread_set_mask();
    for signal in Signal::iterator() {
        // SAFETY: the default action runs no code of this process. SIGKILL and SIGSTOP are refused, and have it anyway.
        let _ = unsafe { nix::sys::signal::signal(signal, SigHandler::SigDfl) };
    }
}

fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process without running handlers or destructors that belong to the process it was copied from.
    unsafe { libc::_exit(code) }
}

/// Keeps an unwinding child from returning into its parent's code.
struct ExitGuard;

impl Drop for ExitGuard {
    fn drop(&mut self) {
        exit_now(NOT_STARTED);
    }
}
