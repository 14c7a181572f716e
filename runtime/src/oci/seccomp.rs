//! Seccomp: which system calls a container may make.
//!
//! Owns the choice and the reading of a node's own profiles; the list of the default one is [`super::syscalls`].

use super::syscalls;
use crate::container::Seccomp;
use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall,
};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// How large a profile may be. The largest known are some 100 KiB.
const PROFILE_LIMIT: u64 = 4 << 20;
/// What clone(2) is told to make a namespace: all `CLONE_NEW…` flags but NEWTIME, which it does not take.
const CLONE_NEW: u64 = 0x7e02_0000;
/// `AF_VSOCK`: reaches the hypervisor past every network namespace.
const AF_VSOCK: u64 = 40;
/// What personality(2) may be: plain, 32 bit, each with and without fixed addresses kept random, and the query.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
const ENOSYS: u32 = 38;

/// Why a container can't have the filter it asks for.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The host or the OCI runtime has no seccomp.
    #[error("seccomp profile {profile:?} can't be applied: {who} has no seccomp")]
    Unsupported {
        /// Which profile.
        profile: String,
        /// Who lacks it.
        who: String,
    },
    /// The node has no such profile.
    #[error("read seccomp profile {}", path.display())]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// It isn't one.
    #[error("seccomp profile {} is not one: {problem}", path.display())]
    Invalid {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The filter for a container with these capabilities.
pub(super) fn build(
    asked: &Seccomp,
    capabilities: &Capabilities,
) -> Result<Option<LinuxSeccomp>, SeccompError> {
    match asked {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => Ok(Some(default_profile(capabilities))),
        Seccomp::Localhost(path) => read(path).map(Some),
    }
}

/// For messages.
pub(super) fn name(asked: &Seccomp) -> String {
    match asked {
        Seccomp::Unconfined => "unconfined".to_owned(),
        Seccomp::RuntimeDefault => "runtime default".to_owned(),
        Seccomp::Localhost(path) => path.display().to_string(),
    }
}

fn read(path: &Path) -> Result<LinuxSeccomp, SeccompError> {
    let refused = |source| SeccompError::Read { path: path.to_owned(), source };
    let invalid = |problem: String| SeccompError::Invalid { path: path.to_owned(), problem };
    // A FIFO would make the open wait, and a device the read.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(
        rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refused(errno.into()))?,
    );
    if !file.metadata().map_err(refused)?.is_file() {
        return Err(invalid("it is no regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(PROFILE_LIMIT + 1).read_to_end(&mut bytes).map_err(refused)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > PROFILE_LIMIT) {
        return Err(invalid("it is larger than 4 MiB".to_owned()));
    }
    let profile: LinuxSeccomp =
        serde_json::from_slice(&bytes).map_err(|error| invalid(error.to_string()))?;
    check(&profile).map_err(invalid)?;
    Ok(profile)
}

/// What every OCI runtime would refuse, found before a container is made.
fn check(profile: &LinuxSeccomp) -> Result<(), String> {
    for (index, rule) in profile.syscalls().iter().flatten().enumerate() {
        if rule.names().is_empty() || rule.names().iter().any(String::is_empty) {
            return Err(format!("syscalls[{index}] names no system call"));
        }
        if rule.args().iter().flatten().any(|argument| argument.index() > 5) {
            return Err(format!("syscalls[{index}] has an argument above the sixth"));
        }
    }
    Ok(())
}

fn default_profile(capabilities: &Capabilities) -> LinuxSeccomp {
    let mut rules = vec![allow(syscalls::ALWAYS), allow(syscalls::OF_THIS_MACHINE)];
    for (capability, names) in syscalls::WITH_CAPABILITY {
        if capabilities.contains(&capability) {
            rules.push(allow(names));
        }
    }
    rules.push(allow_if("socket", condition(LinuxSeccompOperator::ScmpCmpNe, AF_VSOCK)));
    rules.extend(
        PERSONALITIES.map(|value| {
            allow_if("personality", condition(LinuxSeccompOperator::ScmpCmpEq, value))
        }),
    );
    if !capabilities.contains(&Capability::SysAdmin) {
        // The flags, masked, are to be none.
        let without_namespaces =
            condition(LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NEW).value_two(0_u64);
        rules.push(allow_if("clone", without_namespaces));
        // Its flags are behind a pointer, where no filter can look. ENOSYS makes the C library fall back to clone(2).
        let mut absent = rule(&["clone3"], LinuxSeccompAction::ScmpActErrno);
        absent.set_errno_ret(Some(ENOSYS));
        rules.push(absent);
    }
    let mut profile = LinuxSeccomp::default();
    profile.set_default_action(LinuxSeccompAction::ScmpActErrno);
    profile.set_architectures(Some(architectures())).set_syscalls(Some(rules));
    profile
}

/// This machine's, and those whose programs it runs too.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        vec![Arch::ScmpArchNative]
    }
}

fn rule(names: &[&str], action: LinuxSeccompAction) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect()).set_action(action);
    rule
}

fn allow(names: &[&str]) -> LinuxSyscall {
    rule(names, LinuxSeccompAction::ScmpActAllow)
}

