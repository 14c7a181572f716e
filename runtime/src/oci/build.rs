//! The OCI spec of a container.
//!
//! Owns the putting together; each part has its module. Reads the host (sources of mounts, devices, profiles), so it may block and belongs
//! on a blocking thread; changes nothing, except that it makes missing sources where that was configured.

use super::apparmor::{self, AppArmorError};
use super::binds::MountError;
use super::capabilities::{self, CapabilityError};
use super::devices::{self, DeviceError, Devices};
use super::env::{EnvError, Environment};
use super::mounts::{self, Mounts};
use super::namespaces::{self, CgroupView, NamespaceError};
use super::path::below_root;
use super::process::{self, ProcessError};
use super::resources::{self, ResourceError};
use super::seccomp::{self, SeccompError};
use super::selinux::Labels;
use super::user::{self, Identity, UserError};
use super::userns;
use super::{Built, MakeDir, SpecInput};
use crate::cgroup::InvalidGroup;
use crate::container::{ContainerPid, Seccomp, Signal, User};
use crate::sandbox::IdMappings;
use oci_spec::runtime::{Linux, LinuxCapabilities, LinuxSeccomp, Process, Root, Spec};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// No newer than what is used: crun 1.8 refuses anything above 1.0.x, and nothing here needs more.
const OCI_VERSION: &str = "1.0.2";

/// Why a container can't be as asked. Every message names the field and its value.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// It is privileged and its pod isn't.
    #[error("privileged is true, but the pod's sandbox is not privileged")]
    PrivilegedInUnprivileged,
    /// Its user.
    #[error(transparent)]
    User(#[from] UserError),
    /// Its environment.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// Its command or working directory.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A mount.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// Its capabilities.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// Its seccomp profile.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// Its AppArmor profile.
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    /// Its limits.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// A namespace.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// The pod's cgroup.
    #[error(transparent)]
    Cgroup(#[from] InvalidGroup),
}

/// The spec of a container, and what else its making needs.
///
/// # Errors
/// [`SpecError`] for what can't be; nothing is to be undone then.
pub fn build(input: &SpecInput<'_>) -> Result<Built, SpecError> {
    let security = &input.container.security;
    if security.privileged && !input.sandbox.security.privileged {
        return Err(SpecError::PrivilegedInUnprivileged);
    }
    let identity = user::resolve(security, &input.image.user, input.users)?;
    if let Some(mappings) = &input.sandbox.userns {
        userns::check(&identity, security, mappings)?;
    }
    let Mounts { list, root_propagation, mapped, relabel } = mounts::build(input)?;
    let mut warnings = Vec::new();
    let labels = labels(input);
    let mut process = process(input, &identity)?;
    process.set_selinux_label(labels.as_ref().map(|labels| labels.process.clone()));
    let mut linux = linux(input, process.capabilities().as_ref(), &mut warnings)?;
    linux.set_rootfs_propagation(root_propagation.map(str::to_owned));
    linux.set_mount_label(labels.as_ref().map(|labels| labels.file.clone()));
    let make_dirs = make_dirs(input, process.cwd(), &mut warnings);
    let stop_signal = stop_signal(input, &mut warnings);

    let mut root = Root::default();
    root.set_path(input.rootfs.to_owned()).set_readonly(Some(security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned()).set_root(Some(root)).set_process(Some(process));
    spec.set_mounts(Some(list)).set_linux(Some(linux)).set_annotations(Some(annotations(input)));
    // The name is the UTS namespace's, and the shim has set it there.
    spec.set_hostname(None);
    Ok(Built {
        spec,
        user: User { uid: identity.uid, gid: identity.gid, groups: identity.groups },
        make_dirs,
        mapped,
        stop_signal,
        own_pid_namespace: security.pid == ContainerPid::Container,
        labels,
        relabel,
        warnings,
    })
}

/// A privileged container is confined by none.
fn labels(input: &SpecInput<'_>) -> Option<Labels> {
    let host = input.host.selinux.as_ref().filter(|_| !input.container.security.privileged)?;
    let (pod, own) = (&input.sandbox.security.selinux, &input.container.security.selinux);
    Some(host.labels(input.sandbox_id, pod, own))
}

fn process(input: &SpecInput<'_>, identity: &Identity) -> Result<Process, SpecError> {
    let (container, security) = (input.container, &input.container.security);
    let user = identity.to_oci();
    let bounding = &input.host.bounding;
    let capabilities = if security.privileged {
        capabilities::of_privileged(&security.capabilities, bounding)?
    } else {
        capabilities::of_container(&security.capabilities, bounding)?
    };
    let apparmor = if security.privileged { None } else { apparmor::build(security, input.host)? };
    let score = resources::oom_score_adj(container.resources.oom_score_adj, input.host)?;
    let mut process = Process::default();
    process.set_user(user).set_args(Some(process::args(container, input.image)?));
    process.set_env(Some(env(input, identity)?)).set_cwd(process::cwd(container, input.image)?);
    process.set_terminal(Some(container.tty)).set_capabilities(Some(capabilities));
    process.set_rlimits(Some(process::rlimits(input.host, input.sandbox.userns.as_ref())));
    process.set_no_new_privileges(Some(security.no_new_privs));
    process.set_apparmor_profile(apparmor).set_oom_score_adj(Some(score));
    Ok(process)
}

fn env(input: &SpecInput<'_>, identity: &Identity) -> Result<Vec<String>, EnvError> {
    let mut env = Environment::new(&input.pod.hostname);
    if input.container.tty {
        env.set("TERM", "xterm");
    }
    env.add_image(&input.image.env)?;
    env.add_pod(&input.container.envs)?;
    // OCI runtimes do it for the container's own process, but not all of them for an exec.
    if let Some(home) = &identity.home {
        env.set_default("HOME", home);
    }
    Ok(env.into_lines())
}

fn linux(
    input: &SpecInput<'_>,
    capabilities: Option<&LinuxCapabilities>,
    warnings: &mut Vec<String>,
) -> Result<Linux, SpecError> {
    let (container, security) = (input.container, &input.container.security);
    let Devices { nodes, rules } = if security.privileged {
        devices::of_privileged(&container.devices)?
    } else {
        devices::of_container(&container.devices)?
    };
    let mut resources =
        resources::build(&container.resources, input.handler, input.host, warnings)?;
    resources.set_devices(Some(rules));
    let version = input.host.cgroups.layout().version();
    let view = CgroupView { version, privileged: security.privileged };
    let namespaces = namespaces::build(&security.pid, input.sandbox, input.pod, &view)?;
    let group = input.host.pod_group(input.sandbox_id, input.sandbox)?;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces)).set_resources(Some(resources)).set_devices(Some(nodes));
    if let Some(IdMappings { uids, gids }) = &input.sandbox.userns {
        linux.set_uid_mappings(Some(userns::table(uids)));
        linux.set_gid_mappings(Some(userns::table(gids)));
    }
    linux.set_cgroups_path(Some(PathBuf::from(group.cgroups_path(input.id))));
    linux.set_seccomp(filter(input, capabilities)?);
    let paths = |paths: &[PathBuf]| {
        let hidden = !security.privileged && !paths.is_empty();
        hidden.then(|| paths.iter().map(|path| path.to_string_lossy().into_owned()).collect())
    };
    linux.set_masked_paths(paths(&security.masked_paths));
    linux.set_readonly_paths(paths(&security.readonly_paths));
    Ok(linux)
}

