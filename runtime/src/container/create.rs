//! A container's creation: a list of steps, each with its undo.
//!
//! Owns the order. The record says `Creating` before anything is made and `Created` after the OCI runtime has: that write is the commit point.
//! What fails before it is undone here; a crash before it is undone by [`super::undo`].

use super::hidden::{Sight, sight};
use super::remove::{Removal, remove_files};
use super::rootfs::{make_places, mapped_dir, text, volumes_target};
use super::target::{HeldNamespace, Target};
use super::volume::{self, Volume};
use super::{
    ContainerEvent, ContainerFacts, ContainerSpec, ContainerState, CreateContainerError,
    MountSource,
};
use crate::cgroup::{CgroupError, Group};
use crate::clock;
use crate::id::ContainerId;
use crate::image::view::LayerView;
use crate::image::{Image, ImageConfig, LayerHold};
use crate::oci::{self, Built, Handler, ImageDefaults, PodPaths, SpecInput, Spot, UserFiles};
use crate::sandbox::{SandboxSpec, Shim, files};
use crate::shared::Shared;
use crate::shim::{ShimClient, ShimError};
use crate::store::{
    ContainerRecord, SandboxRecord, StoreError, VERSION, ensure_dir, reach, write_json,
};
use crate::undo::Undo;
use davit_proto::shim::{CreateRequest, MappedMount, OciRuntime, Rootfs};
use oci_spec::runtime::Spec;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What a creation works with: the pod as it was when it was asked for.
pub(crate) struct Creation {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sandbox: SandboxRecord,
    pub(crate) shim: Shim,
    pub(crate) spec: ContainerSpec,
    /// The container whose PID namespace it is to join.
    pub(crate) target: Option<Target>,
}

/// A container that has come to be.
#[derive(Debug)]
pub(crate) struct MadeContainer {
    pub(crate) record: ContainerRecord,
    /// Of its image, and of those that are its volumes.
    pub(crate) layers: Vec<LayerHold>,
}

/// A container of which all is there but its processes.
pub(super) struct Prepared {
    pub(super) record: ContainerRecord,
    pub(super) held: Held,
    /// What its shim is to make.
    pub(super) request: CreateRequest,
}

/// What a container is made of, which must not go meanwhile.
pub(super) struct Held {
    pub(super) root: LayerHold,
    pub(super) volumes: Vec<Volume>,
    /// The PID namespace that it joins, if that is another container's.
    target: Option<HeldNamespace>,
}

/// An OCI runtime has moved what it makes by then, if it is not held up.
const OCI_RUNTIME: Duration = Duration::from_millis(20);

/// The longest user or group file of an image that is read.
const USER_FILE_LIMIT: u64 = 4 << 20;

/// Makes the container, or leaves nothing of it.
pub(crate) async fn create(creation: Creation) -> Result<MadeContainer, CreateContainerError> {
    let id = ContainerId::random()?;
    let creation = Arc::new(creation);
    let mut undo = Undo::default();
    let made = creation.steps(&id, &mut undo).await;
    finish(&creation, &id, undo, made).await
}

/// Undoes what was made if that came to nothing.
pub(super) async fn finish(
    creation: &Creation,
    id: &ContainerId,
    undo: Undo<'static>,
    made: Result<MadeContainer, CreateContainerError>,
) -> Result<MadeContainer, CreateContainerError> {
    match made {
        Ok(made) => Ok(made),
        Err(error) => {
            let left = undo.run().await;
            for failed in &left {
                tracing::error!(container = %id, error = failed as &dyn std::error::Error, "left behind by a container that failed; it is tried again");
            }
            if !left.is_empty() {
                tokio::spawn(remove_again(creation.removal(id), creation.group(id)));
            }
            Err(error)
        }
    }
}

/// Between two tries, and how many there are; then it is the next start's.
const PAUSE: Duration = Duration::from_secs(2);
const TRIES: u32 = 300;

/// Tries to remove what could not be. Nobody knows the container, so nobody waits.
async fn remove_again(removal: Removal, group: Option<Group>) {
    for _ in 0..TRIES {
        tokio::time::sleep(PAUSE).await;
        let ended = match &removal.client {
            Some(client) => end(client, &removal.id).await.is_ok(),
            None => true,
        };
        let emptied = ended && empty(&removal.shared, group.clone()).await.is_ok();
        if emptied && remove_files(&removal).await.is_ok() {
            tracing::info!(container = %removal.id, "undone: nothing is left of a container that failed");
            return;
        }
    }
}

