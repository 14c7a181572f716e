//! The images that are here, and their names.
//!
//! Owns `images/`: `<config digest>/` holds manifest and config as the registry served them, and `image.json` with the names. Owns
//! the snapshot that all lookups read, which is replaced whole at each change, so that no lookup waits for one. The layers
//! are [`super::layers`]'s. One writer at a time; the file changes first, then the snapshot.
//!
//! A tag names one image: the pull that gives it to another takes it from the first. Should a crash fall between the two writes,
//! the later of the two wins when they are read again. A record is pending until it is on disk, as a layer is.

mod find;
mod record;

pub use find::FindError;

use super::birth::Birth;
use super::files::{
    Unusable, is_half_made, remove_tree, replace, suffix, sync_directory, write_new,
};
use super::layers::{Layers, Quarantined};
use super::{Digest, Image, ImageRef};
use crate::journal::{Inbox, What};
use davit_sys::failpoint::reach;
use record::{CONFIG_FILE, ImageRecord, MANIFEST_FILE, RECORD_FILE};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    boot: String,
    pinned: Vec<Pin>,
    layers: Arc<Layers>,
    snapshot: RwLock<Arc<Snapshot>>,
    writer: Mutex<()>,
    /// Who is told what happens to images, once somebody wants to be.
    journal: OnceLock<Inbox>,
}

/// What is here at one moment.
#[derive(Debug, Default, Clone)]
struct Snapshot {
    images: BTreeMap<Digest, Stored>,
    tags: HashMap<String, Digest>,
    digests: HashMap<String, Digest>,
}

#[derive(Debug, Clone)]
struct Stored {
    record: ImageRecord,
    birth: Birth,
    image: Arc<Image>,
}

/// An image that must not be collected: a whole name, or the beginning of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    Exact(ImageRef),
    Prefix(String),
}

