//! CRI-O: its configuration and the files that it wants beside it.

use super::quoted;
use crate::daemon::Settings;
use crate::registry::{Registry, write_whole};
use anyhow::{Context, Result};
use std::path::Path;
use std::process::Command;

/// The monitor that it starts for each container.
const CONMON: &str = "/usr/bin/conmon";

/// Where it looks for a list of registries before it looks in `/etc`.
const HOME: &str = "home/.config/containers";

/// Any image is taken, and the registry on loopback speaks no TLS.
pub(super) fn write_files(settings: &Settings, registry: &Registry) -> Result<()> {
    let dir = &settings.dir;
    for name in ["hooks", "conf.d", "ns", HOME] {
        std::fs::create_dir_all(dir.join(name)).with_context(|| format!("make {name}"))?;
    }
    let any = br#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
    write_whole(&dir.join("policy.json"), any)?;
    let image = registry.reference("x");
    let host = image.split('/').next().unwrap_or_default();
    let text = format!("[[registry]]\nlocation = {host:?}\ninsecure = true\n");
    write_whole(&dir.join(HOME).join("registries.conf"), text.as_bytes())
}

/// `pids_limit`: an old crun writes -1, the default, as it is.
pub(super) fn config(settings: &Settings, runtime: &Path, pause: &str) -> Result<String> {
    let dir = settings.dir.display();
    let (root, socket) = (quoted(&settings.root()), quoted(&settings.socket()));
    let (cni, plugins) = (quoted(&settings.cni_conf_dir), quoted(&settings.cni_bin_dir));
    let pinns = super::Kind::Crio.program().with_file_name("pinns");
    let (runtime, pinns) = (quoted(runtime), quoted(&pinns));
    std::fs::create_dir_all(settings.state()).context("make the directory of the socket")?;
    Ok(format!(
        r#"[crio]
root = {root}
runroot = "{dir}/run/storage"
storage_driver = "overlay"
log_dir = "{dir}/logs"
version_file = "{dir}/run/version"
version_file_persist = ""
clean_shutdown_file = "{dir}/clean"
[crio.api]
listen = {socket}
stream_address = "127.0.0.1"
stream_port = "0"
[crio.runtime]
default_runtime = "bench"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_exits_dir = "{dir}/run/exits"
container_attach_socket_dir = "{dir}/run/a"
namespaces_dir = "{dir}/pins/ns"
pinns_path = {pinns}
hooks_dir = ["{dir}/hooks"]
pids_limit = 100000
enable_pod_events = true
seccomp_use_default_when_empty = false
[crio.runtime.runtimes.bench]
runtime_path = {runtime}
runtime_type = "oci"
runtime_root = "{dir}/oci"
monitor_path = "{CONMON}"
[crio.image]
pause_image = "{pause}"
pause_command = "/pause"
signature_policy = "{dir}/policy.json"
signature_policy_dir = "{dir}/policies"
[crio.network]
network_dir = {cni}
plugin_dirs = [{plugins}]
[crio.metrics]
enable_metrics = false
[crio.nri]
enable_nri = false
"#
    ))
}

/// What no key of the file says.
pub(super) fn arguments(command: &mut Command, settings: &Settings) {
    command.arg("--config-dir").arg(settings.dir.join("conf.d"));
    command.env("HOME", settings.dir.join("home"));
}
