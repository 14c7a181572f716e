//! Calls of the OCI runtime: one typed verb per call, one process per call, its end by the reaper.
//!
//! Owns the command line, the limit on its time, and finding out what the runtime has to say when it refuses: the last error in
//! the log that it is told to write (crun and runc know `--log` and `--log-format json`), else its last line on standard error.
//! What the call leaves behind when it fails is for the caller to undo.

use crate::error::Invalid;
use crate::files;
use crate::reaper::Reaper;
use crate::sealed::Sealed;
use crate::stdio::stream;
use davit_proto::shim::OciRuntime;
use davit_sys::fifo;
use davit_sys::process::{Command, SpawnError, Spawned};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use std::ffi::OsStr;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How much of a log or of standard error is looked at.
const TAIL: u64 = 16 * 1024;
/// How long a killed runtime may take to be reaped.
const KILLED_LIMIT: Duration = Duration::from_secs(5);
/// The limit of a call that undoes, where the caller sets none.
const UNDO_LIMIT: Duration = Duration::from_secs(30);

/// How many files a container's process may have open unless it asks for more: the limit that davit sets for each.
const FILES: u64 = 1024;

/// An OCI runtime and how to call it.
#[derive(Debug, Clone)]
pub(crate) struct Oci {
    path: PathBuf,
    root: PathBuf,
    systemd_cgroup: bool,
    arguments: Vec<String>,
    limit: Option<Duration>,
    sealed: Option<Arc<Sealed>>,
    start: Start,
}

/// How a container is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    /// By the runtime's own verb.
    Call,
    /// By a byte to where its init waits.
    Fifo,
}

/// What the runtime is asked to do with a container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verb<'a> {
    Create {
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
    },
    Start,
    /// With `--force`: it kills what lives, and an unknown container is success.
    Delete,
    Exec {
        process: &'a Path,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
    },
    /// With the limits on its standard input.
    Update,
    Pause,
    Resume,
    /// It leaves the container as it is.
    Checkpoint {
        images: &'a Path,
        work: &'a Path,
    },
    /// Its processes run afterwards, without a start.
    Restore {
        bundle: &'a Path,
        pid_file: &'a Path,
        console_socket: Option<&'a Path>,
        images: &'a Path,
        work: &'a Path,
    },
}

impl Verb<'_> {
    fn name(self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Start => "start",
            Self::Delete => "delete",
            Self::Exec { .. } => "exec",
            Self::Update => "update",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Checkpoint { .. } => "checkpoint",
            Self::Restore { .. } => "restore",
        }
    }
}

/// One call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) verb: Verb<'a>,
    pub(crate) id: &'a str,
    /// Where the runtime is to write its log; removed afterwards.
    pub(crate) log: PathBuf,
    pub(crate) stdio: CallStdio,
}