#[expect(clippy::expect_used, reason = "the builder has a default for every field")]
fn allow_if(name: &str, condition: LinuxSeccompArgBuilder) -> LinuxSyscall {
    let mut rule = allow(&[name]);
    rule.set_args(Some(vec![condition.build().expect("no field of a condition is required")]));
    rule
}

/// On the first argument.
fn condition(operator: LinuxSeccompOperator, value: u64) -> LinuxSeccompArgBuilder {
    LinuxSeccompArgBuilder::default().index(0_usize).value(value).op(operator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(capabilities: &[Capability]) -> LinuxSeccomp {
        let capabilities = capabilities.iter().copied().collect();
        build(&Seccomp::RuntimeDefault, &capabilities).unwrap().unwrap()
    }

    fn allowed(profile: &LinuxSeccomp, name: &str) -> bool {
        profile.syscalls().iter().flatten().any(|rule| {
            rule.action() == LinuxSeccompAction::ScmpActAllow
                && rule.args().is_none()
                && rule.names().iter().any(|known| known == name)
        })
    }

    #[test]
    fn the_default_denies_what_reaches_the_host_and_allows_it_with_the_capability() {
        let plain = profile(&[]);
        for name in ["read", "openat2", "execve", "futex_waitv", "clone", "ptrace"] {
            assert!(allowed(&plain, name) || name == "clone", "{name}");
        }
        for (capability, name) in [
            (Capability::SysAdmin, "mount"),
            (Capability::SysAdmin, "setns"),
            (Capability::SysAdmin, "clone3"),
            (Capability::SysModule, "init_module"),
            (Capability::SysBoot, "reboot"),
            (Capability::SysTime, "clock_settime"),
            (Capability::Bpf, "bpf"),
            (Capability::SysChroot, "chroot"),
            (Capability::DacReadSearch, "open_by_handle_at"),
            (Capability::Perfmon, "perf_event_open"),
        ] {
            assert!(!allowed(&plain, name), "{name}");
            assert!(allowed(&profile(&[capability]), name), "{name}");
        }
        for never in [
            "io_uring_setup",
            "kexec_load",
            "keyctl",
            "add_key",
            "userfaultfd",
            "swapon",
            "socket",
            "personality",
        ] {
            assert!(!allowed(&profile(&[Capability::SysAdmin]), never), "{never}");
        }
    }

    #[test]
    fn without_sys_admin_no_namespace_can_be_made() {
        let plain = profile(&[]);
        let rules = plain.syscalls().as_ref().unwrap();
        let of = |name: &str| {
            rules.iter().find(|rule| rule.names().iter().any(|known| known == name)).unwrap()
        };
        let clone = of("clone").args().as_ref().unwrap()[0];
        assert_eq!(
            (clone.value(), clone.value_two(), clone.op()),
            (CLONE_NEW, Some(0), LinuxSeccompOperator::ScmpCmpMaskedEq)
        );
        assert_eq!(
            (of("clone3").action(), of("clone3").errno_ret()),
            (LinuxSeccompAction::ScmpActErrno, Some(ENOSYS))
        );
        let admin = profile(&[Capability::SysAdmin]);
        assert!(!admin.syscalls().iter().flatten().any(|rule| rule.errno_ret().is_some()));
    }

    #[test]
    fn no_system_call_is_listed_twice() {
        let mut names: Vec<&str> =
            syscalls::ALWAYS.iter().chain(syscalls::OF_THIS_MACHINE).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for (_, with) in syscalls::WITH_CAPABILITY {
            assert!(with.iter().all(|name| !names.contains(name)), "{with:?}");
        }
    }

    #[test]
    fn a_nodes_own_profile_is_read_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("profile.json");
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64"],
            "syscalls":[{"names":["sethostname"],"action":"SCMP_ACT_ERRNO","errnoRet":13}]}"#;
        std::io::Write::write_all(&mut File::create(&path).unwrap(), text.as_bytes()).unwrap();
        let profile = build(&Seccomp::Localhost(path), &Capabilities::new()).unwrap().unwrap();
        assert_eq!(profile.default_action(), LinuxSeccompAction::ScmpActAllow);
        assert_eq!(profile.syscalls().as_ref().unwrap()[0].errno_ret(), Some(13));
    }

    #[test]
    fn a_file_that_is_no_profile_is_refused_by_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            std::io::Write::write_all(&mut File::create(&path).unwrap(), bytes).unwrap();
            path
        };
        let large = at("large", b"{}");
        File::options().write(true).open(&large).unwrap().set_len(PROFILE_LIMIT + 1).unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        for path in [
            directory.path().join("absent"),
            directory.path().to_owned(),
            "/dev/zero".into(),
            fifo,
            large,
            at("empty", b""),
            at("not-json", b"hello"),
            at("no-default", br#"{"syscalls":[]}"#),
            at("bad-action", br#"{"defaultAction":"ALLOW"}"#),
            at("no-names", br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":[],"action":"SCMP_ACT_LOG"}]}"#),
            at("seventh", br#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_LOG","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#),
        ] {
            let error = build(&Seccomp::Localhost(path.clone()), &Capabilities::new()).unwrap_err();
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }
}
