//! What `davit run` has made so far, and its undo: in reverse, all of it, whatever fails on the way.

use super::logs;
use crate::client::connect::Daemon;
use crate::output;
use davit_proto::cri;

/// What there is to undo.
#[derive(Debug)]
pub(crate) struct Made {
    daemon: Daemon,
    root: String,
    uid: Option<String>,
    pod: Option<String>,
    container: Option<String>,
}

impl Made {
    pub(crate) fn new(daemon: Daemon, root: String) -> Self {
        Self { daemon, root, uid: None, pod: None, container: None }
    }

    /// The log directory of the pod with this uid.
    pub(crate) fn logs(&mut self, uid: &str) {
        self.uid = Some(uid.to_owned());
    }

    /// This pod.
    pub(crate) fn pod(&mut self, id: &str) {
        self.pod = Some(id.to_owned());
    }

    /// This container.
    pub(crate) fn container(&mut self, id: &str) {
        self.container = Some(id.to_owned());
    }

    /// Removes it all. What can't be removed is told, as it is left behind.
    pub(crate) async fn undo(mut self) {
        if let Some(id) = self.container.take() {
            let request = cri::RemoveContainerRequest { container_id: id.clone() };
            let removed = self.daemon.runtime.remove_container(request).await;
            tell(removed, &format!("remove container {id}"));
        }
        if let Some(id) = self.pod.take() {
            let stop = cri::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
            tell(self.daemon.runtime.stop_pod_sandbox(stop).await, &format!("stop pod {id}"));
            let remove = cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
            tell(self.daemon.runtime.remove_pod_sandbox(remove).await, &format!("remove pod {id}"));
        }
        if let Some(uid) = self.uid.take()
            && let Err(error) = logs::remove(&self.root, &uid)
        {
            output::complain(&format!("davit: {}", output::one_line(&anyhow::Error::new(error))));
        }
    }
}

fn tell<T>(answer: Result<T, tonic::Status>, doing: &str) {
    if let Err(status) = answer {
        output::complain(&format!("davit: {doing}: {}", status.message()));
    }
}
