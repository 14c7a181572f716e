//! What a container may do.

use super::error::{InvalidField, refuse, variant};
use super::{namespace, profile, text};
use davit_proto::cri;
use davit_runtime::container::{
    Capabilities, ContainerSecurity, GroupsPolicy, RunAs, SelinuxOptions,
};
use davit_runtime::sandbox::SandboxSpec;
use std::path::PathBuf;

/// Every capability that capabilities(7) knows, without `CAP_`.
const CAPABILITIES: [&str; 41] = [
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "IPC_LOCK",
    "IPC_OWNER",
    "KILL",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "PERFMON",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_CHROOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

const FIELD: &str = "linux.security_context";

/// What a container of this pod may do.
pub(crate) fn security(
    context: cri::LinuxContainerSecurityContext,
    pod: &SandboxSpec,
) -> Result<ContainerSecurity, InvalidField> {
    #[expect(deprecated, reason = "older clients still send the old fields")]
    let cri::LinuxContainerSecurityContext {
        capabilities,
        privileged,
        namespace_options,
        selinux_options,
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups,
        supplemental_groups_policy,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
        apparmor_profile,
        seccomp_profile_path,
    } = context;
    if privileged && !pod.security.privileged {
        let field = format!("{FIELD}.privileged");
        return Err(refuse(field, &privileged, "is not allowed: the pod is not privileged"));
    }
    let policy = match variant(
        &format!("{FIELD}.supplemental_groups_policy"),
        supplemental_groups_policy,
    )? {
        cri::SupplementalGroupsPolicy::Merge => GroupsPolicy::Merge,
        cri::SupplementalGroupsPolicy::Strict => GroupsPolicy::Strict,
    };
    let (apparmor, apparmor_required) = profile::apparmor(FIELD, apparmor, apparmor_profile)?;
    Ok(ContainerSecurity {
        privileged,
        capabilities: capabilities_part(capabilities.unwrap_or_default())?,
        pid: namespace::of_container(
            &format!("{FIELD}.namespace_options"),
            namespace_options,
            pod,
        )?,
        run_as: run_as(run_as_user, run_as_group, run_as_username)?,
        supplemental_groups: ids(&format!("{FIELD}.supplemental_groups"), &supplemental_groups)?,
        groups_policy: policy,
        readonly_rootfs,
        no_new_privs,
        masked_paths: paths("masked_paths", masked_paths)?,
        readonly_paths: paths("readonly_paths", readonly_paths)?,
        seccomp: profile::seccomp(FIELD, seccomp, seccomp_profile_path)?,
        apparmor,
        apparmor_required,
        selinux: selinux(FIELD, selinux_options)?,
    })
}

/// The parts of a label. On a host without SELinux they have no effect, but what is no label is one nowhere.
pub(crate) fn selinux(
    field: &str,
    options: Option<cri::SeLinuxOption>,
) -> Result<SelinuxOptions, InvalidField> {
    let cri::SeLinuxOption { user, role, r#type, level } = options.unwrap_or_default();
    let options = SelinuxOptions { user, role, kind: r#type, level };
    davit_runtime::oci::selinux::check(&options).map_err(|invalid| {
        let field = format!("{field}.selinux_options.{}", invalid.part);
        refuse(field, &invalid.value, "is no part of an SELinux label")
    })?;
    Ok(options)
}

/// User or group ids: CRI has them as 64 bits, the kernel as 32 of which the last value means "none".
pub(crate) fn ids(field: &str, wire: &[i64]) -> Result<Vec<u32>, InvalidField> {
    let id = |wire: &i64| match u32::try_from(*wire) {
        Ok(id) if id != u32::MAX => Ok(id),
        Ok(_) | Err(_) => Err(refuse(field, wire, "is no user or group id")),
    };
    wire.iter().map(id).collect()
}

/// The name is heard if both a name and an id are given, as other runtimes do; the interface forbids
/// it without saying what happens.
fn run_as(
    user: Option<cri::Int64Value>,
    group: Option<cri::Int64Value>,
    name: String,
) -> Result<RunAs, InvalidField> {
    let one = |field: &str, value: Option<cri::Int64Value>| {
        let values: Vec<i64> = value.iter().map(|value| value.value).collect();
        ids(&format!("{FIELD}.{field}"), &values).map(|mut ids| ids.pop())
    };
    let (uid, gid) = (one("run_as_user", user)?, one("run_as_group", group)?);
    if !name.is_empty() {
        // A `:` would smuggle in a group past the field that is for it.
        if name.contains(':') {
            return Err(refuse(format!("{FIELD}.run_as_username"), &name, "has a `:` in it"));
        }
        let name = text::optional_name(&format!("{FIELD}.run_as_username"), name)?;
        return Ok(RunAs::Name { name, gid });
    }
    match (uid, gid) {
        (Some(uid), gid) => Ok(RunAs::Uid { uid, gid }),
        (None, None) => Ok(RunAs::Image),
        (None, Some(gid)) => {
            let field = format!("{FIELD}.run_as_group");
            Err(refuse(field, &gid, "is given without run_as_user or run_as_username"))
        }
    }
}

fn capabilities_part(wire: cri::Capability) -> Result<Capabilities, InvalidField> {
    let cri::Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } = wire;
    let known = |field: &str, names: Vec<String>| {
        for name in &names {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare != "ALL" && !CAPABILITIES.contains(&bare) {
                let field = format!("{FIELD}.capabilities.{field}");
                return Err(refuse(field, name, "is no capability"));
            }
        }
        Ok(names)
    };
    Ok(Capabilities {
        add: known("add_capabilities", add_capabilities)?,
        drop: known("drop_capabilities", drop_capabilities)?,
        add_ambient: known("add_ambient_capabilities", add_ambient_capabilities)?,
    })
}

fn paths(field: &str, paths: Vec<String>) -> Result<Vec<PathBuf>, InvalidField> {
    let field = format!("{FIELD}.{field}");
    paths.into_iter().map(|path| text::absolute(&field, path)).collect()
}
