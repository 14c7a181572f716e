//! A process that may not be our child, watched until it ends, and reaped then if it is one.

use crate::proc;
use crate::store::ShimRecord;
use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, pidfd_send_signal, waitid,
};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
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
    /// What keeps it from being looked at, for want of descriptors say: it may well be there.
    pub fn open(record: ShimRecord) -> io::Result<Option<Self>> {
        let Some(pid) = proc::number(record.pid) else { return Ok(None) };
        let Some(fd) = proc::hold(pid)? else { return Ok(None) };
        // Only now that the descriptor pins it can its start time be compared.
        if start_time(record.pid)? != Some(record.start_time) || reap(&fd) {
            return Ok(None);
        }
        let fd = davit_sys::readiness::readable(fd)?;
        Ok(Some(Self { fd: Arc::new(fd), pid }))
    }

    /// Answers when the process has ended.
    pub async fn ended(&self) {
        // A pidfd is readable when its process has exited. An error here would be the reactor's own end.
        drop(self.fd.readable().await);
        reap(self.fd.get_ref());
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
            Err(Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Ends a child that nobody watches, and takes note of its end. Blocks until then.
pub(crate) fn end_child(record: ShimRecord) {
    let Some(pid) = proc::number(record.pid) else { return };
    // Its pid is its own for as long as nobody has taken note of its end.
    if waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT,
    )
    .is_ok()
    {
        let _ = kill_process(pid, Signal::KILL);
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED);
    }
}

/// Takes note of a child's end; whether it has ended and was one that nobody had taken note of.
fn reap(pidfd: &OwnedFd) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(Some(_)))
}

/// When a process started, in clock ticks since the boot (field 22 of proc_pid_stat(5)); `None` if it is gone.
///
/// # Errors
/// What keeps it from being looked at.
pub fn start_time(pid: u32) -> io::Result<Option<u64>> {
    let Some(pid) = proc::number(pid) else { return Ok(None) };
    let Some(stat) = proc::stat(pid)? else { return Ok(None) };
    let found = stat.split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
    found.map(Some).ok_or_else(|| io::Error::other("its stat has no start time"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_told_from_another_with_its_pid_and_its_end_is_noticed() {
        let start = || {
            let child = std::process::Command::new("sleep").arg("60").spawn();
            let pid = child.map(|child| child.id()).unwrap();
            ShimRecord { pid, start_time: start_time(pid).unwrap().unwrap() }
        };
        let record = start();
        let other = ShimRecord { start_time: record.start_time + 1, ..record };
        assert!(ProcessHandle::open(other).unwrap().is_none());
        let handle = ProcessHandle::open(record).unwrap().unwrap();
        handle.kill().unwrap();
        handle.ended().await;
        assert_eq!(start_time(record.pid).unwrap(), None, "it was reaped");
        handle.ended().await;
        handle.kill().unwrap();
        assert!(ProcessHandle::open(record).unwrap().is_none());

        // One that ended before anybody looked.
        let record = start();
        let pid = Pid::from_raw(record.pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", record.pid)).unwrap();
        while !stat().contains(") Z ") {
            tokio::task::yield_now().await;
        }
        assert!(ProcessHandle::open(record).unwrap().is_none());
        assert_eq!(start_time(record.pid).unwrap(), None, "it was reaped");

        // One that can't be watched. Nothing is done to who is nobody's child here.
        let record = start();
        end_child(record);
        assert_eq!(start_time(record.pid).unwrap(), None, "it was reaped");
        end_child(record);
    }
}