/// Ends what the shim has of a container; what one that is gone has left is found with the files.
async fn end(client: &ShimClient, id: &ContainerId) -> Result<(), ShimError> {
    match client.delete(id.as_str()).await {
        Ok(()) | Err(ShimError::Gone { .. }) => Ok(()),
        Err(
            error @ (ShimError::Unknown { .. }
            | ShimError::State { .. }
            | ShimError::Runtime { .. }
            | ShimError::Deadline { .. }
            | ShimError::Short { .. }
            | ShimError::Old
            | ShimError::Failed { .. }),
        ) => Err(error),
    }
}

/// Ends whoever is in a container's cgroup: an OCI runtime that was killed because it hung, before it said whom it had made, has left them there.
async fn empty(shared: &Shared, group: Option<Group>) -> Result<(), CgroupError> {
    let Some(group) = group else { return Ok(()) };
    let cgroups = &shared.host.cgroups;
    let files = cgroups.procs_files(&group);
    if files.is_empty() {
        return Ok(());
    }
    cgroups.kill(&group)?;
    let made: Vec<PathBuf> =
        files.iter().filter_map(|file| file.parent()).map(Path::to_owned).collect();
    cgroups.remove(&made).await.map(drop)
}

impl Creation {
    fn group(&self, id: &ContainerId) -> Option<Group> {
        let pod = self.shared.pod_group(&self.sandbox.id, &self.sandbox.spec);
        pod.and_then(|pod| pod.container(id)).ok()
    }

    async fn steps(
        self: &Arc<Self>,
        id: &ContainerId,
        undo: &mut Undo<'static>,
    ) -> Result<MadeContainer, CreateContainerError> {
        let Prepared { record, held, request } = self.prepare(id, undo).await?;
        let steps = &self.shared.metrics.steps;
        let step = steps.create_runtime.begin();
        let pid = self.shim.client.create(request).await.map_err(CreateContainerError::Shim)?;
        reach("create.made")?;
        drop(step);
        let _step = steps.create_commit.begin();
        let made = self.commit(record, held, [ContainerEvent::Made { pid }])?;
        reach("create.committed")?;
        Ok(made)
    }

