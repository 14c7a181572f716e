//! Create: from a bundle to an init that waits to be started.
//!
//! ```text
//! check → log opened → streams made → child: namespace, overlay, OCI runtime's create → pid read, held, adopted → output read
//! ```
//!
//! A failure at any step undoes those before: nothing is left but the bundle as it was.

use super::restore::{Images, Origin};
use super::{Container, Init, Phase, PidNamespace, exit, loss};
use crate::cgroup::{Cgroup, CgroupError};
use crate::error::{Invalid, Refusal, checked_name, checked_path};
use crate::files;
use crate::mapped::{self, MappedError};
use crate::oci::{Call, CallStdio, Oci, OciError, Verb};
use crate::pod::Pod;
use crate::reaper::Ended;
use crate::rootfs;
use crate::shortage::patiently;
use crate::stdio::console::Console;
use crate::stdio::feed::{Ends, Feed};
use crate::stdio::log::{Log, LogError, LogPath, Source};
use crate::stdio::stream;
use crate::stdio::terminal;
use crate::userns::Userns;
use davit_proto::disk::{EXIT_RECORD, INIT_PID};
use davit_proto::shim::{CreateRequest, MappedMount, Rootfs};
use davit_sys::failpoint::reach;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// How long an init that is killed while it is undone may take to be reaped.
const UNDO_LIMIT: Duration = Duration::from_secs(5);

/// The socket in the bundle on which the terminal comes.
const CONSOLE: &str = "console.sock";

/// Why a container was not created.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("create container {id}: {step}")]
    Step { id: String, step: &'static str, source: std::io::Error },
    #[error("create container {id}: find its cgroup")]
    Cgroup { id: String, source: CgroupError },
    #[error("create container {id}: its init ended at once, with code {code}")]
    Died { id: String, code: i32 },
}

/// A request that was checked.
struct Plan {
    id: String,
    bundle: PathBuf,
    oci: Oci,
    rootfs: Option<Rootfs>,
    mapped_mounts: Vec<MappedMount>,
    streams: Streams,
    log: Option<LogPath>,
    max_log_line: u32,
    pids: PidNamespace,
    oom_score_adj: Option<i32>,
    origin: Origin,
}

/// The standard streams that a container is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Streams {
    Terminal {
        input: bool,
    },
    /// Standard input is at its end from the start.
    Output,
    InputAndOutput(Ends),
}

impl Plan {
    fn checked(request: CreateRequest, origin: Origin, pod: &Pod) -> Result<Self, Invalid> {
        let CreateRequest { id, bundle, runtime, rootfs, terminal, stdin, stdin_once, .. } =
            request;
        let CreateRequest { log_path, log_directory, max_log_line, .. } = request;
        let CreateRequest { own_pid_namespace, oom_score_adj, mapped_mounts, .. } = request;
        checked_name("id", &id)?;
        checked_path("bundle", &bundle)?;
        let runtime = runtime.ok_or_else(|| Invalid::new("runtime", "", "it is missing"))?;
        let oci = Oci::checked(runtime, pod.sealed.clone())?;
        let check = |rootfs| rootfs::check(rootfs, &pod.directory, pod.userns.as_deref());
        rootfs.as_ref().map_or(Ok(()), check)?;
        mapped_mounts.iter().try_for_each(|mount| mapped::check(mount, &pod.directory))?;
        let log = log_at(log_path, log_directory)?;
        let bundle = bundle.into();
        let streams = match (terminal, stdin) {
            (true, input) => Streams::Terminal { input },
            (false, false) => Streams::Output,
            (false, true) if stdin_once => Streams::InputAndOutput(Ends::WithTheFirst),
            (false, true) => Streams::InputAndOutput(Ends::Never),
        };
        let pids = if own_pid_namespace { PidNamespace::Own } else { PidNamespace::Joined };
        Ok(Self {
            id,
            bundle,
            oci,
            rootfs,
            mapped_mounts,
            streams,
            log,
            max_log_line,
            pids,
            oom_score_adj,
            origin,
        })
    }

