//! `davit run`: a pod with one container, from nothing to the command's exit code.
//!
//! Owns the walk and its undo: whatever fails before the container runs, nothing of it stays. A signal before that undoes as well; one
//! after it stops the container, and a second one kills it.
//!
//! ```text
//! cidfile reserved ─► RunPodSandbox ─► CreateContainer ──NOT_FOUND──► Pull ─┐
//!                                          ▲  │                            │
//!                                          └──┼────────────────────────────┘
//!      (-i, -t: attached) ◄────────────────┘
//!                     id ◄── --detach ── StartContainer ─► Logs(follow), or the session ─► Wait ─► (--rm: removed) ─► exit code
//! ```

mod cidfile;
pub(super) mod interrupt;
pub(crate) mod logs;
pub(super) mod made;
pub(super) mod request;

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::stream::attach::{Attached, Proxy, Wish};
use super::{find, info, pull};
use crate::cli::RunArgs;
use crate::output;
use cidfile::CidFile;
use davit_proto::{admin, cri};
use interrupt::Interrupts;
use made::Made;
use request::Request;
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// How long a container has between SIGTERM and SIGKILL, in seconds.
const GRACE: i64 = 10;

/// Runs it.
///
/// # Errors
/// [`ClientError`] for what kept the container from running, after everything was undone.
pub(crate) async fn run(mut daemon: Daemon, args: RunArgs) -> Result<ExitCode, ClientError> {
    let interrupts = Interrupts::new()?;
    let info = info::ask_info(&mut daemon).await?;
    if let Some(name) = &args.name {
        refuse_taken(&mut daemon, name).await?;
    }
    let mut cidfile = args.cidfile.as_deref().map(CidFile::reserve).transpose()?;
    let request = Request::new(&args, &info.root)?;
    let mut made = Made::new(daemon.clone(), info.root.clone());
    let mut attached = None;
    let wish = attach_wish(&args)?;
    let started = async {
        let id = Box::pin(make(&mut daemon, &request, &mut made, &interrupts)).await?;
        if let Some(wish) = wish {
            attached = Some(Attached::open(daemon.clone(), id.clone(), wish).await?);
        }
        let start = cri::StartContainerRequest { container_id: id.clone() };
        daemon.runtime.start_container(start).await.map_err(doing("start container"))?;
        Ok(id)
    };
    let started = Box::pin(started).await;
    let started = match (started, &mut cidfile) {
        (Ok(id), Some(file)) => file.write(&id).map(|()| id),
        (started, _) => started,
    };
    let id = match started {
        Ok(id) => id,
        Err(error) => {
            made.undo().await;
            return Err(error);
        }
    };
    if let Some(file) = cidfile {
        file.keep();
    }
    if args.detach {
        output::print(&format!("{id}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let ended = match attached {
        Some(attached) => Box::pin(attached.stay(args.detach_keys, Proxy::Container)).await,
        None => attend(&mut daemon, &id, interrupts).await,
    };
    if args.rm && lives(&mut daemon, &id).await {
        // It was left by the detach keys, so that it goes on.
        return ended;
    }
    if args.rm {
        made.undo().await;
    }
    ended
}

/// The container of `davit run` with this name.
pub(crate) async fn named(
    daemon: &mut Daemon,
    name: &str,
) -> Result<Option<cri::Container>, ClientError> {
    let label_selector = [(request::NAME_LABEL.to_owned(), name.to_owned())].into();
    let filter = cri::ContainerFilter { label_selector, ..cri::ContainerFilter::default() };
    Ok(find::list_containers(daemon, filter).await?.pop())
}

pub(super) async fn refuse_taken(daemon: &mut Daemon, name: &str) -> Result<(), ClientError> {
    match named(daemon, name).await? {
        Some(container) => Err(ClientError::NameTaken { name: name.to_owned(), id: container.id }),
        None => Ok(()),
    }
}

/// Whether this terminal is to be the container's; `None` if its output is told from its log.
fn attach_wish(args: &RunArgs) -> Result<Option<Wish>, ClientError> {
    if args.detach || !(args.interactive || args.tty) {
        return Ok(None);
    }
    if args.interactive && args.tty && !std::io::stdin().is_terminal() {
        return Err(ClientError::NoTerminal);
    }
    Ok(Some(if args.interactive { Wish::Write } else { Wish::Watch }))
}

async fn lives(daemon: &mut Daemon, id: &str) -> bool {
    let filter = cri::ContainerFilter { id: id.to_owned(), ..cri::ContainerFilter::default() };
    let found = find::list_containers(daemon, filter).await.unwrap_or_default();
    found.iter().any(|one| one.state() == cri::ContainerState::ContainerRunning)
}

/// Everything up to the container that waits for its start. What was made is noted in `made` before anything else is tried.
async fn make(
    daemon: &mut Daemon,
    request: &Request,
    made: &mut Made,
    interrupts: &Interrupts,
) -> Result<String, ClientError> {
    logs::make(&request.pod.log_directory)?;
    made.logs(&request.uid);
    // A call that makes something is not cut short: its answer is needed to undo it.
    let pod = run_pod(daemon, request).await?;
    made.pod(&pod);
    interrupts.check()?;
    let id = Box::pin(create(daemon, request, &pod, interrupts)).await?;
    made.container(&id);
    interrupts.check()?;
    Ok(id)
}

async fn run_pod(daemon: &mut Daemon, request: &Request) -> Result<String, ClientError> {
    let run = cri::RunPodSandboxRequest {
        config: Some(request.pod.clone()),
        runtime_handler: String::new(),
    };
    let answer = daemon.runtime.run_pod_sandbox(run).await.map_err(doing("run pod"))?;
    Ok(answer.into_inner().pod_sandbox_id)
}

/// The container, its image pulled if it is not here.
async fn create(
    daemon: &mut Daemon,
    request: &Request,
    pod: &str,
    interrupts: &Interrupts,
) -> Result<String, ClientError> {
    let create = cri::CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(request.container.clone()),
        sandbox_config: Some(request.pod.clone()),
    };
    let first = daemon.runtime.create_container(create.clone()).await;
    let answer = match first {
        Err(status) if status.code() == tonic::Code::NotFound => {
            let pulling = pull::pull(daemon.clone(), &request.image);
            tokio::select! {
                pulled = pulling => drop(pulled?),
                () = interrupts.first() => return Err(ClientError::Interrupted),
            }
            daemon.runtime.create_container(create).await
        }
        first => first,
    };
    Ok(answer.map_err(doing("create container"))?.into_inner().container_id)
}

/// Output as it comes, then the exit code.
async fn attend(
    daemon: &mut Daemon,
    id: &str,
    interrupts: Interrupts,
) -> Result<ExitCode, ClientError> {
    let stopper = tokio::spawn(stop_when_asked(daemon.clone(), id.to_owned(), interrupts));
    let ended = output_and_exit(daemon, id).await;
    stopper.abort();
    ended
}

async fn output_and_exit(daemon: &mut Daemon, id: &str) -> Result<ExitCode, ClientError> {
    let request = admin::LogsRequest {
        container_id: id.to_owned(),
        follow: true,
        ..admin::LogsRequest::default()
    };
    let failed = || doing(format!("read the output of container {id}"));
    let mut entries = daemon.davit.logs(request).await.map_err(failed())?.into_inner();
    while let Some(admin::LogEntry { stream, content, time: _ }) =
        entries.message().await.map_err(failed())?
    {
        if stream == 2 {
            output::print_error_bytes(&content)?;
        } else {
            output::print_bytes(&content)?;
        }
    }
    let wait = admin::WaitRequest { container_id: id.to_owned() };
    let answer =
        daemon.davit.wait(wait).await.map_err(doing(format!("wait for container {id}")))?;
    // Exit codes are bytes; one that isn't was made up by nobody that davit knows.
    let code = answer.into_inner().exit_code;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The first signal stops the container with its grace, the second without.
async fn stop_when_asked(daemon: Daemon, id: String, mut interrupts: Interrupts) {
    let mut grace = GRACE;
    loop {
        interrupts.next().await;
        let mut daemon = daemon.clone();
        let request = cri::StopContainerRequest { container_id: id.clone(), timeout: grace };
        tokio::spawn(async move {
            if let Err(status) = daemon.runtime.stop_container(request).await {
                output::complain(&format!("davit: stop container: {}", status.message()));
            }
        });
        grace = 0;
    }
}
