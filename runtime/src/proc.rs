//! Looking at a process by its number: who is gone is nobody, and who can't be looked at is an error.
//!
//! Owns which errors mean that a process is gone. That the number has not come to mean another process is for the caller to make sure.

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io;
use std::os::fd::OwnedFd;

/// A descriptor of the process; `None` if it is gone.
///
/// # Errors
/// What keeps it from being opened, for want of descriptors say.
pub(crate) fn hold(pid: Pid) -> io::Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        // The last two: the number is a thread's now, or of one that is being reaped.
        Err(Errno::SRCH | Errno::NOENT | Errno::INVAL) => Ok(None),
        held => Ok(Some(held?)),
    }
}

/// What the file in its directory of proc(5) tells; `None` if it is gone.
///
/// # Errors
/// What keeps it from being read.
pub(crate) fn read(pid: Pid, file: &str) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(format!("/proc/{}/{file}", pid.as_raw_pid())) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::SRCH) => Ok(None),
            _ => Err(error),
        },
    }
}

/// The fields of its `stat` from the third on, which is its state: proc_pid_stat(5). `None` if it is gone.
///
/// # Errors
/// As [`read`].
pub(crate) fn stat(pid: Pid) -> io::Result<Option<String>> {
    let Some(stat) = read(pid, "stat")? else { return Ok(None) };
    // The name, field 2, is in parentheses and may hold anything; what follows the last one is field 3.
    let stat = String::from_utf8_lossy(&stat);
    Ok(stat.rsplit_once(')').map(|(_, fields)| fields.trim_start().to_owned()))
}

/// The number as the kernel takes it; `None` for none that a process can have.
pub(crate) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_there_is_told_from_who_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = number(child.id()).unwrap();
        assert!(hold(pid).unwrap().is_some());
        assert!(stat(pid).unwrap().unwrap().split(' ').count() > 40);
        assert_eq!(read(pid, "comm").unwrap().map(|name| name.len() > 1), Some(true));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(hold(pid).unwrap().is_none());
        assert_eq!((stat(pid).unwrap(), read(pid, "comm").unwrap()), (None, None));
        assert_eq!((number(0), number(u32::MAX)), (None, None));
    }
}