    /// What the OCI runtime is to do.
    fn verb<'a>(&'a self, pid_file: &'a Path, console_socket: Option<&'a Path>) -> Verb<'a> {
        let bundle = &self.bundle;
        match &self.origin {
            Origin::New => Verb::Create { bundle, pid_file, console_socket },
            Origin::Checkpoint(Images { images, work, limit: _ }) => {
                Verb::Restore { bundle, pid_file, console_socket, images, work }
            }
        }
    }

    /// The OCI runtime, within the limit of this call.
    fn caller(&self) -> Oci {
        match &self.origin {
            Origin::New => self.oci.clone(),
            Origin::Checkpoint(images) => self.oci.within(images.limit),
        }
    }

    /// Runs in the child: makes the mounts that the OCI runtime is to find, in a namespace of the child's own.
    fn prepare(&self, userns: Option<&Userns>) -> Result<(), MappedError> {
        if let Some(rootfs) = &self.rootfs {
            rootfs::leave_mounts_for(rootfs)?;
            rootfs::prepare(rootfs, userns)?;
        } else if let Some(first) = self.mapped_mounts.first() {
            rootfs::leave_mounts(&first.target)?;
        }
        mapped::prepare(&self.mapped_mounts, userns)
    }
}

fn log_at(file: String, directory: String) -> Result<Option<LogPath>, Invalid> {
    if file.is_empty() {
        return Ok(None);
    }
    checked_path("log_path", &file)?;
    if directory.is_empty() {
        return Ok(Some(LogPath { file: file.into(), directory: None }));
    }
    checked_path("log_directory", &directory)?;
    Ok(Some(LogPath { file: file.into(), directory: Some(directory.into()) }))
}

/// Creates a container and answers its init's pid. To be run in a task of its own: it must not be dropped halfway.
pub(crate) async fn create(pod: &Arc<Pod>, request: CreateRequest) -> Result<Pid, CreateError> {
    let plan = Plan::checked(request, Origin::New, pod)?;
    make(pod, plan, Phase::Created).await
}

/// Makes a container from a checkpoint, and answers its init's pid: the same steps, but that its processes run afterwards.
pub(super) async fn from_checkpoint(
    pod: &Arc<Pod>,
    request: CreateRequest,
    images: Images,
) -> Result<Pid, CreateError> {
    let plan = Plan::checked(request, Origin::Checkpoint(images), pod)?;
    make(pod, plan, Phase::Running).await
}

async fn make(
    pod: &Arc<Pod>,
    plan: Plan,
    phase: impl FnOnce(Arc<Init>) -> Phase,
) -> Result<Pid, CreateError> {
    pod.refuse_known(&plan.id)?;
    let log = Log::open(plan.log.clone(), plan.max_log_line, loss::listener(pod, &plan.id))?;
    let container =
        Container::new(plan.id.clone(), plan.bundle.clone(), plan.oci.clone(), plan.pids, log);
    let container = Arc::new(container);
    pod.insert(Arc::clone(&container))?;
    match build(pod, &container, plan).await {
        Ok(born) => Ok(take_over(pod, &container, born, phase)),
        Err(error) => {
            container.log.discard();
            pod.remove(&container.id);
            container.advance(|_| Some(Phase::Gone));
            container.tee.close();
            Err(error)
        }
    }
}

/// A container that was created, not yet watched.
struct Born {
    init: Init,
    ended: oneshot::Receiver<Ended>,
    stdin: Option<Feed>,
    terminal: Option<OwnedFd>,
    logging: Vec<JoinHandle<()>>,
}

/// The shim's side of a container's streams.
enum Ours {
    Pipes { stdin: Option<Feed>, stdout: OwnedFd, stderr: OwnedFd },
    Terminal(Console),
}

