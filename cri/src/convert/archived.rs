//! A container out of a checkpoint's archive: taken only if CRI could have asked for it.
//!
//! Owns the way back from a spec to the request that it is of. That request then goes the way of all requests, and what comes of it must be what
//! was in the archive: so nothing gets in by an archive that would be refused from the kubelet.

use super::error::{InvalidField, refuse};
use super::image::image_spec;
use super::{container_spec, mount, resources, signal};
use davit_proto::cri;
use davit_proto::cri::security_profile::ProfileType;
use davit_runtime::container::{
    AppArmor, Capabilities, ContainerPid, ContainerSecurity, ContainerSpec, GroupsPolicy, RunAs,
    Seccomp, SelinuxOptions, Signal,
};
use davit_runtime::sandbox::SandboxSpec;
use std::path::PathBuf;

/// The spec of an archive, found to be one that a container of this pod can have.
///
/// # Errors
/// [`InvalidField`] for the first field that a request could not have, or that does not fit the pod.
pub(crate) fn archived_spec(
    spec: ContainerSpec,
    pod: &SandboxSpec,
) -> Result<ContainerSpec, InvalidField> {
    let again = container_spec(config(spec.clone()), pod)?;
    if again == spec {
        Ok(again)
    } else {
        Err(refuse("davit.dump: container", &spec.name, "is none that a request could ask for"))
    }
}

fn config(spec: ContainerSpec) -> cri::ContainerConfig {
    let ContainerSpec {
        name,
        attempt,
        image,
        command,
        args,
        working_dir,
        envs,
        mounts,
        devices,
        cdi_devices,
        labels,
        annotations,
        log_path,
        stdin,
        stdin_once,
        tty,
        resources,
        security,
        stop_signal,
    } = spec;
    let path = |path: Option<PathBuf>| path.as_deref().map(mount::path_text).unwrap_or_default();
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name, attempt }),
        image: Some(image_spec(&image, &image.image)),
        command,
        args,
        working_dir: path(working_dir),
        envs: envs.into_iter().map(|(key, value)| cri::KeyValue { key, value }).collect(),
        mounts: mounts.iter().map(mount::mount_to_cri).collect(),
        devices: devices.iter().map(mount::device_to_cri).collect(),
        labels,
        annotations,
        log_path: path(log_path),
        stdin,
        stdin_once,
        tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources::resources_to_cri(&resources)),
            security_context: Some(security_to_cri(security)),
        }),
        windows: None,
        cdi_devices: cdi_devices.into_iter().map(|name| cri::CdiDevice { name }).collect(),
        stop_signal: stop_signal
            .map_or(cri::Signal::RuntimeDefault, |signal: Signal| signal::signal_to_cri(signal))
            .into(),
    }
}

