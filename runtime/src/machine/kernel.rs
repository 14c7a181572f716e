//! What of the kernel davit is built on, tried rather than read off its version: distributions carry features back.

use super::{Finding, text};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

/// The oldest that has all that is needed: `openat2` and `pidfd` came with it.
const OLDEST: &str = "5.6";

pub(super) fn findings() -> Vec<Finding> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let missing: Vec<&str> =
        needed().into_iter().filter(|(_, there)| !there).map(|(name, _)| name).collect();
    let kernel = if missing.is_empty() {
        Finding::ok("kernel", format!("Linux {release}"))
    } else {
        let text =
            format!("Linux {release} lacks {}: no container can be made", missing.join(", "));
        Finding::problem("kernel", text, format!("run Linux {OLDEST} or newer, with overlay"))
    };
    vec![kernel, user_namespaces()]
}

/// Tried without leaving anything: what fails otherwise than by being unknown is there.
fn needed() -> [(&'static str, bool); 4] {
    let known = |result: Result<(), Errno>| result != Err(Errno::NOSYS);
    let beneath =
        openat2(CWD, "/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty());
    // A module is loaded by the question for it. The kernel says which kinds there are, and a kernel older than the call lists those it has.
    let overlay = match fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => true,
        Err(Errno::NODEV) => false,
        Err(_) => text("/proc/filesystems").lines().any(|line| line.ends_with("\toverlay")),
    };
    [
        ("pidfd_open", known(pidfd_open(getpid(), PidfdFlags::empty()).map(drop))),
        ("openat2", known(beneath.map(drop))),
        ("network namespaces", std::path::Path::new("/proc/self/ns/net").exists()),
        ("overlay", overlay),
    ]
}

fn user_namespaces() -> Finding {
    let subject = "user namespaces";
    let limit = text("/proc/sys/user/max_user_namespaces");
    match limit.trim().parse::<u64>() {
        Ok(0) => Finding::warning(
            subject,
            "pods with hostUsers: false are refused: user.max_user_namespaces is 0",
            "sysctl -w user.max_user_namespaces=65536",
        ),
        Ok(most) => Finding::ok(subject, format!("at most {most}")),
        Err(_) => Finding::warning(
            subject,
            "pods with hostUsers: false are refused: the kernel has no user namespaces",
            "run a kernel with CONFIG_USER_NS",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_has_what_the_other_tests_need() {
        for (name, there) in needed() {
            assert!(there, "{name}");
        }
        assert!(findings()[0].text.starts_with("Linux "));
    }
}