async fn build(pod: &Arc<Pod>, container: &Container, plan: Plan) -> Result<Born, CreateError> {
    let step = |step| step_of(&container.id, step);
    let pid_file = plan.bundle.join(INIT_PID);
    for stale in [&pid_file, &plan.bundle.join(EXIT_RECORD)] {
        files::remove_if_there(stale).map_err(step("remove what an earlier one left"))?;
    }
    reach("shim_create.begun").map_err(step("pass"))?;
    let (mut theirs, ours) = streams(&plan).map_err(step("make its streams"))?;
    if let Some(userns) = &pod.userns {
        let [stdin, stdout, stderr] = theirs;
        let give = |stream| userns.give(stream).map_err(step("give its streams"));
        theirs = [give(stdin)?, give(stdout)?, give(stderr)?];
    }
    reach("shim_create.streams").map_err(step("pass"))?;
    let console_socket = match &ours {
        Ours::Terminal(console) => Some(console.path()),
        Ours::Pipes { .. } => None,
    };
    let errors = match &ours {
        Ours::Pipes { stderr, .. } => Some(stderr.try_clone().map_err(step("make its streams"))?),
        Ours::Terminal(_) => None,
    };
    let call = Call {
        verb: plan.verb(&pid_file, console_socket),
        id: &plan.id,
        log: plan.bundle.join("create.log"),
        stdio: CallStdio::Theirs { stdio: theirs, errors },
    };
    let expecting = pod.reaper.expect_unknown();
    let prepare = || plan.prepare(pod.userns.as_deref());
    let called = plan.caller().run(&pod.reaper, call, prepare).await;
    let born = match called {
        Ok(()) => match pod.settled().await {
            Ok(()) => adopt(container, &plan, &pid_file, &expecting, ours).await,
            Err(refusal) => Err(refusal.into()),
        },
        Err(error) => Err(error.into()),
    };
    if born.is_err() {
        undo(pod, container, &pid_file).await;
    }
    born
}

fn streams(plan: &Plan) -> std::io::Result<([OwnedFd; 3], Ours)> {
    let null = crate::process::null;
    let (stdin, feed) = match plan.streams {
        Streams::Terminal { .. } => {
            let console = Console::listen(&plan.bundle, CONSOLE)?;
            return Ok(([null()?, null()?, null()?], Ours::Terminal(console)));
        }
        Streams::Output => (null()?, None),
        Streams::InputAndOutput(ends) => {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            (reader, Some(Feed::pipe(writer, ends)?))
        }
    };
    let (stdout, their_stdout) = stream::pipe_to_read()?;
    let (stderr, their_stderr) = stream::pipe_to_read()?;
    Ok(([stdin, their_stdout, their_stderr], Ours::Pipes { stdin: feed, stdout, stderr }))
}

/// Takes hold of the init that the runtime left, and begins to read its output.
async fn adopt(
    container: &Container,
    plan: &Plan,
    pid_file: &Path,
    expecting: &crate::reaper::Expecting,
    ours: Ours,
) -> Result<Born, CreateError> {
    let step = |step| step_of(&plan.id, step);
    reach("shim_create.called").map_err(step("pass"))?;
    let pid = patiently(|| read_pid(pid_file)).await.map_err(step("read the pid of its init"))?;
    let mut ended = expecting.adopt(pid);
    let held = hold(plan, pid);
    if let Ok(ended) = ended.try_recv() {
        return Err(CreateError::Died { id: plan.id.clone(), code: ended.code });
    }
    let init = held?;
    reach("shim_create.held").map_err(step("pass"))?;
    let outlets = || (Arc::clone(&container.log), Arc::clone(&container.tee));
    let read = |fd, source| {
        let (log, tee) = outlets();
        stream::spawn_logging(fd, source, log, tee).map_err(step("read its output"))
    };
    let (stdin, terminal, logging) = match ours {
        Ours::Pipes { stdin, stdout, stderr } => {
            (stdin, None, vec![read(stdout, Source::Stdout)?, read(stderr, Source::Stderr)?])
        }
        Ours::Terminal(console) => {
            let master = console.receive().await.map_err(step("receive its terminal"))?;
            let again = || master.try_clone().map_err(step("share its terminal"));
            let stdin = match plan.streams {
                Streams::Terminal { input: true } => Some(Feed::terminal(again()?)),
                Streams::Terminal { input: false }
                | Streams::Output
                | Streams::InputAndOutput(_) => None,
            };
            let (held, (log, tee)) = (again()?, outlets());
            let reading = terminal::spawn_logging(master, log, tee);
            (stdin, Some(held), vec![reading.map_err(step("read its output"))?])
        }
    };
    reach("shim_create.read").map_err(step("pass"))?;
    Ok(Born { init, ended, stdin, terminal, logging })
}

