//! Which session a process is of, without a descriptor: where there are none it is needed most.

use nix::unistd::{Pid, getsid};

/// The number of a process's session in this process's PID namespace: getsid(2). `None` if the process is gone, or its session has no number here.
#[must_use]
pub fn session(pid: i32) -> Option<i32> {
    // 0 would be the caller.
    let pid = Some(Pid::from_raw(pid)).filter(|pid| pid.as_raw() > 0)?;
    getsid(Some(pid)).ok().map(Pid::as_raw).filter(|session| *session > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_processs_session_is_its_own_or_its_parents() {
        // None where this process's was begun outside of its PID namespace, as by `docker exec`.
        let own = session(std::process::id().cast_signed());
        let mut inside = Command::new("sleep").arg("60").spawn().unwrap();
        let mut outside = Command::new("setsid").args(["-w", "sleep", "60"]).spawn().unwrap();
        let (first, second) = (inside.id().cast_signed(), outside.id().cast_signed());
        assert_eq!(session(first), own);
        // Begun by setsid, which may take a moment.
        while session(second) == own {
            std::thread::yield_now();
        }
        assert_eq!(session(second), Some(second));
        for child in [&mut inside, &mut outside] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!((session(first), session(0), session(-1)), (None, None, None));
    }
}
