//! containerd with its CRI plugin: its configuration.

use super::quoted;
use crate::daemon::Settings;
use std::path::Path;

/// `restrict_oom_score_adj`: not every machine lets its root lower it.
pub(super) fn config(settings: &Settings, runtime: &Path, pause: &str) -> String {
    let dir = settings.dir.display();
    let (root, state) = (quoted(&settings.root()), quoted(&settings.state()));
    let socket = quoted(&settings.socket());
    let certs = quoted(&settings.registry_config_dir());
    let (cni, plugins) = (quoted(&settings.cni_conf_dir), quoted(&settings.cni_bin_dir));
    let runtime = quoted(runtime);
    format!(
        r#"version = 3
root = {root}
state = {state}
[grpc]
address = {socket}
[ttrpc]
address = "{dir}/run/ttrpc.sock"
[plugins."io.containerd.internal.v1.opt"]
path = "{dir}/opt"
[plugins."io.containerd.nri.v1.nri"]
socket_path = "{dir}/run/nri.sock"
plugin_path = "{dir}/nri/plugins"
plugin_config_path = "{dir}/nri/conf.d"
[plugins."io.containerd.shim.v1.manager"]
socket_dir = "{dir}/s"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = {certs}
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = [{plugins}]
conf_dir = {cni}
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "bench"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.bench.options]
BinaryName = {runtime}
Root = "{dir}/oci"
"#
    )
}
