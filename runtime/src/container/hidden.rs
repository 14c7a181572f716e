//! Which of the host's mounts an OCI runtime need not see while it makes a container: the other pods'.
//!
//! Owns the decision, which errs on the side of showing them: a container whose volumes may show those mounts themselves, or anything that was told to run
//! beside it on the host, finds all as they are. The shim takes them away, in a namespace of the create's own.

use crate::shared::Shared;
use crate::store::SandboxRecord;
use davit_proto::shim::Hidden;
use davit_sys::pin::shows_itself;
use oci_spec::runtime::{Mount, Spec};
use std::fs::canonicalize;
use std::io;
use std::path::{Path, PathBuf};

/// A directory that has a mount of each pod's.
pub(super) struct Place {
    /// The directory, a mount itself.
    pub(super) all: PathBuf,
    /// The pod's own, if it has one; it may be elsewhere.
    pub(super) own: Option<PathBuf>,
}

/// Where the host's mounts of all pods are, and this one's.
pub(super) fn places(shared: &Shared, sandbox: &SandboxRecord) -> [Place; 2] {
    let netns = sandbox.netns.clone();
    let all = netns.as_deref().and_then(Path::parent).unwrap_or(&shared.config.netns_dir);
    [
        Place { all: all.to_owned(), own: netns },
        Place { all: shared.layout.shms(), own: Some(shared.layout.shm(&sandbox.id)) },
    ]
}

/// What is to be hidden from who makes a container of `spec`, of what is mounted in `places`.
pub(super) fn hidden(spec: &Spec, places: &[Place]) -> Vec<Hidden> {
    let binds: Vec<&Mount> =
        spec.mounts().iter().flatten().filter(|mount| is_bind(mount)).collect();
    // The way to a place is not davit's alone, and a volume on it that propagates would lose that.
    if spec.hooks().is_some() || binds.iter().any(|bind| propagates(bind)) {
        return Vec::new();
    }
    let is_own = |source: &&PathBuf| places.iter().any(|place| place.own.as_ref() == Some(source));
    let sources = binds.iter().filter_map(|bind| bind.source().as_ref());
    let sources: io::Result<Vec<PathBuf>> =
        sources.filter(|source| !is_own(source)).map(canonicalize).collect();
    // Where one of them is can't be said, so it may be anywhere.
    let Ok(sources) = sources else { return Vec::new() };
    let text = |path: &Path| path.to_string_lossy().into_owned();
    // Where a file system of its own is mounted there, its files would go with it.
    let unseen =
        places.iter().filter(|place| !may_show(&sources, &place.all) && shows_itself(&place.all));
    unseen
        .map(|Place { all, own }| {
            let own = own.as_deref().filter(|own| own.starts_with(all));
            Hidden { point: text(all), keep: own.map(text).unwrap_or_default() }
        })
        .collect()
}

/// Whether what is bound from one of `sources` may hold mounts of `place`, or be one.
fn may_show(sources: &[PathBuf], place: &Path) -> bool {
    let Ok(place) = canonicalize(place) else { return true };
    sources.iter().any(|source| source.starts_with(&place) || place.starts_with(source))
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
        let (netns, other) = (at("run/netns/p"), at("run/netns/other"));
        let (volume, shm) = (at("volume"), at("shm/p"));
        std::os::unix::fs::symlink(at("run"), dir.path().join("link")).unwrap();
        let places = [
            Place { all: at("run/netns"), own: Some(netns.clone()) },
            Place { all: at("shm"), own: Some(shm.clone()) },
        ];
        let hidden_from = |mount: Mount| {
            let mut spec = Spec::default();
            spec.set_mounts(Some(vec![bind(&volume, &["ro"]), bind(&shm, &[]), mount]));
            let hidden = hidden(&spec, &places);
            hidden.into_iter().map(|one| PathBuf::from(one.point)).collect::<Vec<_>>()
        };
        let (pins, memory) = (at("run/netns"), at("shm"));
        let both = [pins.clone(), memory.clone()];
        assert_eq!(hidden_from(bind(&volume, &["rprivate", "ro"])), both);
        for (bound, still) in [
            (bind(&volume, &["rslave"]), &[][..]),
            (bind(&volume, &["rshared"]), &[]),
            (bind(&pins, &[]), std::slice::from_ref(&memory)),
            (bind(&other, &[]), std::slice::from_ref(&memory)),
            (bind(&dir.path().join("link"), &[]), std::slice::from_ref(&memory)),
            (bind(&memory, &[]), std::slice::from_ref(&pins)),
            (bind(&at("shm/other"), &[]), std::slice::from_ref(&pins)),
            (bind(Path::new("/"), &[]), &[]),
            (bind(&dir.path().join("gone"), &[]), &[]),
        ] {
            assert_eq!(hidden_from(bound.clone()), still, "{bound:?}");
        }

        let mut spec = Spec::default();
        spec.set_mounts(None);
        let kept = |places: &[Place]| {
            let hidden = hidden(&spec, places).into_iter();
            hidden.map(|one| PathBuf::from(one.keep)).collect::<Vec<_>>()
        };
        assert_eq!(kept(&places), [netns, shm]);
        // Of a pod on the host's network, and of one that an earlier davit made.
        let elsewhere =
            [Place { all: pins, own: None }, Place { all: memory, own: Some(at("pods/p/shm")) }];
        assert_eq!(kept(&elsewhere), [PathBuf::new(), PathBuf::new()]);
        // A directory that is another one without what is mounted on it: /proc is one on any host.
        let foreign = [Place { all: "/proc".into(), own: None }];
        assert_eq!(hidden(&spec, &foreign), []);
        let hook = HookBuilder::default().path("/bin/true").build().unwrap();
        let hooks = HooksBuilder::default().create_runtime(vec![hook]).build().unwrap();
        spec.set_hooks(Some(hooks));
        assert_eq!(hidden(&spec, &places), []);
    }
}