fn hold(plan: &Plan, pid: Pid) -> Result<Init, CreateError> {
    let step = |step| step_of(&plan.id, step);
    let pidfd =
        pidfd_open(pid, PidfdFlags::empty()).map_err(|e| step("hold its init")(e.into()))?;
    let cgroup =
        Cgroup::of(pid).map_err(|source| CreateError::Cgroup { id: plan.id.clone(), source })?;
    if let Some(value) = plan.oom_score_adj {
        let path = format!("/proc/{}/oom_score_adj", pid.as_raw_pid());
        files::write_kernel(Path::new(&path), &value.to_string())
            .map_err(step("set its oom_score_adj"))?;
    }
    Ok(Init { pid, pidfd, cgroup })
}

/// From here on the container has an owner: the task that watches for its end.
fn take_over(
    pod: &Arc<Pod>,
    container: &Arc<Container>,
    born: Born,
    phase: impl FnOnce(Arc<Init>) -> Phase,
) -> Pid {
    let Born { init, ended, stdin, terminal, logging } = born;
    let pid = init.pid;
    let init = Arc::new(init);
    let phase = phase(Arc::clone(&init));
    let begun = matches!(phase, Phase::Running(_)).then(crate::process::now);
    {
        let mut held = container.held();
        (held.stdin, held.terminal) = (stdin, terminal);
        held.started_at = begun;
    }
    container.advance(|_| Some(phase));
    exit::spawn_watch(Arc::clone(pod), Arc::clone(container), init, ended, logging);
    pid
}

/// Ends what the failed create may have left: its init, the runtime's state and cgroup, files in the bundle.
async fn undo(pod: &Pod, container: &Container, pid_file: &Path) {
    // Known or not to the runtime: it may have failed before it wrote its state, or after.
    if let Ok(pid) = patiently(|| read_pid(pid_file)).await
        && let Ok(pidfd) = patiently(|| Ok(pidfd_open(pid, PidfdFlags::empty())?)).await
    {
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        let gone = async {
            while pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let _ = tokio::time::timeout(UNDO_LIMIT, gone).await;
    }
    if let Err(error) = super::delete::call_runtime(pod, container).await {
        crate::say(&error);
    }
    if let Err(error) = files::remove_if_there(pid_file) {
        crate::say(&error);
    }
}

/// A pid as OCI runtimes write it to a file.
pub(crate) fn read_pid(path: &Path) -> std::io::Result<Pid> {
    let text = files::read_small(path, 32)?;
    let pid = text.trim().parse::<i32>().ok().filter(|n| *n > 1).and_then(Pid::from_raw);
    pid.ok_or_else(|| {
        std::io::Error::new(std::io::ErrorKind::InvalidData, format!("{text:?} is no pid"))
    })
}

fn step_of(id: &str, step: &'static str) -> impl FnOnce(std::io::Error) -> CreateError {
    move |source| CreateError::Step { id: id.to_owned(), step, source }
}
