//! Which of the host's mounts an OCI runtime need not see while it makes a container: the other pods' network namespaces.
//!
//! Owns the decision, which errs on the side of showing them: a container whose volumes may show those mounts themselves, or anything that was told to run
//! beside it on the host, finds all as they are. The shim takes them away, in a namespace of the create's own.

use davit_proto::shim::Hidden;
use oci_spec::runtime::{Mount, Spec};
use std::fs::canonicalize;
use std::path::Path;

/// What is to be hidden from who makes a container of `spec` in the pod whose network namespace is pinned at `netns`.
pub(super) fn hidden(spec: &Spec, netns: Option<&Path>) -> Vec<Hidden> {
    let Some((netns, point)) = netns.and_then(|netns| Some((netns, netns.parent()?))) else {
        return Vec::new();
    };
    let mut binds = spec.mounts().iter().flatten().filter(|mount| is_bind(mount));
    // The way there is not davit's alone, and a volume on it that propagates would lose that.
    let tells = |bind: &Mount| propagates(bind) || may_show(bind, point);
    if spec.hooks().is_some() || binds.any(tells) {
        return Vec::new();
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    vec![Hidden { point: text(point), keep: text(netns) }]
}

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

fn is_bind(mount: &Mount) -> bool {
    options(mount).any(|option| option == "bind" || option == "rbind")
}

fn propagates(mount: &Mount) -> bool {
    options(mount).any(|option| matches!(option, "shared" | "rshared" | "slave" | "rslave"))
}

/// Whether what is bound may hold mounts of `point`, or lie among them.
fn may_show(bind: &Mount, point: &Path) -> bool {
    match (bind.source().as_ref().map(canonicalize), canonicalize(point)) {
        (Some(Ok(source)), Ok(point)) => source.starts_with(&point) || point.starts_with(&source),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{HookBuilder, HooksBuilder, MountBuilder};

    fn bind(source: &Path, more: &[&str]) -> Mount {
        let options: Vec<String> = ["rbind"].iter().chain(more).map(|o| (*o).to_owned()).collect();
        MountBuilder::default().destination("/in").source(source).options(options).build().unwrap()
    }

    #[test]
    fn others_are_hidden_unless_a_volume_or_a_hook_could_tell() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (netns, volume, other) = (at("run/netns/p"), at("volume"), at("run/netns/other"));
        std::os::unix::fs::symlink(at("run"), dir.path().join("link")).unwrap();
        let is_hidden = |mount: Mount| {
            let mut spec = Spec::default();
            spec.set_mounts(Some(vec![bind(&volume, &["ro"]), mount]));
            !hidden(&spec, Some(&netns)).is_empty()
        };
        assert!(is_hidden(bind(&volume, &["rprivate", "ro"])));
        for shown in [
            bind(&volume, &["rslave"]),
            bind(&volume, &["rshared"]),
            bind(&at("run/netns"), &[]),
            bind(&other, &[]),
            bind(&dir.path().join("link"), &[]),
            bind(Path::new("/"), &[]),
            bind(&dir.path().join("gone"), &[]),
        ] {
            assert!(!is_hidden(shown.clone()), "{shown:?}");
        }

        let mut spec = Spec::default();
        spec.set_mounts(None);
        let [one] = &hidden(&spec, Some(&netns))[..] else { panic!("one place") };
        assert_eq!(Path::new(&one.point), at("run/netns"));
        assert_eq!(Path::new(&one.keep), netns);
        assert_eq!(hidden(&spec, None), [], "a pod on the host's network");
        let hook = HookBuilder::default().path("/bin/true").build().unwrap();
        let hooks = HooksBuilder::default().create_runtime(vec![hook]).build().unwrap();
        spec.set_hooks(Some(hooks));
        assert_eq!(hidden(&spec, Some(&netns)), []);
    }
}