/// The runtime's descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) enum CallStdio {
    /// Nothing to read, output dropped, errors read for their last line.
    Quiet,
    /// The same, with this to read.
    Reads(OwnedFd),
    /// The container's, or the exec'd process's.
    Theirs {
        stdio: [OwnedFd; 3],
        /// Where their standard error can be read, for what a runtime that is no more than a script says there.
        errors: Option<OwnedFd>,
    },
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OciError {
    #[error("start the OCI runtime to {verb} container {id}")]
    Spawn { verb: &'static str, id: String, source: SpawnError },
    #[error("start the OCI runtime to {verb} container {id}")]
    Io { verb: &'static str, id: String, source: std::io::Error },
    /// What the child did before it became the runtime failed.
    #[error("{verb} container {id}: {message}")]
    Prepare { verb: &'static str, id: String, message: String },
    #[error("{verb} container {id}: {message}")]
    Refused { verb: &'static str, id: String, message: String },
    #[error("{verb} container {id}: the OCI runtime took longer than {} ms", limit.as_millis())]
    TimedOut { verb: &'static str, id: String, limit: Duration },
}

impl Oci {
    /// The runtime of a request, if it can be called; `sealed` is the one in memory.
    pub(crate) fn checked(
        request: OciRuntime,
        sealed: Option<Arc<Sealed>>,
    ) -> Result<Self, Invalid> {
        let OciRuntime { path, root, systemd_cgroup, args, timeout_ms, start_fifo } = request;
        crate::error::checked_path("runtime.path", &path)?;
        crate::error::checked_path("runtime.root", &root)?;
        if let Some(bad) = args.iter().find(|a| a.contains('\0')) {
            return Err(Invalid::new("runtime.args", bad, "it contains a NUL byte"));
        }
        let limit = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));
        let start = if start_fifo { Start::Fifo } else { Start::Call };
        let (path, root) = (path.into(), root.into());
        Ok(Self { path, root, systemd_cgroup, arguments: args, limit, sealed, start })
    }

    /// The same runtime, for undoing: never without a limit.
    pub(crate) fn for_undo(&self) -> Self {
        Self { limit: Some(self.limit.unwrap_or(UNDO_LIMIT)), ..self.clone() }
    }

    /// The same runtime with another limit.
    pub(crate) fn within(&self, limit: Option<Duration>) -> Self {
        Self { limit, ..self.clone() }
    }

    /// Where the init of container `id` waits to be started, if that is all that the runtime's `start` is for.
    pub(crate) fn start_fifo(&self, id: &str) -> Option<PathBuf> {
        (self.start == Start::Fifo).then(|| fifo::path(&self.root, id))
    }

    /// Makes the call and waits for its end. `prepare` runs in the child before it becomes the runtime. If it takes too long,
    /// the runtime and all that it has started are killed, and it is reaped when this answers.
    pub(crate) async fn run<E: Display>(
        &self,
        reaper: &Reaper,
        call: Call<'_>,
        prepare: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), OciError> {
        let (verb, id) = (call.verb.name(), call.id);
        let own = OwnLog::make(call.log);
        let log = own.path();
        let io = |source| OciError::Io { verb, id: id.to_owned(), source };
        let (stdio, errors) = stdio_of(call.stdio).map_err(io)?;
        let command = self
            .command(call.verb, id, log, stdio)
            .map_err(|source| OciError::Spawn { verb, id: id.to_owned(), source })?;
        let prepare = || {
            limit_files();
            // A shim that is killed takes the call along: its outcome would be nobody's.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            prepare()
        };
        let Spawned { pid, failure } = command
            .spawn(prepare)
            .map_err(|source| OciError::Spawn { verb, id: id.to_owned(), source })?;
        let mut ended = reaper.register(pid);
        let outcome = async {
            let message = stream::read_to_end(failure, TAIL).await.map_err(io)?;
            if message.is_empty() {
                return Ok((&mut ended).await.ok());
            }
            let message = String::from_utf8_lossy(&message).into_owned();
            Err(OciError::Prepare { verb, id: id.to_owned(), message })
        };
        let limit = self.limit.unwrap_or(Duration::MAX);
        match tokio::time::timeout(limit, outcome).await {
            Ok(Ok(Some(ended))) if ended.code == 0 => Ok(()),
            Ok(Ok(ended)) => {
                let message = refusal(log, errors.as_ref(), ended.map(|e| e.code));
                Err(OciError::Refused { verb, id: id.to_owned(), message })
            }
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => {
                davit_sys::kin::kill(pid);
                let _ = tokio::time::timeout(KILLED_LIMIT, &mut ended).await;
                Err(OciError::TimedOut { verb, id: id.to_owned(), limit })
            }
        }
    }

    fn command(
        &self,
        verb: Verb<'_>,
        id: &str,
        log: &Path,
        stdio: [OwnedFd; 3],
    ) -> Result<Command, SpawnError> {
        let path = self.path.as_os_str();
        let mut command = match self.sealed.as_ref().and_then(|sealed| sealed.of(&self.path)) {
            Some(copy) => Command::of_file(copy, path, stdio)?,
            None => Command::new(path, stdio)?,
        };
        // Nothing but this: a NOTIFY_SOCKET, for one, would change what runtimes do.
        command.env(
            "PATH",
            std::env::var_os("PATH")
                .as_deref()
                .unwrap_or(OsStr::new("/usr/sbin:/usr/bin:/sbin:/bin")),
        )?;
        command
            .arg("--root")?
            .arg(&self.root)?
            .arg("--log")?
            .arg(log)?
            .arg("--log-format")?
            .arg("json")?;
        if self.systemd_cgroup {
            command.arg("--systemd-cgroup")?;
        }
        for argument in &self.arguments {
            command.arg(argument)?;
        }
        command.arg(verb.name())?;
        match verb {
            Verb::Create { bundle, pid_file, console_socket } => {
                command.arg("--bundle")?.arg(bundle)?.arg("--pid-file")?.arg(pid_file)?;
                console(&mut command, console_socket)?;
            }
            Verb::Start | Verb::Pause | Verb::Resume => {}
            Verb::Restore { bundle, pid_file, console_socket, images, work } => {
                command.arg("--detach")?.arg("--bundle")?.arg(bundle)?;
                command.arg("--pid-file")?.arg(pid_file)?;
                command.arg("--image-path")?.arg(images)?.arg("--work-path")?.arg(work)?;
                console(&mut command, console_socket)?;
            }
            Verb::Checkpoint { images, work } => {
                command.arg("--image-path")?.arg(images)?.arg("--work-path")?.arg(work)?;
                command.arg("--leave-running")?;
            }
            Verb::Delete => {
                command.arg("--force")?;
            }
            // Detached: the process becomes the shim's own child, so that its end comes from the reaper and not through a
            // runtime that would have to stay for as long.
            Verb::Exec { process, pid_file, console_socket } => {
                command
                    .arg("--detach")?
                    .arg("--process")?
                    .arg(process)?
                    .arg("--pid-file")?
                    .arg(pid_file)?;
                console(&mut command, console_socket)?;
            }
            Verb::Update => {
                command.arg("--resources")?.arg("-")?;
            }
        }
        command.arg(id)?;
        Ok(command)
    }
}

/// Where the runtime is to send the terminal, if there is to be one.
fn console(command: &mut Command, socket: Option<&Path>) -> Result<(), SpawnError> {
    if let Some(socket) = socket {
        command.arg("--console-socket")?.arg(socket)?;
    }
    Ok(())
}

/// The file of the runtime's log, for as long as the call takes.
struct OwnLog(Option<PathBuf>);

impl OwnLog {
    /// Where none can be made the runtime gets a null device, and what it says on standard error has to do: a runtime that can't open its log does nothing at
    /// all, and a container has to be deleted on a full disk too.
    fn make(path: PathBuf) -> Self {
        match files::write_new(&path, b"") {
            Ok(()) => Self(Some(path)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Self(Some(path)),
            Err(_) => Self(None),
        }
    }

    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new("/dev/null"))
    }
}

impl Drop for OwnLog {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = files::remove_if_there(path);
        }
    }
}

