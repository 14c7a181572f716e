//! Plugins that an earlier daemon has begun, and that its end has left running.
//!
//! Owns finding them, by what each has in its environment, and ending them: one that comes to its end after DEL leaves what nobody knows of.

use crate::id::SandboxId;
use crate::proc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;

/// How long one that was killed may take to go.
const BURIAL: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };
/// New ones may have been begun by those that were killed; a few looks find all.
const LOOKS: usize = 8;

/// Kills whoever works on this pod for it, and waits for the end. Only where no plugin of this daemon's does: it would be taken for one. How many there
/// were. Blocks.
pub(in crate::network) fn end(id: &SandboxId) -> usize {
    let mut ended = 0;
    for _ in 0..LOOKS {
        let found = find(id);
        if found.is_empty() {
            break;
        }
        for plugin in &found {
            // ESRCH: it has just ended.
            let _ = pidfd_send_signal(plugin, Signal::KILL);
            let _ = poll(&mut [PollFd::new(plugin, PollFlags::IN)], Some(&BURIAL));
        }
        ended += found.len();
    }
    ended
}

fn find(id: &SandboxId) -> Vec<OwnedFd> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter_map(|pid| hold(pid, id)).collect()
}

/// Held before it is looked at: what is found out is of whom is held.
fn hold(pid: Pid, id: &SandboxId) -> Option<OwnedFd> {
    let is_plugin = || {
        let environment = proc::read(pid, "environ").ok().flatten()?;
        let wanted = format!("CNI_CONTAINERID={id}");
        environment.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()).then_some(())
    };
    is_plugin()?;
    let held = proc::hold(pid).ok().flatten()?;
    is_plugin()?;
    Some(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_plugin_and_what_it_has_begun_are_ended_and_nobody_else() {
        let (id, other) = (SandboxId::random().unwrap(), SandboxId::random().unwrap());
        let begin = |id: &SandboxId, script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("CNI_CONTAINERID", id.as_str()).spawn().unwrap()
        };
        let mut plugin = begin(&id, "setsid sleep 60 & wait");
        let mut stranger = begin(&other, "exec sleep 60");
        while find(&id).len() < 2 {
            std::thread::yield_now();
        }
        assert!(end(&id) >= 2);
        assert_eq!((find(&id).len(), end(&id)), (0, 0));
        assert!(!plugin.wait().unwrap().success());
        assert!(stranger.try_wait().unwrap().is_none());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}
