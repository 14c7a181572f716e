//! The runtime's streams: whom they may reach, and the way to the pod's shim.

use super::Runtime;
use crate::container::{ContainerState, ContainerView, ExecError};
use crate::exec::ExecTarget;
use crate::id::{ContainerId, SandboxId};
use crate::oci::{ExecAs, Terminal};
use crate::sandbox::handle::{Command, Gone, Reply};
use crate::sandbox::{SandboxState, SandboxView, unknown};
use crate::stream::{
    self, Attachable, ForwardError, OpenFailure, Opening, PodNetwork, Session, Wanted,
};
use std::sync::Arc;

impl Runtime {
    /// Whether a command can be run in a container, as it is now; answers with its whole id.
    ///
    /// # Errors
    /// [`ExecError`]: there is no such container, or it does not run.
    pub fn may_exec(&self, id: &str) -> Result<ContainerId, ExecError> {
        Ok(self.running(id)?.id.clone())
    }

    /// Whether a client can be attached to a container, as it is now, and to what.
    ///
    /// # Errors
    /// The same.
    pub fn may_attach(&self, id: &str) -> Result<Attachable, ExecError> {
        Ok(attachable(&*self.running(id)?))
    }

    /// The same for a client that wants to miss nothing, so comes before the container is started.
    ///
    /// # Errors
    /// The same.
    pub fn may_attach_early(&self, id: &str) -> Result<Attachable, ExecError> {
        let (_, container) = self.container(id)?;
        match &container.state {
            ContainerState::Created { .. } => Ok(attachable(&container)),
            ContainerState::Creating
            | ContainerState::Running { .. }
            | ContainerState::Exited(_) => self.may_attach(id),
        }
    }

    /// Whether connections can be made into a pod, as it is now; answers with its whole id.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub fn may_forward(&self, pod: &str) -> Result<SandboxId, ForwardError> {
        Ok(self.ready(pod)?.id.clone())
    }

    /// Runs a command in a container, with streams. Dropping the session ends the command.
    ///
    /// # Errors
    /// [`ExecError`]; nothing is left of it then.
    pub async fn exec(
        &self,
        id: &str,
        command: &[String],
        wanted: Wanted,
        whom: &ExecAs,
    ) -> Result<Session, Arc<ExecError>> {
        let target = self.target(id, |id, reply| Command::Exec { id, reply }).await?;
        let terminal = if wanted.terminal { Terminal::Yes } else { Terminal::No };
        let process = target.process(command, terminal, whom)?;
        let exec_id = ContainerId::random().map_err(ExecError::Id)?.to_string();
        let id = target.id;
        let opening = Opening::Exec { id: id.to_string(), exec_id, process };
        let drain = self.shared.config.deadlines.drain;
        stream::open(&target.client, opening, wanted, drain).await.map_err(|failure| {
            Arc::new(match failure {
                OpenFailure::Pipes(source) => ExecError::Pipes { id, source },
                OpenFailure::Shim(source) => ExecError::Shim { id, source },
            })
        })
    }

    /// Attaches to a container: its output from now on, and its input. Dropping the session leaves the container as it is. One on a terminal has no errors of
    /// their own, whether they are wanted or not.
    ///
    /// # Errors
    /// [`ExecError`].
    pub async fn attach(&self, id: &str, wanted: Wanted) -> Result<Session, Arc<ExecError>> {
        let target = self.target(id, |id, reply| Command::Attach { id, reply }).await?;
        let id = target.id;
        let (_, container) =
            self.container(id.as_str()).map_err(|error| Arc::new(ExecError::from(error)))?;
        let wanted = Wanted { stderr: wanted.stderr && !container.spec.tty, ..wanted };
        let opening = Opening::Attach { id: id.to_string() };
        let drain = self.shared.config.deadlines.drain;
        stream::open(&target.client, opening, wanted, drain).await.map_err(|failure| {
            Arc::new(match failure {
                OpenFailure::Pipes(source) => ExecError::Pipes { id, source },
                OpenFailure::Shim(source) => ExecError::Attach { id, source },
            })
        })
    }

    /// A pod's network, to connect to its ports.
    ///
    /// # Errors
    /// [`ForwardError`].
    #[expect(clippy::unused_async, reason = "so that a look at the pod's task can come to it")]
    pub async fn port_forward(&self, pod: &str) -> Result<PodNetwork, ForwardError> {
        Ok(PodNetwork::new(self.ready(pod)?.netns.clone()))
    }

    fn running(&self, id: &str) -> Result<Arc<ContainerView>, ExecError> {
        let (_, container) = self.container(id)?;
        match &container.state {
            ContainerState::Running { paused_at: None, .. } => Ok(container),
            // What is begun in one that is paused would hang until it goes on.
            state @ (ContainerState::Creating
            | ContainerState::Created { .. }
            | ContainerState::Running { paused_at: Some(_), .. }
            | ContainerState::Exited(_)) => {
                Err(ExecError::NotRunning { id: container.id.clone(), state: state.name() })
            }
        }
    }

    fn ready(&self, pod: &str) -> Result<Arc<SandboxView>, ForwardError> {
        let sandbox = self.sandbox(pod)?;
        match sandbox.state {
            SandboxState::Ready => Ok(sandbox),
            SandboxState::NotReady => Err(ForwardError::NotReady { id: sandbox.id.clone() }),
        }
    }

    async fn target(
        &self,
        id: &str,
        command: impl FnOnce(ContainerId, Reply<ExecTarget, ExecError>) -> Command,
    ) -> Result<ExecTarget, Arc<ExecError>> {
        let (id, handle) =
            self.shared.index.container(id).map_err(|error| Arc::new(error.into()))?;
        let target = handle.call(|reply| command(id.clone(), reply)).await;
        let target = target
            .unwrap_or_else(|Gone| Err(Arc::new(unknown("container", id.as_str()).into())))?;
        if target.protocol < stream::SINCE {
            return Err(Arc::new(ExecError::OldShim { id }));
        }
        Ok(target)
    }
}

fn attachable(container: &ContainerView) -> Attachable {
    let spec = &container.spec;
    let (terminal, stdin, stdin_once) = (spec.tty, spec.stdin, spec.stdin_once);
    Attachable { id: container.id.clone(), terminal, stdin, stdin_once }
}
