//! A process that may not be our child, watched until it ends.

use crate::store::ShimRecord;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;

/// A process by a descriptor, so that its pid can't come to mean another one.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    fd: Arc<AsyncFd<OwnedFd>>,
    pid: Pid,
}

impl ProcessHandle {
    /// The process that this record is of; `None` if it has ended.
    ///
    /// # Errors
    /// What pidfd_open(2) says, but for the process being gone.
    pub fn open(record: ShimRecord) -> io::Result<Option<Self>> {
        let Some(pid) = i32::try_from(record.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let fd = match pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            other => other?,
        };
        // Only now that the descriptor pins it can its start time be compared.
        if start_time(record.pid) != Some(record.start_time) {
            return Ok(None);
        }
        let fd = davit_sys::readiness::readable(fd)?;
        Ok(Some(Self { fd: Arc::new(fd), pid }))
    }

    /// Answers when the process has ended.
    pub async fn ended(&self) {
        // A pidfd is readable when its process has exited. An error here would be the reactor's own end.
        drop(self.fd.readable().await);
    }

    /// Ends it now, with all that it has started.
    ///
    /// # Errors
    /// What dup(2) and pidfd_send_signal(2) say, but for the process being gone.
    pub fn kill_with_kin(&self) -> io::Result<()> {
        davit_sys::kin::kill_held(self.fd.get_ref().try_clone()?, self.pid);
        self.kill()
    }

    /// Ends it now.
    ///
    /// # Errors
    /// What pidfd_send_signal(2) says, but for the process being gone.
    pub fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(self.fd.get_ref(), Signal::KILL) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// When a process started, in clock ticks since the boot (field 22 of proc_pid_stat(5)); `None` if it is gone.
#[must_use]
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, field 2, is in parentheses and may hold anything; what follows the last one is field 3.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_told_from_another_with_its_pid_and_its_end_is_noticed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let record = ShimRecord { pid: child.id(), start_time: start_time(child.id()).unwrap() };
        let other = ShimRecord { start_time: record.start_time + 1, ..record };
        assert!(ProcessHandle::open(other).unwrap().is_none());
        let handle = ProcessHandle::open(record).unwrap().unwrap();
        handle.kill().unwrap();
        handle.ended().await;
        child.wait().unwrap();
        handle.kill().unwrap();
        assert!(ProcessHandle::open(record).unwrap().is_none());
    }
}