    /// Everything up to the call of its shim, whose undo is pushed.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        id: &ContainerId,
        undo: &mut Undo<'static>,
    ) -> Result<Prepared, CreateContainerError> {
        self.shared.moves.expect(OCI_RUNTIME);
        let steps = &self.shared.metrics.steps;
        let step = steps.create_image.begin();
        let image = self.image()?;
        reach("create.image")?;
        let wanted = &self.spec.image.image;
        let layers = self.shared.images.hold(&image.layers);
        let layers = layers
            .map_err(|source| CreateContainerError::Layers { image: wanted.clone(), source })?;
        drop(step);
        let step = steps.create_spec.begin();
        let target = match &self.target {
            Some(target) => Some(target.hold(&self.shim.client).await?),
            None => None,
        };
        let held = Held { root: layers, volumes: Vec::new(), target };
        let (held, built, sight) = self.look(id, &image, held).await?;
        drop(step);

        let step = steps.create_rootfs.begin();
        let removal = self.removal(id);
        undo.push("the container's files", async move { remove_files(&removal).await });
        let mut record = self.record(id, &image, &built);
        record.facts.volume_layers = volume::layers(&held.volumes);
        let bundle = self.shared.layout.bundle(&self.sandbox.id, id);
        ensure_dir(&bundle)?;
        write_json(&self.shared.layout.container_record(&self.sandbox.id, id), &record)?;
        reach("create.record")?;
        let Sight { hidden, view } = sight;
        let rootfs = Rootfs { hidden, view, ..self.make_rootfs(id, &bundle, &held, &built)? };
        reach("create.rootfs")?;
        let mapped_mounts = make_places(&mapped_dir(&bundle), &built.mapped)?;
        write_json(&bundle.join("config.json"), &built.spec)?;
        reach("create.spec")?;
        drop(step);

        let (shared, group) = (Arc::clone(&self.shared), self.group(id));
        undo.push("the container's cgroup", async move { empty(&shared, group).await });
        let (client, gone) = (self.shim.client.clone(), id.clone());
        undo.push("the container's process", async move { end(&client, &gone).await });
        let handler = self.shared.handlers.get(&self.sandbox.handler)?;
        let runtime = self.oci_runtime(handler, &built.spec);
        let request = self.request(&record, runtime, (rootfs, mapped_mounts));
        Ok(Prepared { record, held, request })
    }

    /// Looks at all of the host that it is made of, sources of mounts too, one of which may be on a share that hangs. Nothing is to be undone then.
    async fn look(
        self: &Arc<Self>,
        id: &ContainerId,
        image: &Arc<Image>,
        mut held: Held,
    ) -> Result<(Held, Built, Sight), CreateContainerError> {
        let (looks, limit) = (&self.shared.looks, self.shared.config.deadlines.runtime);
        for mount in &self.spec.mounts {
            if let MountSource::Host(path) = &mount.source {
                looks.may_look(path, limit)?;
            }
        }
        let (creation, id, image) = (Arc::clone(self), id.clone(), Arc::clone(image));
        let look = move |spot: &Spot| {
            let shared = &creation.shared;
            let handler = shared.handlers.get(&creation.sandbox.handler)?;
            held.volumes = volume::hold(&shared.images, &creation.spec.mounts)?;
            let built = creation.built((&id, handler), &image, &held, spot)?;
            let sight = sight(shared, &creation.sandbox, handler, (&built, spot));
            Ok((held, built, sight))
        };
        looks.run(limit, look).await?
    }

    /// Writes down what has become of it: the commit point.
    pub(super) fn commit(
        &self,
        mut record: ContainerRecord,
        held: Held,
        events: impl IntoIterator<Item = ContainerEvent>,
    ) -> Result<MadeContainer, StoreError> {
        for event in events {
            record.state = record.state.next(event).unwrap_or(record.state);
        }
        write_json(&self.shared.layout.container_record(&self.sandbox.id, &record.id), &record)?;
        let mut layers = vec![held.root];
        layers.extend(held.volumes.into_iter().map(|volume| volume.layers));
        Ok(MadeContainer { record, layers })
    }

    fn image(&self) -> Result<Arc<Image>, CreateContainerError> {
        let image = &self.spec.image.image;
        self.shared
            .images
            .find(image)?
            .ok_or_else(|| CreateContainerError::ImageUnknown { image: image.clone() })
    }

    fn built(
        &self,
        (id, handler): (&ContainerId, &Handler),
        image: &Image,
        held: &Held,
        spot: &Spot,
    ) -> Result<Built, CreateContainerError> {
        let view = LayerView::new(held.root.lower());
        if is_checkpoint(image, &view) {
            return Err(CreateContainerError::Checkpoint { image: self.spec.image.image.clone() });
        }
        let read = |path: &'static str| {
            view.read(path, USER_FILE_LIMIT)
                .map_err(|source| CreateContainerError::UserFiles { path, source })
        };
        let users = UserFiles { passwd: read("/etc/passwd")?, group: read("/etc/group")? };
        let cgroup_parent = self.shared.pod_cgroup(&self.sandbox.id, &self.sandbox.spec).ok();
        let sandbox = SandboxSpec { cgroup_parent, ..self.sandbox.spec.clone() };
        let bundle = self.shared.layout.bundle(&self.sandbox.id, id);
        let input = SpecInput {
            id,
            sandbox_id: &self.sandbox.id,
            container: &self.spec,
            sandbox: &sandbox,
            image: &defaults(&image.config),
            users: &users,
            pod: &self.pod_paths(held.target.as_ref()),
            rootfs: &self.rootfs_target(&bundle),
            volumes: &volumes_target(&bundle),
            mapped: &mapped_dir(&bundle),
            handler,
            host: &self.shared.host,
            spot,
        };
        let mut built = oci::build(&input)?;
        self.shared.cdi.inject(&self.spec.cdi_devices, &mut built, handler)?;
        self.label(&input, &built)?;
        for warning in &built.warnings {
            tracing::warn!(container = %id, "{warning}");
        }
        Ok(built)
    }

    /// Gives the pod's own files and the volumes that ask for it the container's label. Nothing else of the host is ever relabelled
    /// (CVE-2021-43816).
    fn label(&self, input: &SpecInput<'_>, built: &Built) -> Result<(), CreateContainerError> {
        let Some(labels) = &built.labels else { return Ok(()) };
        let PodPaths { shm, hostname_file, resolv_conf, .. } = input.pod;
        let own = [shm, hostname_file, resolv_conf].into_iter().flatten();
        for path in own.chain(&built.relabel) {
            // One that is slow is done when whoever asks again comes by.
            self.shared.looks.may_look(path, self.shared.config.deadlines.runtime)?;
            input.spot.at(path);
            oci::selinux::relabel(path, &labels.file)
                .map_err(|source| CreateContainerError::Label { path: path.clone(), source })?;
        }
        Ok(())
    }

    fn pod_paths(&self, target: Option<&HeldNamespace>) -> PodPaths {
        let directory = self.shared.layout.pod(&self.sandbox.id);
        let namespaces = self.shim.namespaces.clone();
        PodPaths {
            netns: self.sandbox.netns.clone(),
            ipcns: namespaces.ipc,
            utsns: namespaces.uts,
            userns: namespaces.user,
            pidns: target.map(HeldNamespace::path).or(namespaces.pid),
            shm: (!self.sandbox.spec.host_ipc).then(|| self.shared.layout.shm(&self.sandbox.id)),
            hostname_file: Some(files::hostname_file(&directory)),
            resolv_conf: Some(files::resolv_conf(&directory)),
            hostname: files::hostname(&self.sandbox),
        }
    }

    fn record(&self, id: &ContainerId, image: &Image, built: &Built) -> ContainerRecord {
        let log = self.sandbox.spec.log_directory.as_ref().zip(self.spec.log_path.as_ref());
        let facts = ContainerFacts {
            created_at: clock::now(),
            image_id: image.id.clone(),
            image_name: image
                .repo_tags
                .first()
                .cloned()
                .unwrap_or_else(|| self.spec.image.image.clone()),
            image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            layers: image.layers.clone(),
            volume_layers: Vec::new(),
            log_path: log.map(|(directory, path)| directory.join(path)),
            stop_signal: built.stop_signal,
            user: built.user.clone(),
            own_pid_namespace: built.own_pid_namespace,
        };
        ContainerRecord {
            version: VERSION,
            id: id.clone(),
            sandbox: self.sandbox.id.clone(),
            spec: self.spec.clone(),
            facts,
            state: ContainerState::Creating,
        }
    }

    fn oci_runtime(&self, handler: &Handler, spec: &Spec) -> OciRuntime {
        let deadline = self.shared.config.deadlines.runtime;
        OciRuntime {
            path: text(&handler.path),
            root: text(&handler.root),
            systemd_cgroup: handler.systemd_cgroup,
            args: handler.args.clone(),
            timeout_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
            // Some hooks are its start's to run.
            start_fifo: handler.features.start_fifo && spec.hooks().is_none(),
        }
    }

    fn request(
        &self,
        record: &ContainerRecord,
        runtime: OciRuntime,
        (rootfs, mapped_mounts): (Rootfs, Vec<MappedMount>),
    ) -> CreateRequest {
        CreateRequest {
            id: record.id.to_string(),
            bundle: text(&self.shared.layout.bundle(&record.sandbox, &record.id)),
            runtime: Some(runtime),
            rootfs: Some(rootfs),
            terminal: self.spec.tty,
            stdin: self.spec.stdin,
            stdin_once: self.spec.stdin_once,
            log_path: record.facts.log_path.as_deref().map(text).unwrap_or_default(),
            log_directory: self.sandbox.spec.log_directory.as_deref().map(text).unwrap_or_default(),
            max_log_line: self.shared.config.max_log_line,
            own_pid_namespace: record.facts.own_pid_namespace,
            // The spec carries what this host can set.
            oom_score_adj: None,
            mapped_mounts,
        }
    }

    fn removal(&self, id: &ContainerId) -> Removal {
        Removal {
            shared: Arc::clone(&self.shared),
            sandbox: self.sandbox.id.clone(),
            handler: self.sandbox.handler.clone(),
            id: id.clone(),
            client: Some(self.shim.client.clone()),
        }
    }
}

/// Whether an image is the wrapping of a checkpoint's archive, as other runtimes restore from: one layer, and the archive's entries in it.
fn is_checkpoint(image: &Image, view: &LayerView) -> bool {
    let holds = |path| view.read(path, USER_FILE_LIMIT).is_ok_and(|file| file.is_some());
    image.layers.len() == 1
        && view.is_directory("/checkpoint").is_ok_and(|found| found == Some(true))
        && holds("/spec.dump")
        && holds("/config.dump")
}

/// What an image says about its containers, as far as a spec is made from it.
fn defaults(config: &ImageConfig) -> ImageDefaults {
    ImageDefaults {
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        env: config.env.clone(),
        working_dir: config.working_dir.clone(),
        user: config.user.clone(),
        stop_signal: config.stop_signal.clone().unwrap_or_default(),
        volumes: config.volumes.clone(),
    }
}
