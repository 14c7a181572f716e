//! The pod's namespaces and mounts: made, pinned, described, released.
//!
//! The network namespace, where it is not made by the daemon, is pinned by a bind mount of its file, so that plugins and other tools can open
//! it by path; the shim itself goes back to the host's. IPC and UTS the shim stays in: its own `/proc` entries name them. A shared PID
//! namespace is held by its init, a user namespace by a descriptor of the shim's; where there is one, it owns the others. All of it is released in reverse, by [`Pinned::release`], also when making it fails halfway.

use crate::sysctl::{Own, SysctlError, Sysctls};
use crate::userns::{Holder, Userns, UsernsError};
use crate::{files, init, process};
use davit_proto::disk::{IdMappings, ShimConfig};
use davit_sys::namespace::{Namespace, unshare};
use davit_sys::pin::{PinError, pin};
use davit_sys::process::{Command, SpawnError};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why the namespaces could not be made or released.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NamespaceError {
    #[error("{step} {}", path.display())]
    Path { step: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{step}")]
    Step { step: &'static str, source: std::io::Error },
    #[error("set the host name to {name:?}")]
    Hostname { name: String, source: std::io::Error },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Userns(#[from] UsernsError),
    #[error("start the pod's init")]
    Spawn(#[from] SpawnError),
    #[error("start the pod's init: {0}")]
    Init(String),
}

fn at<'a, E: Into<std::io::Error>>(
    step: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> NamespaceError + use<'a, E> {
    move |e| NamespaceError::Path { step, path: path.to_owned(), source: e.into() }
}

fn step<E: Into<std::io::Error>>(step: &'static str) -> impl FnOnce(E) -> NamespaceError {
    move |e| NamespaceError::Step { step, source: e.into() }
}

/// Which namespaces of its own the pod has, but for the PID namespace.
struct Wanted<'a> {
    ipc: bool,
    hostname: Option<&'a str>,
    netns: Option<&'a Path>,
}

impl Wanted<'_> {
    fn kinds(&self) -> impl Iterator<Item = (Namespace, &'static str)> {
        let ipc = self.ipc.then_some((Namespace::Ipc, "make an IPC namespace"));
        let uts = self.hostname.map(|_| (Namespace::Uts, "make a UTS namespace"));
        let net = self.netns.map(|_| (Namespace::Net, "make a network namespace"));
        [ipc, uts, net].into_iter().flatten()
    }

    /// Those whose parameters the pod may set.
    fn own(&self) -> Vec<Own> {
        let net = self.netns.map(|_| Own::Net);
        net.into_iter().chain(self.ipc.then_some(Own::Ipc)).collect()
    }
}

/// What was made, and so what is to be released.
#[derive(Debug, Default)]
pub(crate) struct Pinned {
    userns: Option<Arc<Userns>>,
    netns: Option<PathBuf>,
    ipc: Option<String>,
    uts: Option<String>,
    shm: Option<PathBuf>,
    init: Option<Pid>,
    pidns: Option<OwnedFd>,
}

impl Pinned {
    /// Makes what `config` asks for; what was made is released again if a step fails.
    pub(crate) fn make(config: &ShimConfig) -> Result<Self, NamespaceError> {
        let mut pinned = Self::default();
        match pinned.build(config) {
            Ok(()) => Ok(pinned),
            Err(error) => {
                let init = pinned.init;
                for left in pinned.release() {
                    crate::say(&left);
                }
                // Not reaped before, and this is the end of the process.
                if let Some(init) = init {
                    let _ = rustix::process::waitpid(Some(init), WaitOptions::empty());
                }
                Err(error)
            }
        }
    }

    fn build(&mut self, config: &ShimConfig) -> Result<(), NamespaceError> {
        // Whole, so that a field that is added is not forgotten here. The process's own were heeded before.
        let ShimConfig {
            version: _,
            sandbox: _,
            hostname,
            netns,
            ipc,
            shared_pid,
            shm,
            shm_size,
            sysctls,
            optional_sysctls,
            cgroup_procs: _,
            pod_cgroup_procs,
            oom_score_adj: _,
            userns,
            userns_rootfs,
        } = config;
        let sysctls = &Sysctls { needed: sysctls, optional: optional_sysctls };
        let wanted = Wanted { ipc: *ipc, hostname: hostname.as_deref(), netns: netns.as_deref() };
        match userns {
            None => self.make_in_place(&wanted, sysctls)?,
            Some(mappings) => {
                let namespace = self.make_owned(&wanted, sysctls, mappings)?;
                let userns = Userns::new(namespace, mappings.clone(), userns_rootfs.clone());
                self.userns = Some(Arc::new(userns));
            }
        }
        if let Some(path) = shm {
            let root = userns.as_ref().and_then(IdMappings::host_root).unwrap_or_default();
            mount_shm(path, *shm_size, root)?;
            self.shm = Some(path.clone());
        }
        if *shared_pid {
            self.start_init(pod_cgroup_procs)?;
        }
        Ok(())
    }

    /// Makes the namespaces that the host's user namespace owns.
    fn make_in_place(
        &mut self,
        wanted: &Wanted<'_>,
        sysctls: &Sysctls<'_>,
    ) -> Result<(), NamespaceError> {
        if wanted.ipc {
            unshare(Namespace::Ipc).map_err(step("make an IPC namespace"))?;
            self.ipc = Some(own_namespace("ipc"));
        }
        if let Some(name) = wanted.hostname {
            unshare(Namespace::Uts).map_err(step("make a UTS namespace"))?;
            self.uts = Some(own_namespace("uts"));
            set_hostname(name)?;
        }
        self.make_net(wanted.netns, sysctls)
    }

    /// Makes a user namespace, and the others in it. Parameters are set in there, where a process is root of the IPC namespace's owner: those of IPC
    /// can be written by nobody else.
    fn make_owned(
        &mut self,
        wanted: &Wanted<'_>,
        sysctls: &Sysctls<'_>,
        mappings: &IdMappings,
    ) -> Result<OwnedFd, NamespaceError> {
        let own = wanted.own();
        let holder = Holder::start(mappings, || {
            for (kind, wish) in wanted.kinds() {
                unshare(kind).map_err(step(wish)).map_err(|e| crate::error::chain(&e))?;
            }
            sysctls.set(&own).map_err(|e| crate::error::chain(&e))
        })?;
        if wanted.ipc {
            enter(&holder.namespace("ipc"), LinkNameSpaceType::InterProcessCommunication)?;
            self.ipc = Some(own_namespace("ipc"));
        }
        if let Some(name) = wanted.hostname {
            enter(&holder.namespace("uts"), LinkNameSpaceType::HostNameAndNISDomainName)?;
            self.uts = Some(own_namespace("uts"));
            set_hostname(name)?;
        }
        if let Some(path) = wanted.netns {
            pin(&holder.namespace("net"), path)?;
            self.netns = Some(path.to_owned());
        }
        open(&holder.namespace("user"))
    }

    /// Makes the network namespace, sets the parameters inside, pins it, and returns to the host's.
    fn make_net(
        &mut self,
        netns: Option<&Path>,
        sysctls: &Sysctls<'_>,
    ) -> Result<(), NamespaceError> {
        let net = netns.is_some().then_some(Own::Net);
        let own: Vec<Own> = net.into_iter().chain(self.ipc.is_some().then_some(Own::Ipc)).collect();
        let set_all = || sysctls.set(&own);
        let Some(path) = netns else { return Ok(set_all()?) };
        let host = open(Path::new("/proc/self/ns/net"))?;
        unshare(Namespace::Net).map_err(step("make a network namespace"))?;
        let inside = set_all()
            .map_err(NamespaceError::from)
            .and_then(|()| Ok(pin(Path::new("/proc/self/ns/net"), path)?));
        if inside.is_ok() {
            self.netns = Some(path.to_owned());
        }
        move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(step("return to the host's network namespace"))?;
        inside
    }

    /// Starts the init in a new PID namespace, which the pod's user namespace owns if there is one. The shim's own later children stay in the
    /// host's.
    fn start_init(&mut self, cgroup_procs: &[PathBuf]) -> Result<(), NamespaceError> {
        let userns = self.userns.clone();
        let executable = init::executable().map_err(step("find the shim's executable"))?;
        let null = || process::null().map_err(step("open /dev/null"));
        let stdio = [null()?, null()?, null()?];
        let mut command = Command::of_file(executable, "davit-shim".as_ref(), stdio)?;
        command.arg("init")?;
        command.arg(init::user_in(userns.as_ref().map(|userns| &userns.mappings)).to_string())?;
        let spawned = command.spawn_first(|| {
            process::join_cgroups(cgroup_procs).map_err(|e| crate::error::chain(&e))?;
            if let Some(userns) = &userns {
                userns.enter().map_err(|e| crate::error::chain(&e))?;
            }
            init::leave_mounts().map_err(|e| crate::error::chain(&e))
        })?;
        self.init = Some(spawned.pid);
        let failure = std::io::read_to_string(std::fs::File::from(spawned.failure))
            .map_err(step("hear from the pod's init"))?;
        if !failure.is_empty() {
            return Err(NamespaceError::Init(failure));
        }
        let namespace = format!("/proc/{}/ns/pid", spawned.pid.as_raw_nonzero());
        self.pidns = Some(open(Path::new(&namespace))?);
        Ok(())
    }

    /// Undoes all of it, going on after failures. What is gone already is fine.
    pub(crate) fn release(&mut self) -> Vec<NamespaceError> {
        let mut failed = Vec::new();
        if let Some(pid) = self.init.take() {
            match rustix::process::kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(e) => failed.push(step("end the pod's init")(e)),
            }
        }
        if let Some(path) = self.shm.take() {
            failed.extend(detach(&path).err());
            failed.extend(files::remove_dir_if_there(&path).err().map(at("remove", &path)));
        }
        if let Some(path) = self.netns.take() {
            failed.extend(unpin(&path));
        }
        failed
    }

    /// Path of the pod's network namespace; empty if it was not made here.
    pub(crate) fn netns_path(&self) -> String {
        self.netns.as_ref().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Path of the pod's IPC namespace; empty if it is the host's.
    pub(crate) fn ipcns_path(&self) -> String {
        self.ipc.clone().unwrap_or_default()
    }

    /// Path of the pod's UTS namespace; empty if it is the host's.
    pub(crate) fn utsns_path(&self) -> String {
        self.uts.clone().unwrap_or_default()
    }

    /// Path of the pod's shared PID namespace; empty if there is none. By the shim's own descriptor: the init's pid may come to be another process's, whose
    /// namespace is the host's.
    pub(crate) fn pidns_path(&self) -> String {
        let pid = rustix::process::getpid().as_raw_nonzero();
        let path = |held: &OwnedFd| format!("/proc/{pid}/fd/{}", held.as_raw_fd());
        self.pidns.as_ref().map(path).unwrap_or_default()
    }

    /// The pod's user namespace, if it has one of its own.
    pub(crate) fn userns(&self) -> Option<Arc<Userns>> {
        self.userns.clone()
    }

    /// The init of the shared PID namespace, until it has ended or is to.
    pub(crate) fn init(&self) -> Option<Pid> {
        self.init
    }

    /// The init was reaped, so its pid is nobody's, or another's. Answers whether that was nobody's wish.
    pub(crate) fn init_is_gone(&mut self) -> bool {
        self.init.take().is_some()
    }
}

fn own_namespace(kind: &str) -> String {
    format!("/proc/{}/ns/{kind}", rustix::process::getpid().as_raw_nonzero())
}

fn open(path: &Path) -> Result<OwnedFd, NamespaceError> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", path))
}

fn enter(path: &Path, kind: LinkNameSpaceType) -> Result<(), NamespaceError> {
    move_into_link_name_space(open(path)?.as_fd(), Some(kind)).map_err(at("enter", path))
}

fn set_hostname(name: &str) -> Result<(), NamespaceError> {
    rustix::system::sethostname(name.as_bytes())
        .map_err(|e| NamespaceError::Hostname { name: name.to_owned(), source: e.into() })
}

fn unpin(path: &Path) -> Vec<NamespaceError> {
    let mut failed = Vec::new();
    failed.extend(detach(path).err());
    failed.extend(files::remove_if_there(path).err().map(at("remove", path)));
    failed
}

fn detach(path: &Path) -> Result<(), NamespaceError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // EINVAL: not a mount (any more). ENOENT: not even a file.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(e) => Err(at("unmount", path)(e)),
    }
}

fn mount_shm(path: &Path, size: u64, (uid, gid): (u32, u32)) -> Result<(), NamespaceError> {
    std::fs::create_dir_all(path).map_err(at("make", path))?;
    let options = format!("mode=1777,size={size},uid={uid},gid={gid}");
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", path, "tmpfs", flags, Some(options.as_c_str()))
        .map_err(at("mount /dev/shm at", path))
}