fn filter(
    input: &SpecInput<'_>,
    capabilities: Option<&LinuxCapabilities>,
) -> Result<Option<LinuxSeccomp>, SeccompError> {
    let security = &input.container.security;
    if security.privileged || security.seccomp == Seccomp::Unconfined {
        return Ok(None);
    }
    let lacking = match (input.host.seccomp, input.handler.features.seccomp) {
        (true, true) => None,
        (false, _) => Some("this host's kernel".to_owned()),
        (true, false) => Some(format!("handler {:?}", input.handler.name)),
    };
    if let Some(who) = lacking {
        return Err(SeccompError::Unsupported { profile: seccomp::name(&security.seccomp), who });
    }
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    seccomp::build(&security.seccomp, &bounding.cloned().unwrap_or_default())
}

/// What the command expects to find, though the image may not have it. Below a mount they would be hidden.
fn make_dirs(input: &SpecInput<'_>, cwd: &Path, warnings: &mut Vec<String>) -> Vec<MakeDir> {
    let covered = |path: &Path| mounts::covers(&input.container.mounts, path);
    let directory = |path: PathBuf| MakeDir { path, uid: 0, gid: 0, mode: 0o755 };
    let mut out = Vec::new();
    if cwd != Path::new("/") && !covered(cwd) {
        out.push(directory(cwd.to_owned()));
    }
    for volume in &input.image.volumes {
        match below_root(Path::new(volume)) {
            // The kernel's own file systems are mounted there, whatever an image says (CVE-2019-16884).
            Ok(path) if ["/proc", "/sys", "/dev"].iter().any(|top| path.starts_with(top)) => {}
            Ok(path) if covered(&path) || out.iter().any(|known: &MakeDir| known.path == path) => {}
            Ok(path) => out.push(directory(path)),
            Err(problem) => {
                let volume: String = volume.chars().take(200).collect();
                warnings
                    .push(format!("the image's VOLUME {volume:?} is passed over: it {problem}"));
            }
        }
    }
    out
}

fn stop_signal(input: &SpecInput<'_>, warnings: &mut Vec<String>) -> Signal {
    if let Some(signal) = input.container.stop_signal {
        return signal;
    }
    let image = &input.image.stop_signal;
    if image.is_empty() {
        return Signal::TERM;
    }
    image.parse().unwrap_or_else(|error| {
        warnings.push(format!("the image's STOPSIGNAL is passed over: {error}"));
        Signal::TERM
    })
}

/// Who this is, for those who look at a container from outside, under the names they know. Nothing of the pod's or the image's own
/// annotations: OCI runtimes act on some (`run.oci.*`, `org.systemd.property.*`: CVE-2024-3154).
fn annotations(input: &SpecInput<'_>) -> HashMap<String, String> {
    let key = &input.sandbox.key;
    [
        ("container-type", "container"),
        ("container-name", &input.container.name),
        ("image-name", &input.container.image.image),
        ("sandbox-id", input.sandbox_id.as_str()),
        ("sandbox-name", &key.name),
        ("sandbox-namespace", &key.namespace),
        ("sandbox-uid", &key.uid),
    ]
    .into_iter()
    .map(|(name, value)| (format!("io.kubernetes.cri.{name}"), value.to_owned()))
    .collect()
}
