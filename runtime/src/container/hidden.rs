//! Which of the host's mounts an OCI runtime need not see while it makes a container: the other pods', and what nobody needs who has nothing of it.
//!
//! Owns the decision, which errs on the side of showing them: a container whose volumes may show those mounts themselves, or anything that was told to run
//! beside it on the host, finds all as they are. The shim takes them away, in a namespace of the create's own, or copies only the others.

use crate::mounts::Place;
use crate::oci::{Built, Handler, Kind, Spot};
use crate::shared::Shared;
use crate::store::SandboxRecord;
use davit_proto::shim::{Hidden, View};
use davit_sys::pin::shows_itself;
use oci_spec::runtime::{Mount, Spec};
use std::fs::canonicalize;
use std::io;
use std::path::{Path, PathBuf};

/// What is told to the shim.
#[derive(Debug, Default)]
pub(super) struct Sight {
    pub(super) hidden: Vec<Hidden>,
    pub(super) view: Option<View>,
}

/// What a container that `built` describes is made in sight of. Blocks, at the `spot` that it tells.
pub(super) fn sight(
    shared: &Shared,
    sandbox: &SandboxRecord,
    handler: &Handler,
    (built, spot): (&Built, &Spot),
) -> Sight {
    let places = places(shared, sandbox);
    let mapped = built.mapped.iter().map(|bind| bind.source.as_path());
    let pod = shared.layout.pod(&sandbox.id);
    let Some(unseen) = Unseen::by((&built.spec, spot), mapped, &pod, &places) else {
        return Sight::default();
    };
    let Unseen { places, mut sources } = unseen;
    let hidden = places.iter().map(hidden).collect();
    let own = [shared.layout.root(), shared.layout.state(), &handler.root, &handler.path];
    let own = own.into_iter().chain(sandbox.netns.as_deref());
    // What is not there yet will be made.
    let real = |path: &Path| path.ancestors().find_map(|one| canonicalize(one).ok());
    sources.extend(own.filter_map(real));
    let places: Vec<Place> = places.into_iter().map(|(_, real)| real).collect();
    // What others keep running where they make a container isn't known.
    let known = matches!(handler.kind, Kind::Crun | Kind::Runc);
    let view = known.then(|| shared.mounts.view(&places, &sources)).flatten();
    Sight { hidden, view }
}

/// Where the host's mounts of all pods are, and this one's.
fn places(shared: &Shared, sandbox: &SandboxRecord) -> [Place; 2] {
    let netns = sandbox.netns.clone();
    let all = netns.as_deref().and_then(Path::parent).unwrap_or(&shared.config.netns_dir);
    [
        Place { all: all.to_owned(), own: netns },
        Place { all: shared.layout.shms(), own: Some(shared.layout.shm(&sandbox.id)) },
    ]
}

fn hidden((Place { all, own }, _): &(Place, Place)) -> Hidden {
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let own = own.as_deref().filter(|own| own.starts_with(all));
    Hidden { point: text(all), keep: own.map(text).unwrap_or_default() }
}

/// What need not be seen.
#[derive(Debug)]
struct Unseen {
    /// As davit calls them, and by their real paths.
    places: Vec<(Place, Place)>,
    /// Where the volumes are, but for the pod's own files: real paths.
    sources: Vec<PathBuf>,
}

