//! Starting programs from a process with one thread, with steps of one's own between fork and exec.
//!
//! Not `std::process::Command`: it reads the child's error pipe before it returns, so a mount that hangs in a `pre_exec`
//! would hang the caller, and such an error is a bare number without the step that failed. Here the pipe is the caller's to
//! read, and carries text. Nothing here waits for children either: their owner has one reaper.

use crate::namespace::{Namespace, unshare};
use nix::libc;
use nix::sys::signal::{SigHandler, SigSet, Signal};
use rustix::io::{Errno, FdFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions};
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
    executable: Option<OwnedFd>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    stdio: [OwnedFd; 3],
}

/// A program that was started, or is on its way.
#[derive(Debug)]
pub struct Spawned {
    /// The child. Once it runs its program it leads a process group of its own.
    pub pid: Pid,
    /// Ends without a byte once the program runs, or the work is done; else holds the text of what failed before.
    pub failure: OwnedFd,
}

/// Forks; the child does `work` and ends: with code 0, or with [`NOT_STARTED`] after it has told why. It keeps all descriptors.
pub fn fork<E: Display>(work: impl FnOnce() -> Result<(), E>) -> Result<Spawned, SpawnError> {
    let (failure, writer) = new_pipe()?;
    match fork_single_threaded()? {
        Some(pid) => Ok(Spawned { pid, failure }),
        None => {
            let _exits_even_on_panic = ExitGuard;
            match work() {
                Ok(()) => exit_now(0),
                Err(error) => fail(&writer, &error.to_string()),
            }
        }
    }
}

impl Command {
    /// The program at `path` (not searched for), with these as descriptors 0, 1 and 2. Its `argv[0]` is the path.
    pub fn new(path: &OsStr, stdio: [OwnedFd; 3]) -> Result<Self, SpawnError> {
        let path = CString::new(path.as_bytes())?;
        let arguments = vec![path.clone()];
        Ok(Self { arguments, path, executable: None, environment: Vec::new(), stdio })
    }

    /// The program in this open file, which nobody need be able to reach by a path. Its `argv[0]` is `name`. If that is a path, whole, the
    /// program there is run where the file can't be.
    pub fn of_file(
        executable: OwnedFd,
        name: &OsStr,
        stdio: [OwnedFd; 3],
    ) -> Result<Self, SpawnError> {
        Ok(Self { executable: Some(executable), ..Self::new(name, stdio)? })
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
        let (failure, writer) = new_pipe()?;
        match fork_single_threaded()? {
            Some(pid) => Ok(Spawned { pid, failure }),
            None => self.run_as_child(&writer, prepare),
        }
    }

    /// As [`Command::spawn`], but the program becomes the first process of a new PID namespace, which belongs to the user namespace that `prepare`
    /// may have entered. Waits for a process in between, which makes the namespace and ends; the caller has to be a subreaper, as it is the
    /// program's parent only then. When the program runs, that has happened: a signal that it wants at its parent's death is not that one's. Only a
    /// reaped process surely has no children any more: its descriptors are closed a while before they are given away.
    pub fn spawn_first<E: Display>(
        self,
        prepare: impl FnOnce() -> Result<(), E>,
    ) -> Result<Spawned, SpawnError> {
        let (failure, writer) = new_pipe()?;
        let (number, told) = new_pipe()?;
        let (go, unreaped) = new_pipe()?;
        let Some(between) = fork_single_threaded()? else {
            drop(unreaped);
            self.run_between(&writer, told, &go, prepare)
        };
        drop((writer, told));
        let text = std::io::read_to_string(std::fs::File::from(number));
        let _ = rustix::process::waitpid(Some(between), WaitOptions::empty());
        drop(unreaped);
        let text =
            text.map_err(|source| SpawnError::System { call: "hear from the child", source })?;
        // Without a number it has failed, and told why.
        let pid = text.parse().ok().and_then(Pid::from_raw).unwrap_or(between);
        Ok(Spawned { pid, failure })
    }

    /// The part of the process in between.
    fn run_between<E: Display>(
        &self,
        writer: &OwnedFd,
        told: OwnedFd,
        go: &OwnedFd,
        prepare: impl FnOnce() -> Result<(), E>,
    ) -> ! {
        let _exits_even_on_panic = ExitGuard;
        let ready = || -> Result<(), String> {
            prepare().map_err(|e| e.to_string())?;
            let step = |step: &str, e: Errno| format!("{step}: {}", std::io::Error::from(e));
            unshare(Namespace::PidOfChildren).map_err(|e| step("make a PID namespace", e))
        };
        if let Err(text) = ready() {
            fail(writer, &text);
        }
        match fork_single_threaded() {
            Err(error) => fail(writer, &error.to_string()),
            Ok(Some(pid)) => {
                let _ = rustix::io::write(&told, pid.to_string().as_bytes());
                exit_now(0)
            }
            Ok(None) => {
                drop(told);
                let parent_is_gone = || rustix::io::read(go, &mut [0; 1]).map(drop);
                self.run_as_child(writer, parent_is_gone)
            }
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
        fail(writer, &text)
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
        let executed = match &self.executable {
            Some(file) => nix::unistd::execveat(
                file,
                c"",
                &self.arguments,
                &self.environment,
                nix::fcntl::AtFlags::AT_EMPTY_PATH,
            )
            .or_else(|error| match self.path.as_bytes() {
                [b'/', ..] => nix::unistd::execve(&self.path, &self.arguments, &self.environment),
                _ => Err(error),
            }),
            None => nix::unistd::execve(&self.path, &self.arguments, &self.environment),
        };
        executed.map_err(|e| {
            format!("exec {}: {}", self.path.to_string_lossy(), std::io::Error::from(e))
        })
    }
}

fn new_pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    pipe_with(PipeFlags::CLOEXEC)
        .map_err(|e| SpawnError::System { call: "make a pipe", source: e.into() })
}

/// The end of a child that could not do what it was made for.
fn fail(writer: &OwnedFd, text: &str) -> ! {
    // Less than a pipe holds, so it cannot block; if the reader is gone there is nobody to tell.
    let _ = rustix::io::write(writer, text.as_bytes().get(..4096).unwrap_or(text.as_bytes()));
    exit_now(NOT_STARTED)
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
