//! `davit checkpoint restore`: a container from an archive, in a new pod or in one that is there.
//!
//! Owns the walk and its undo. The daemon is asked first what the archive holds and whether it can be restored at all, so that a new pod is made only for one
//! that can; whatever fails after that, nothing of it stays.
//!
//! ```text
//! InspectCheckpoint ─► (no --pod: logs made ─► RunPodSandbox) ─► RestoreCheckpoint ─► id
//! ```

use super::connect::Daemon;
use super::error::{ClientError, doing};
use super::run::interrupt::Interrupts;
use super::run::made::Made;
use super::run::request::{NAME_LABEL, draw_uid};
use super::run::{logs, refuse_taken};
use super::{find, info};
use crate::output;
use davit_proto::{admin, cri};
use std::path::Path;
use std::process::ExitCode;

/// What is asked for.
#[derive(Debug)]
pub(super) struct Wish {
    pub(super) archive: String,
    pub(super) name: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) timeout: u32,
}

/// Restores it and prints its id.
///
/// # Errors
/// [`ClientError`], after everything was undone.
pub(super) async fn restore(mut daemon: Daemon, wish: Wish) -> Result<ExitCode, ClientError> {
    let Wish { archive, name, pod, timeout } = wish;
    let interrupts = Interrupts::new()?;
    let failed = || doing(format!("restore {archive}"));
    let archive = wire(&archive)?;
    let inspect = admin::InspectCheckpointRequest { archive: Some(archive.clone()) };
    let held = daemon.davit.inspect_checkpoint(inspect).await.map_err(failed())?.into_inner();
    let name = name.unwrap_or_else(|| held.container_name.clone());
    // In a pod that is there it is known by its name among the others, as all of that pod's are, and by no name of davit's, which is one pod's.
    let labels = pod.is_none().then(|| (NAME_LABEL.to_owned(), name.clone()));
    let root = info::ask_info(&mut daemon).await?.root;
    let mut made = Made::new(daemon.clone(), root.clone());
    let restored = async {
        let pod = match pod {
            Some(pod) => find::pod(&mut daemon, &pod).await?.id,
            None => Box::pin(new_pod(&mut daemon, &held, &name, &root, &mut made)).await?,
        };
        interrupts.check()?;
        let request = admin::RestoreCheckpointRequest {
            archive: Some(archive),
            pod_sandbox_id: pod,
            container_name: if name == held.container_name { String::new() } else { name.clone() },
            timeout_s: timeout,
            labels: labels.into_iter().collect(),
        };
        let answer = daemon.davit.restore_checkpoint(request).await.map_err(failed())?;
        Ok(answer.into_inner().container_id)
    };
    match Box::pin(restored).await {
        Ok(id) => {
            output::print(&format!("{id}\n"))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            made.undo().await;
            Err(error)
        }
    }
}

/// A word with a `/` is a path; the daemon knows no directory of ours.
fn wire(archive: &str) -> Result<admin::Archive, ClientError> {
    if !archive.contains('/') {
        return Ok(admin::Archive { name: archive.to_owned(), path: String::new() });
    }
    let path = Path::new(archive);
    // What is there is named without `..` and links, which the daemon does not take.
    let whole = std::fs::canonicalize(path)
        .map_err(|source| ClientError::Archive { path: path.to_owned(), source })?;
    let text = whole.to_str().ok_or_else(|| ClientError::Archive {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "its path is no UTF-8"),
    })?;
    Ok(admin::Archive { name: String::new(), path: text.to_owned() })
}

/// A pod for this container alone, as `davit run` makes one. What was made is noted before anything else is tried.
async fn new_pod(
    daemon: &mut Daemon,
    held: &admin::InspectCheckpointResponse,
    name: &str,
    root: &str,
    made: &mut Made,
) -> Result<String, ClientError> {
    refuse_taken(daemon, name).await?;
    let uid = draw_uid()?;
    let config = pod(held, name, root, &uid);
    logs::make(&config.log_directory)?;
    made.logs(&uid);
    let run =
        cri::RunPodSandboxRequest { config: Some(config), runtime_handler: held.handler.clone() };
    let answer = daemon.runtime.run_pod_sandbox(run).await.map_err(doing("run pod"))?;
    let id = answer.into_inner().pod_sandbox_id;
    made.pod(&id);
    Ok(id)
}

fn pod(
    held: &admin::InspectCheckpointResponse,
    name: &str,
    root: &str,
    uid: &str,
) -> cri::PodSandboxConfig {
    let network =
        if held.host_network { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
    let namespaces = cri::NamespaceOption {
        network: network.into(),
        pid: cri::NamespaceMode::Container.into(),
        ..cri::NamespaceOption::default()
    };
    let security = cri::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces),
        privileged: held.privileged,
        ..cri::LinuxSandboxSecurityContext::default()
    };
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: logs::NAMESPACE.to_owned(),
            attempt: 0,
        }),
        log_directory: format!("{root}/logs/{uid}"),
        labels: [(NAME_LABEL.to_owned(), name.to_owned())].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(security),
            ..cri::LinuxPodSandboxConfig::default()
        }),
        ..cri::PodSandboxConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_and_a_path_is_made_whole() {
        assert_eq!(wire("web").unwrap().name, "web");
        let error = wire("./davit-none.tar").unwrap_err();
        assert!(error.to_string().contains("davit-none.tar"), "{error}");
        assert_eq!(wire("/etc/../etc/passwd").unwrap().path, "/etc/passwd");
    }

    #[test]
    fn what_is_asked_for_is_a_pod_that_davit_takes() {
        let held = admin::InspectCheckpointResponse {
            host_network: true,
            privileged: true,
            ..admin::InspectCheckpointResponse::default()
        };
        let spec =
            crate::convert::sandbox_spec(pod(&held, "n", "/r", "0123"), String::new()).unwrap();
        assert!(spec.security.privileged);
        assert_eq!(spec.key.name, "n");
    }
}
