//! Signal: to a container's init, through the descriptor that holds it, or to everybody in its cgroup.

use crate::error::{Invalid, Refusal};
use crate::pod::Pod;
use davit_proto::shim::SignalRequest;
use davit_sys::signal;
use rustix::io::Errno;
use std::os::fd::AsFd;

const KILL: i32 = 9;

/// Why a signal was not sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SignalError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("send signal {signal} to container {id}")]
    Send { id: String, signal: i32, source: std::io::Error },
}

/// Sends a signal. A container that has exited is refused, whatever the signal.
pub(crate) fn send(pod: &Pod, request: SignalRequest) -> Result<(), SignalError> {
    let SignalRequest { id, signal, all } = request;
    let number = i32::try_from(signal).ok().filter(|n| (1..=64).contains(n));
    let number =
        number.ok_or_else(|| Invalid::new("signal", signal.to_string(), "not between 1 and 64"))?;
    let init = pod.container(&id)?.living()?;
    if let (true, Some(cgroup)) = (all, &init.cgroup) {
        let failed = |source| SignalError::Send { id: id.clone(), signal: number, source };
        cgroup.signal(number).map_err(failed)?;
    }
    let sent = signal::send(init.pidfd.as_fd(), number);
    if let (KILL, Some(cgroup)) = (number, &init.cgroup) {
        cgroup.thaw();
    }
    match sent {
        Ok(()) => Ok(()),
        Err(Errno::SRCH) => Err(Refusal::Exited(id).into()),
        Err(e) => Err(SignalError::Send { id, signal: number, source: e.into() }),
    }
}