impl Unseen {
    /// `None`: all is to be seen. Of the volumes in `mapped` the spec has what will be mounted below `pod`.
    fn by<'a>(
        (spec, spot): (&'a Spec, &Spot),
        mapped: impl Iterator<Item = &'a Path>,
        pod: &Path,
        places: &[Place],
    ) -> Option<Self> {
        let binds: Vec<&Mount> =
            spec.mounts().iter().flatten().filter(|mount| is_bind(mount)).collect();
        // The way to a place is not davit's alone, and a volume on it that propagates would lose that.
        if spec.hooks().is_some() || binds.iter().any(|bind| propagates(bind)) {
            return None;
        }
        let own = |source: &Path| {
            source.starts_with(pod) || places.iter().any(|one| one.own.as_deref() == Some(source))
        };
        let sources = binds.iter().filter_map(|bind| bind.source().as_deref()).chain(mapped);
        let real = |source: &Path| {
            spot.at(source);
            canonicalize(source)
        };
        let sources: io::Result<Vec<PathBuf>> =
            sources.filter(|source| !own(source)).map(real).collect();
        // Where one of them is can't be said, so it may be anywhere.
        let sources = sources.ok()?;
        let unseen = places.iter().filter_map(|place| {
            let real = canonicalize(&place.all).ok()?;
            // Where a file system of its own is mounted there, its files would go with it.
            (!may_show(&sources, &real) && shows_itself(&real))
                .then(|| (place.clone(), really(place, real)))
        });
        Some(Self { places: unseen.collect(), sources })
    }
}

/// The same place by its real path.
fn really(Place { all, own }: &Place, real: PathBuf) -> Place {
    let own = own.as_deref().and_then(|own| own.strip_prefix(all).ok()).map(|own| real.join(own));
    Place { all: real, own }
}

/// Whether what is bound from one of `sources` may hold mounts of `place`, or be one. All are real paths.
fn may_show(sources: &[PathBuf], place: &Path) -> bool {
    sources.iter().any(|source| source.starts_with(place) || place.starts_with(source))
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
        let pod = dir.path().join("pods/p");
        let told = |spec: &Spec, mapped: Option<&Path>, places: &[Place]| {
            let unseen = Unseen::by((spec, &Spot::default()), mapped.into_iter(), &pod, places);
            let places = unseen.map(|unseen| unseen.places).unwrap_or_default();
            places.iter().map(hidden).collect::<Vec<_>>()
        };
        let hidden_from = |mount: Mount| {
            let mut spec = Spec::default();
            spec.set_mounts(Some(vec![bind(&volume, &["ro"]), bind(&shm, &[]), mount]));
            let hidden = told(&spec, None, &places);
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
            // The pod's own, which is made later.
            (bind(&pod.join("containers/c/mapped/0"), &[]), &both),
        ] {
            assert_eq!(hidden_from(bound.clone()), still, "{bound:?}");
        }

        let mut spec = Spec::default();
        spec.set_mounts(None);
        let kept = |places: &[Place]| {
            let hidden = told(&spec, None, places).into_iter();
            hidden.map(|one| PathBuf::from(one.keep)).collect::<Vec<_>>()
        };
        // A volume that will be mapped.
        assert_eq!(told(&spec, Some(&other), &places).len(), 1);
        assert_eq!(kept(&places), [netns, shm]);
        // Of a pod on the host's network, and of one that an earlier davit made.
        let elsewhere =
            [Place { all: pins, own: None }, Place { all: memory, own: Some(at("pods/p/shm")) }];
        assert_eq!(kept(&elsewhere), [PathBuf::new(), PathBuf::new()]);
        // A directory that is another one without what is mounted on it: /proc is one on any host.
        let foreign = [Place { all: "/proc".into(), own: None }];
        assert_eq!(told(&spec, None, &foreign), []);
        let hook = HookBuilder::default().path("/bin/true").build().unwrap();
        let hooks = HooksBuilder::default().create_runtime(vec![hook]).build().unwrap();
        spec.set_hooks(Some(hooks));
        assert_eq!(told(&spec, None, &places), []);
    }

    #[test]
    fn a_pods_own_is_below_the_real_place_if_it_is_below_the_place() {
        let really = |own: &str| {
            let place = Place { all: "/var/run/netns".into(), own: Some(own.into()) };
            really(&place, "/run/netns".into()).own
        };
        assert_eq!(really("/var/run/netns/p"), Some("/run/netns/p".into()));
        assert_eq!(really("/elsewhere/p"), None);
    }
}