fn security_to_cri(security: ContainerSecurity) -> cri::LinuxContainerSecurityContext {
    let ContainerSecurity {
        privileged,
        capabilities: Capabilities { add, drop, add_ambient },
        pid,
        run_as,
        supplemental_groups,
        groups_policy,
        readonly_rootfs,
        no_new_privs,
        masked_paths,
        readonly_paths,
        seccomp,
        apparmor,
        apparmor_required,
        selinux: SelinuxOptions { user, role, kind, level },
    } = security;
    let texts = |paths: Vec<PathBuf>| paths.iter().map(|path| mount::path_text(path)).collect();
    let (run_as_user, run_as_group, run_as_username) = run_as_to_cri(run_as);
    let policy = match groups_policy {
        GroupsPolicy::Merge => cri::SupplementalGroupsPolicy::Merge,
        GroupsPolicy::Strict => cri::SupplementalGroupsPolicy::Strict,
    };
    cri::LinuxContainerSecurityContext {
        privileged,
        capabilities: Some(cri::Capability {
            add_capabilities: add,
            drop_capabilities: drop,
            add_ambient_capabilities: add_ambient,
        }),
        namespace_options: Some(namespaces(pid)),
        selinux_options: Some(cri::SeLinuxOption { user, role, r#type: kind, level }),
        run_as_user,
        run_as_group,
        run_as_username,
        readonly_rootfs,
        supplemental_groups: supplemental_groups.into_iter().map(i64::from).collect(),
        supplemental_groups_policy: policy.into(),
        no_new_privs,
        masked_paths: texts(masked_paths),
        readonly_paths: texts(readonly_paths),
        seccomp: Some(match seccomp {
            Seccomp::RuntimeDefault => profile(ProfileType::RuntimeDefault, String::new()),
            Seccomp::Unconfined => profile(ProfileType::Unconfined, String::new()),
            Seccomp::Localhost(path) => profile(ProfileType::Localhost, mount::path_text(&path)),
        }),
        apparmor: match apparmor {
            AppArmor::RuntimeDefault => {
                apparmor_required.then(|| profile(ProfileType::RuntimeDefault, String::new()))
            }
            AppArmor::Unconfined => Some(profile(ProfileType::Unconfined, String::new())),
            AppArmor::Localhost(name) => Some(profile(ProfileType::Localhost, name)),
        },
        ..cri::LinuxContainerSecurityContext::default()
    }
}

fn namespaces(pid: ContainerPid) -> cri::NamespaceOption {
    let (pid, target_id) = match pid {
        ContainerPid::Pod => (cri::NamespaceMode::Pod, String::new()),
        ContainerPid::Container => (cri::NamespaceMode::Container, String::new()),
        ContainerPid::Host => (cri::NamespaceMode::Node, String::new()),
        ContainerPid::Target(id) => (cri::NamespaceMode::Target, id),
    };
    cri::NamespaceOption { pid: pid.into(), target_id, ..cri::NamespaceOption::default() }
}

fn profile(kind: ProfileType, localhost_ref: String) -> cri::SecurityProfile {
    cri::SecurityProfile { profile_type: kind.into(), localhost_ref }
}

fn run_as_to_cri(run_as: RunAs) -> (Option<cri::Int64Value>, Option<cri::Int64Value>, String) {
    let id = |id: u32| cri::Int64Value { value: i64::from(id) };
    match run_as {
        RunAs::Image => (None, None, String::new()),
        RunAs::Uid { uid, gid } => (Some(id(uid)), gid.map(id), String::new()),
        RunAs::Name { name, gid } => (None, gid.map(id), name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::sandbox_spec;
    use crate::convert::tests::{container_config, pod_config};
    use davit_runtime::container::{DeviceSpec, MountSource, MountSpec, Propagation, ReadOnly};

    fn pod() -> SandboxSpec {
        sandbox_spec(pod_config(), String::new()).unwrap()
    }

    #[test]
    fn what_was_asked_for_is_taken_again_as_it_was() {
        let mut config = container_config();
        config.devices = vec![cri::Device {
            container_path: "/dev/a".into(),
            host_path: "/dev/b".into(),
            permissions: "rw".into(),
        }];
        let options = cri::NamespaceOption {
            pid: cri::NamespaceMode::Container.into(),
            ..cri::NamespaceOption::default()
        };
        config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options =
            Some(options);
        let spec = container_spec(config, &pod()).unwrap();
        assert_eq!(archived_spec(spec.clone(), &pod()).unwrap(), spec);
    }

    #[test]
    fn what_no_request_could_say_is_refused_by_its_field() {
        let spec = container_spec(container_config(), &pod()).unwrap();
        type Change = fn(&mut ContainerSpec);
        let changes: [(&str, Change); 8] = [
            ("metadata.name", |spec| spec.name = "../x".into()),
            ("metadata.name", |spec| spec.name.clear()),
            ("log_path", |spec| spec.log_path = Some("../../etc/cron.d/x".into())),
            ("working_dir", |spec| spec.working_dir = Some("/a/../..".into())),
            ("command", |spec| spec.command = vec!["a\0b".into()]),
            ("devices[0].host_path", |spec| {
                spec.devices = vec![DeviceSpec {
                    container_path: "/dev/a".into(),
                    host_path: "dev/../x".into(),
                    permissions: "r".into(),
                }];
            }),
            ("linux.security_context.privileged", |spec| spec.security.privileged = true),
            ("mounts[0].host_path", |spec| {
                spec.mounts = vec![MountSpec {
                    container_path: "/c".into(),
                    source: MountSource::Host("etc".into()),
                    readonly: ReadOnly::No,
                    propagation: Propagation::Private,
                    selinux_relabel: false,
                    id_mappings: None,
                }];
            }),
        ];
        for (field, change) in changes {
            let mut spec = spec.clone();
            change(&mut spec);
            let error = archived_spec(spec, &pod()).unwrap_err();
            assert_eq!(error.field, field, "{error}");
        }
        let mut spec = spec;
        // A path's text keeps it, and so does the request: but no request has an empty part of it.
        spec.log_path = Some(PathBuf::new());
        let error = archived_spec(spec, &pod()).unwrap_err();
        assert_eq!(error.field, "davit.dump: container");
    }
}