/// Starts the runtime with as few open files as a container's process may have. One written in Go gives a command what it found itself started with, if the
/// command's own limit was set before it looked: seen of runc 1.1 on a busy machine, which gave an exec'd process the daemon's.
fn limit_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let current = Some(current.map_or(FILES, |current| current.min(FILES)));
    // Lowering is always allowed.
    let _ = setrlimit(Resource::Nofile, Rlimit { current, maximum });
}

fn stdio_of(stdio: CallStdio) -> std::io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    match stdio {
        CallStdio::Theirs { stdio, errors } => Ok((stdio, errors)),
        CallStdio::Quiet => quiet(crate::process::null()?),
        CallStdio::Reads(input) => quiet(input),
    }
}

fn quiet(input: OwnedFd) -> std::io::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    let (reader, writer) = stream::pipe_to_read()?;
    // Where the input is a null device, it is the one that the runtime may have.
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode);
    let output = if kind.is_char_device() { input.try_clone()? } else { crate::process::null()? };
    Ok(([input, output, writer], Some(reader)))
}

/// What the runtime has to say: from its log, else from its standard error, else its exit code.
fn refusal(log: &Path, errors: Option<&OwnedFd>, code: Option<i32>) -> String {
    let logged = files::read_tail(log, TAIL).ok().and_then(|bytes| last_error(&bytes));
    // Some say the same there, in the form of the log.
    let plain = |line: String| last_error(line.as_bytes()).unwrap_or(line);
    let printed = || errors.and_then(stream::last_line).map(plain);
    let unsaid = || {
        code.map_or_else(|| "it was not reaped".to_owned(), |c| format!("it ended with code {c}"))
    };
    logged.or_else(printed).unwrap_or_else(unsaid)
}

#[derive(serde::Deserialize)]
struct LogLine {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The last error in a JSON log, or the last message if none is an error.
fn last_error(log: &[u8]) -> Option<String> {
    let lines = || {
        log.rsplit(|b| *b == b'\n')
            .filter_map(|l| serde_json::from_slice::<LogLine>(l).ok())
            .filter(|l| !l.msg.is_empty())
    };
    let grave = |line: &LogLine| matches!(line.level.as_str(), "error" | "fatal" | "panic");
    lines().find(grave).or_else(|| lines().next()).map(|line| line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_error_of_the_log_is_the_message() {
        let log = br#"{"level":"error","msg":"first","time":"t"}
{"level":"error","msg":"second"}
{"level":"warning","msg":"by the way"}
not json
"#;
        assert_eq!(last_error(log).unwrap(), "second");
        assert_eq!(last_error(br#"{"msg":"only this"}"#).unwrap(), "only this");
        assert_eq!(last_error(b"\"level\":\"error\"\n"), None);
        assert_eq!(last_error(b""), None);
    }
}