/// What a pull has found out.
#[derive(Debug)]
pub(crate) struct NewImage<'a> {
    pub(crate) name: &'a ImageRef,
    /// Of what the name led to: an index or a manifest.
    pub(crate) target: Digest,
    pub(crate) manifest: (Digest, &'a [u8]),
    pub(crate) config: (Digest, &'a [u8]),
    /// Diff ids, bottom first; held by the caller.
    pub(crate) layers: &'a [Digest],
    pub(crate) size: u64,
    /// Nanoseconds since the epoch.
    pub(crate) now: i64,
}

impl Store {
    pub(crate) fn open(
        directory: PathBuf,
        boot: String,
        pinned: Vec<Pin>,
        layers: Arc<Layers>,
    ) -> io::Result<(Self, Vec<Quarantined>)> {
        super::files::make_directory(&directory)?;
        let store = Self {
            directory,
            boot,
            pinned,
            layers,
            snapshot: RwLock::default(),
            writer: Mutex::default(),
            journal: OnceLock::new(),
        };
        let mut records = BTreeMap::new();
        let mut broken = Vec::new();
        for entry in std::fs::read_dir(&store.directory)? {
            let path = entry?.path();
            let name =
                path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            match format!("sha256:{name}").parse::<Digest>() {
                Ok(id) => match store.load(&id) {
                    Ok(loaded) => drop(records.insert(id, loaded)),
                    Err(Unusable::Unseen(error)) => return Err(error),
                    Err(Unusable::Broken(reason)) => broken.push(store.quarantine(&path, reason)?),
                },
                Err(_) if is_half_made(&name) || name.starts_with("trash-") => remove_tree(&path)?,
                Err(_) => {}
            }
        }
        let mut snapshot = Snapshot::default();
        for (id, (record, raw_config)) in disputed_tags_to_the_latest(records) {
            let image = record.to_image(&raw_config, &store.pinned).map_err(io::Error::other)?;
            store.layers.name(&record.layers);
            let (birth, image) = (Birth::new(), Arc::new(image));
            snapshot.insert(id, Stored { record, birth, image });
        }
        store.publish(snapshot);
        Ok((store, broken))
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// From now on this is told what happens to images. The first one stays.
    pub(crate) fn tell(&self, journal: Inbox) {
        self.journal.get_or_init(|| journal);
    }

    fn happened(&self, what: What, image: &Arc<Image>) {
        if let Some(journal) = self.journal.get() {
            journal.image(what, image);
        }
    }

    fn load(&self, id: &Digest) -> Result<(ImageRecord, String), Unusable> {
        let (record, raw_config) =
            ImageRecord::load(&self.directory.join(id.hex()), id, &self.boot)?;
        record.to_image(&raw_config, &self.pinned).map_err(|error| error.to_string())?;
        match record.layers.iter().find(|layer| !self.layers.contains(layer)) {
            Some(layer) => Err(format!("its layer {layer} is not here").into()),
            None => Ok((record, raw_config)),
        }
    }

    /// Whether an image's documents are still what they were.
    pub(super) fn reread(&self, id: &Digest) -> Result<(), Unusable> {
        let read = ImageRecord::load(&self.directory.join(id.hex()), id, &self.boot);
        match read {
            // Removed since.
            Err(_) if !self.snapshot().images.contains_key(id) => Ok(()),
            read => read.map(drop),
        }
    }

    fn quarantine(&self, path: &std::path::Path, reason: String) -> io::Result<Quarantined> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let place = self.directory.join(format!("broken-{name}-{}", suffix()?));
        std::fs::rename(path, &place)?;
        Ok(Quarantined { path: place, reason })
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, snapshot: Snapshot) {
        *self.snapshot.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    pub(crate) fn len(&self) -> usize {
        self.snapshot().images.len()
    }

    pub(crate) fn list(&self) -> Vec<Arc<Image>> {
        self.snapshot().images.values().map(|stored| Arc::clone(&stored.image)).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<Arc<Image>>, FindError> {
        let snapshot = self.snapshot();
        let id = snapshot.resolve(name)?;
        Ok(id.and_then(|id| snapshot.images.get(&id)).map(|stored| Arc::clone(&stored.image)))
    }

    /// Makes an image visible, or gives one that is here a further name. Blocks.
    pub(crate) fn commit(&self, new: &NewImage<'_>) -> io::Result<Arc<Image>> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.layers.settle(new.layers)?;
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let id = new.config.0.clone();
        let known = snapshot.images.get(&id).cloned();
        let mut record = match &known {
            Some(stored) => stored.record.clone(),
            None => ImageRecord::new(new, &self.boot),
        };
        record.name(new.name, &new.target, new.now);
        let raw_config = std::str::from_utf8(new.config.1).map_err(io::Error::other)?;
        let image = Arc::new(record.to_image(raw_config, &self.pinned).map_err(io::Error::other)?);
        match &known {
            Some(_) => self.rewrite(&record)?,
            None => self.create(new, &record)?,
        }
        let tagged = reach("pull.image").and_then(|()| match new.name.repo_tag() {
            Some(tag) => self.take_tag(&mut snapshot, &tag, &id),
            None => Ok(()),
        });
        if let Err(error) = tagged {
            self.undo(&id, known.as_ref());
            return Err(error);
        }
        if known.is_none() {
            self.layers.name(&record.layers);
        }
        let birth = known.map_or_else(Birth::new, |stored| stored.birth);
        snapshot.insert(id, Stored { record, birth, image: Arc::clone(&image) });
        self.publish(snapshot);
        self.happened(What::ImagePulled, &image);
        Ok(image)
    }

    /// What a commit that failed halfway has written goes again.
    fn undo(&self, id: &Digest, known: Option<&Stored>) {
        let undone = match known {
            Some(stored) => self.rewrite(&stored.record),
            None => self.put_away(id),
        };
        if let Err(error) = undone {
            tracing::warn!(image = %id, %error, "cannot undo what is left of a pull that failed");
        }
    }

    fn rewrite(&self, record: &ImageRecord) -> io::Result<()> {
        replace(&self.directory.join(record.id.hex()).join(RECORD_FILE), &record.to_json()?)
    }

    /// Takes an image's directory out of the way at once, and then deletes it. One that is not there is gone.
    fn put_away(&self, id: &Digest) -> io::Result<()> {
        let trash = self.directory.join(format!("trash-{}", suffix()?));
        match std::fs::rename(self.directory.join(id.hex()), &trash) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.and_then(|()| remove_tree(&trash)),
        }
    }

    fn create(&self, new: &NewImage<'_>, record: &ImageRecord) -> io::Result<()> {
        let hex = new.config.0.hex();
        let temporary = self.directory.join(format!("{hex}.tmp-{}", suffix()?));
        super::files::make_directory(&temporary)?;
        let written = write_new(&temporary.join(MANIFEST_FILE), new.manifest.1)
            .and_then(|_file| write_new(&temporary.join(CONFIG_FILE), new.config.1))
            .and_then(|_file| write_new(&temporary.join(RECORD_FILE), &record.to_json()?))
            .and_then(|_file| reach("pull.image_record"))
            // Of an image that nobody knows: one that could not be undone.
            .and_then(|()| self.put_away(&new.config.0))
            .and_then(|()| std::fs::rename(&temporary, self.directory.join(hex)));
        if written.is_err() {
            remove_tree(&temporary)?;
        }
        written
    }

    /// Takes `tag` from whatever other image has it.
    fn take_tag(&self, snapshot: &mut Snapshot, tag: &str, new_owner: &Digest) -> io::Result<()> {
        let Some(owner) = snapshot.tags.get(tag).filter(|owner| *owner != new_owner).cloned()
        else {
            return Ok(());
        };
        let Some(mut stored) = snapshot.images.get(&owner).cloned() else { return Ok(()) };
        stored.record.tags.remove(tag);
        self.rewrite(&stored.record)?;
        let mut image = Image::clone(&stored.image);
        image.repo_tags.retain(|known| known != tag);
        stored.image = Arc::new(image);
        snapshot.insert(owner, stored);
        Ok(())
    }

    /// Removes an image with all its names. Blocks.
    pub(crate) fn remove(&self, id: &Digest) -> io::Result<()> {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot::clone(&self.snapshot());
        let Some(stored) = snapshot.take(id) else { return Ok(()) };
        let trash = self.directory.join(format!("trash-{}", suffix()?));
        reach("remove_image.asked")?;
        std::fs::rename(self.directory.join(id.hex()), &trash)?;
        self.publish(snapshot);
        self.happened(What::ImageRemoved, &stored.image);
        self.layers.unname(&stored.record.layers);
        reach("remove_image.renamed")?;
        sync_directory(&self.directory)?;
        remove_tree(&trash)?;
        reach("remove_image.gone")
    }

    /// Brings everything to the disk, layers first, then says so in the records. Blocks.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let pending = |stored: &Stored| stored.record.boot.is_some();
        let known: Vec<(Digest, Birth)> = self
            .snapshot()
            .images
            .iter()
            .filter(|(_, stored)| pending(stored))
            .map(|(id, stored)| (id.clone(), stored.birth))
            .collect();
        self.layers.flush()?;
        if known.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(std::fs::File::open(&self.directory)?)?;
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut snapshot = Snapshot::clone(&self.snapshot());
        for (id, birth) in known {
            // One that has gone and come again is flushed after the pull that brought it.
            let stored = snapshot.images.get_mut(&id).filter(|stored| stored.birth == birth);
            let Some(stored) = stored else { continue };
            stored.record.boot = None;
            self.rewrite(&stored.record)?;
        }
        self.publish(snapshot);
        sync_directory(&self.directory)
    }
}

/// Where two images claim one tag, it is the later one's.
fn disputed_tags_to_the_latest(
    mut records: BTreeMap<Digest, (ImageRecord, String)>,
) -> BTreeMap<Digest, (ImageRecord, String)> {
    let mut latest: HashMap<String, i64> = HashMap::new();
    for (tag, at) in records.values().flat_map(|(record, _)| &record.tags) {
        let known = latest.entry(tag.clone()).or_insert(*at);
        *known = (*known).max(*at);
    }
    for (record, _) in records.values_mut() {
        record.tags.retain(|tag, at| latest.get(tag).is_none_or(|latest| latest == at));
    }
    records
}

impl Snapshot {
    fn insert(&mut self, id: Digest, stored: Stored) {
        let _old = self.take(&id);
        for tag in stored.record.tags.keys() {
            self.tags.insert(tag.clone(), id.clone());
        }
        for digest in &stored.record.digests {
            self.digests.insert(digest.clone(), id.clone());
        }
        self.images.insert(id, stored);
    }

    fn take(&mut self, id: &Digest) -> Option<Stored> {
        let stored = self.images.remove(id)?;
        self.tags.retain(|_, owner| owner != id);
        self.digests.retain(|_, owner| owner != id);
        Some(stored)
    }
}
