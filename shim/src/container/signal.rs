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
    let others = match (all, &init.cgroup) {
        (true, Some(cgroup)) => cgroup.signal(number),
        _ => Ok(()),
    };
    let sent = signal::send(init.pidfd.as_fd(), number);
    if let (KILL, Some(cgroup)) = (number, &init.cgroup) {
        cgroup.thaw();
    }
    let failed = |source| SignalError::Send { id: id.clone(), signal: number, source };
    match sent {
        // Whoever was not found for want of descriptors ends with the init's PID namespace, or is looked for when the init has ended, and once more when it is deleted.
        Ok(()) if number == KILL => Ok(()),
        Ok(()) => others.map_err(failed),
        Err(Errno::SRCH) => Err(Refusal::Exited(id).into()),
        Err(e) => Err(failed(e.into())),
    }
}
