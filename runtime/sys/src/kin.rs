//! Ends a program that hangs, with all that it has started.
//!
//! Its process group is not enough: an OCI runtime's children begin sessions of their own, and so may what a plugin or a hook starts. So the tree below it is looked up while
//! its root still holds it together, each process stopped before its children are looked for: nobody forks unseen.

use rustix::process::{
    Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open, pidfd_send_signal,
};
use std::os::fd::OwnedFd;

/// More than any runtime starts: a hook that forks without end is stopped at least so far.
const MAX: usize = 4096;

/// Kills a child of this process that was not reaped yet, its process group, and its descendants.
pub fn kill(root: Pid) {
    match pidfd_open(root, PidfdFlags::empty()) {
        Ok(pidfd) => kill_held(pidfd, root),
        // Without a descriptor nobody but these can be found. The pid is its own, as it was not reaped.
        Err(_) => {
            let _ = kill_process_group(root, Signal::KILL);
            let _ = kill_process(root, Signal::KILL);
        }
    }
}

/// The same for any process, held since its number was known to be its own: nothing happens if it has been reaped.
pub fn kill_held(pidfd: OwnedFd, root: Pid) {
    let held = stop_tree(pidfd, root);
    if !held.is_empty() {
        let _ = kill_process_group(root, Signal::KILL);
    }
    for pidfd in held {
        // ESRCH: it has ended.
        let _ = pidfd_send_signal(&pidfd, Signal::KILL);
    }
}

/// Those that were there to be stopped.
fn stop_tree(pidfd: OwnedFd, root: Pid) -> Vec<OwnedFd> {
    let mut held = Vec::new();
    let mut found = vec![(pidfd, root)];
    while let Some((pidfd, pid)) = found.pop() {
        if held.len() >= MAX || pidfd_send_signal(&pidfd, Signal::STOP).is_err() {
            continue;
        }
        let children = children(pid);
        // Reaped meanwhile, it may have given its number to another, whose children these are then.
        if pidfd_send_signal(&pidfd, Signal::STOP).is_ok() {
            let open = |pid| Some((pidfd_open(pid, PidfdFlags::empty()).ok()?, pid));
            found.extend(children.into_iter().filter_map(open));
        }
        held.push(pidfd);
    }
    held
}

/// Of all its threads. None where the kernel does not tell, or the process is gone.
fn children(pid: Pid) -> Vec<Pid> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_pid()));
    let files =
        threads.into_iter().flatten().flatten().map(|thread| thread.path().join("children"));
    let texts = files.filter_map(|file| std::fs::read_to_string(file).ok());
    let pids = |text: String| -> Vec<Pid> {
        let numbers = text.split_ascii_whitespace().filter_map(|word| word.parse().ok());
        numbers.filter_map(Pid::from_raw).collect()
    };
    texts.flat_map(pids).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;
    use std::time::Duration;

    fn lives(pid: i32) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    }

    #[test]
    fn who_has_begun_a_session_of_his_own_ends_too() {
        let script = "setsid sh -c 'echo $$; sleep 4327 & echo $!; wait' & wait";
        let mut command = std::process::Command::new("sh");
        command.arg("-c").arg(script).process_group(0).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let told = BufReader::new(child.stdout.take().unwrap());
        let pids: Vec<i32> =
            told.lines().take(2).map(|line| line.unwrap().parse().unwrap()).collect();
        assert!(pids.len() == 2 && pids.iter().all(|pid| lives(*pid)), "{pids:?}");
        kill(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap());
        child.wait().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while pids.iter().any(|pid| lives(*pid)) {
            assert!(std::time::Instant::now() < deadline, "{pids:?} live on");
            std::thread::yield_now();
        }
    }
}
