//! A shim's start: its directory, its socket, its process. Of a pod that is there, or of one that is to come.

use super::ShimError;
use super::process::start_time;
use crate::oci::sealed::Copy;
use crate::store::{ShimRecord, StoreError, write_json};
use davit_proto::disk::{SHIM_CONFIG, SHIM_ENV, SHIM_LOG, SHIM_SOCKET, ShimConfig};
use davit_proto::ready::{self, Begin, Meanwhile};
use davit_proto::sealed;
use davit_sys::passing::send_message;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A shim that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// Its configuration could not be written.
    #[error("write the shim's configuration")]
    Config(#[from] StoreError),
    /// Its socket or its log could not be made.
    #[error("{verb} in {}", directory.display())]
    Prepare {
        /// What was tried.
        verb: &'static str,
        /// The pod's directory.
        directory: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The executable could not be run.
    #[error("run {}", path.display())]
    Run {
        /// The executable.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// It ran and ended before it served.
    #[error("the shim ended while it set up the pod: {said}")]
    Ended {
        /// The end of its log.
        said: String,
    },
    /// Whether it is there can't be seen.
    #[error("look after process {pid}")]
    Watch {
        /// The shim.
        pid: u32,
        /// What keeps one from it.
        #[source]
        source: io::Error,
    },
    /// It neither served nor ended in time.
    #[error("the shim did not serve within {} ms", after.as_millis())]
    Silent {
        /// How long it was given.
        after: std::time::Duration,
    },
    /// Somebody else answers on its socket.
    #[error("process {pid} answers on the socket of the shim, which is process {shim}")]
    Foreign {
        /// Who.
        pid: u32,
        /// The shim.
        shim: u32,
    },
    /// It answered with an error.
    #[error("ask the shim for its state")]
    State(#[source] ShimError),
}

/// Starts the shim `executable` for the pod in `directory`, which it is told by `config`, with a copy of the OCI runtime if there is one.
///
/// The socket exists and listens before the shim does: whoever connects waits for it, and never has to ask whether it is there yet.
///
/// # Errors
/// [`SpawnError`]; what was made in `directory` stays for the caller, whose directory it is.
pub fn spawn(
    executable: &Path,
    directory: &Path,
    config: &ShimConfig,
    sealed: Option<&Copy>,
) -> Result<ShimRecord, SpawnError> {
    let Parts { listener, log } = Parts::make(directory, config)?;
    let mut command = command(executable, directory);
    // All as streams, so that std needs no code of ours between fork and exec, and hence no fork: the child borrows the daemon's memory until it
    // has its program, instead of getting a copy of its page tables.
    command.stdin(OwnedFd::from(listener)).stdout(Stdio::null()).stderr(log);
    if let Some(copy) = sealed {
        command.env(sealed::ENV, copy.original.to_env());
        command.stdout(copy.descriptor().map_err(prepare("pass the OCI runtime", directory))?);
    }
    start(command, executable)
}

/// What a pod's shim needs of the pod.
struct Parts {
    listener: UnixListener,
    log: File,
}

impl Parts {
    fn make(directory: &Path, config: &ShimConfig) -> Result<Self, SpawnError> {
        write_json(&directory.join(SHIM_CONFIG), config)?;
        let listener = bind(directory).map_err(prepare("make the shim's socket", directory))?;
        let log = log_file(directory).map_err(prepare("make the shim's log", directory))?;
        Ok(Self { listener, log })
    }
}

fn prepare(verb: &'static str, directory: &Path) -> impl FnOnce(io::Error) -> SpawnError {
    let directory = directory.to_owned();
    move |source| SpawnError::Prepare { verb, directory, source }
}

/// A shim that waits for its pod.
#[derive(Debug)]
pub(crate) struct ReadyShim {
    record: ShimRecord,
    socket: OwnedFd,
}

impl ReadyShim {
    /// Starts one for the pod that is going to have this `directory`, which need not be there yet.
    pub(crate) fn start(
        executable: &Path,
        directory: &Path,
        meanwhile: &Meanwhile,
    ) -> Result<Self, SpawnError> {
        let pair = davit_sys::passing::message_pair();
        let (socket, theirs) = pair.map_err(prepare("make a shim's socket for", directory))?;
        let mut command = command(executable, directory);
        let meanwhile = serde_json::to_string(meanwhile).map_err(io::Error::from);
        command.env(ready::ENV, meanwhile.map_err(prepare("tell a shim of", directory))?);
        command.stdin(theirs).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self { record: start(command, executable)?, socket })
    }

    pub(crate) fn record(&self) -> ShimRecord {
        self.record
    }

    /// Makes it the pod's, as [`spawn`] makes one. `Ok(None)`: it has ended, and another is to be started.
    pub(crate) fn give(
        self,
        directory: &Path,
        config: &ShimConfig,
        sealed: Option<&Copy>,
    ) -> Result<Option<ShimRecord>, SpawnError> {
        let Parts { listener, log } = Parts::make(directory, config)?;
        let mut descriptors = vec![listener.as_fd(), log.as_fd()];
        descriptors.extend(sealed.map(Copy::as_fd));
        let begin = Begin { sealed: sealed.map(|copy| copy.original.to_env()) };
        let message = begin.to_bytes();
        if message.len() > ready::LONGEST
            || send_message(self.socket.as_fd(), &message, &descriptors).is_err()
        {
            // So that another can make its own.
            let socket = directory.join(SHIM_SOCKET);
            std::fs::remove_file(socket).map_err(prepare("remove a socket", directory))?;
            return Ok(None);
        }
        Ok(Some(self.record))
    }
}

fn command(executable: &Path, directory: &Path) -> Command {
    let mut command = Command::new(executable);
    command.arg("--pod-dir").arg(directory).env_clear().current_dir("/").process_group(0);
    command.env(SHIM_ENV.0, SHIM_ENV.1);
    // A runtime that the shim runs may need to find its helpers.
    command.env(
        "PATH",
        std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()),
    );
    #[cfg(feature = "failpoints")]
    command.envs(
        std::env::var_os(davit_sys::failpoint::ASKED)
            .map(|asked| (davit_sys::failpoint::ASKED, asked)),
    );
    command
}

fn start(mut command: Command, executable: &Path) -> Result<ShimRecord, SpawnError> {
    // Reaped by who sees its end on its pidfd, as after a restart. tokio would ask after every shim that there is whenever a child ends.
    let mut child = command
        .spawn()
        .map_err(|source| SpawnError::Run { path: executable.to_owned(), source })?;
    let pid = child.id();
    match start_time(pid) {
        // Gone already: no process has this start time, so it is found to have ended.
        Ok(start_time) => Ok(ShimRecord { pid, start_time: start_time.unwrap_or_default() }),
        Err(source) => {
            // Nobody could end it later who does not know it.
            drop(child.kill().and_then(|()| child.wait()));
            Err(SpawnError::Watch { pid, source })
        }
    }
}

/// A Unix address holds 107 bytes, which a state root of some depth exceeds; by way of the directory's descriptor it never does.
fn bind(directory: &Path) -> io::Result<UnixListener> {
    let handle = File::open(directory)?;
    UnixListener::bind(socket_path(&handle))
}

/// The socket's address for as long as `directory` is open.
pub(super) fn socket_path(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SHIM_SOCKET}", directory.as_raw_fd()))
}

fn log_file(directory: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(directory.join(SHIM_LOG))
}

/// The end of what a shim said on its standard error, in one line.
#[must_use]
pub(crate) fn last_words(directory: &Path) -> String {
    let log = std::fs::read(directory.join(SHIM_LOG)).unwrap_or_default();
    let tail = log.get(log.len().saturating_sub(2000)..).unwrap_or_default();
    let lines: Vec<String> = String::from_utf8_lossy(tail).lines().map(str::to_owned).collect();
    let last = lines.iter().rev().take(3).rev().cloned().collect::<Vec<_>>().join("; ");
    if last.is_empty() { "it said nothing".to_owned() } else { last }
}
