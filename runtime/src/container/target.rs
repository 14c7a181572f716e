//! The PID namespace of another container, for one that is to see its processes.
//!
//! Owns the certainty whose it is: a pid may be somebody else's by the time that an OCI runtime goes by it.

use super::CreateContainerError;
use crate::id::ContainerId;
use crate::shim::ShimClient;
use davit_proto::shim::ContainerState;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;

/// A container that runs, as far as its pod knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) id: ContainerId,
    pub(crate) pid: u32,
}

/// A PID namespace that nothing else can take the place of.
#[derive(Debug)]
pub(super) struct HeldNamespace(OwnedFd);

impl HeldNamespace {
    /// As an OCI runtime can join it for as long as this is held.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()))
    }
}

impl Target {
    /// Holds its PID namespace, if it still runs.
    pub(super) async fn hold(
        &self,
        shim: &ShimClient,
    ) -> Result<HeldNamespace, CreateContainerError> {
        let target = || self.id.to_string();
        let ended = || CreateContainerError::Target { target: target(), problem: "is not running" };
        let path = format!("/proc/{}/ns/pid", self.pid);
        let held = match open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(held) => held,
            Err(Errno::NOENT | Errno::SRCH) => return Err(ended()),
            Err(error) => {
                let (target, source) = (target(), error.into());
                return Err(CreateContainerError::TargetNamespace { target, source });
            }
        };
        // The shim is who would reap it: if it lives now, it was its pid a moment ago.
        let state = shim.state().await.map_err(CreateContainerError::Shim)?;
        let runs = state.containers.iter().any(|told| self.runs(told));
        runs.then_some(HeldNamespace(held)).ok_or_else(ended)
    }

    fn runs(&self, told: &ContainerState) -> bool {
        told.id == self.id.as_str() && told.pid == self.pid && told.started && !told.ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_runs_if_its_shim_says_so_of_that_very_process() {
        let id = ContainerId::try_from("c".repeat(64)).unwrap();
        let target = Target { id: id.clone(), pid: 7 };
        let told =
            ContainerState { id: id.to_string(), pid: 7, started: true, ..Default::default() };
        assert!(target.runs(&told));
        let others = [
            ContainerState { id: "d".repeat(64), ..told.clone() },
            ContainerState { pid: 8, ..told.clone() },
            ContainerState { started: false, ..told.clone() },
            ContainerState { ended: true, ..told },
        ];
        assert!(!others.iter().any(|told| target.runs(told)));
    }
}
