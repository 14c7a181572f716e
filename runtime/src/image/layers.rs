//! Unpacked layers on disk, and who still needs them.
//!
//! Owns `layers/`: `<diff id>/fs` is the tree, `<diff id>/layer.json` says what is known of it. Owns the count of what names a
//! layer: images, and holds ([`LayerHold`]) of containers and of pulls. When the last goes, so does the layer. Beside them is what some stacks of
//! them need above ([`stacks`]). Owns no download.
//!
//! ```text
//! stage ─► <hex>.tmp-… ──commit──► <hex>, pending ──flush──► <hex>, durable
//!              │ dropped                 │ last name and last hold gone
//!              └────────► trash-… ◄──────┘        deleted by a thread that may take its time
//!                            ▲
//!          aside-<hex>-… ────┘ no container has it any more: what could not be read at a start ([`aside`])
//! ```
//!
//! Invariants: a name that is a whole diff id is a layer that was unpacked and verified to its end. A *pending* layer's bytes may
//! still be in memory only, and its record names the boot that they are in the memory of: after another boot the layer is not used
//! but fetched anew. So no torn layer is ever run, and a pull need not wait for the disk: waiting for it took twice as
//! long as all the rest of the pull. What a count decides and what it does to the directory happen under one lock, but for a layer
//! whose record is being replaced at that moment: it goes when that is done, if nobody wants it by then.

mod aside;
mod check;
mod hold;
mod record;
mod seal;
pub(super) mod stacks;
mod staged;

use super::Digest;
use super::birth::Birth;
use super::files::{
    Unusable, is_half_made, make_directory, remove_tree, replace, suffix, sync_directory, write_new,
};
use crate::shortage::is_shortage;
use aside::Aside;
use check::Sealer;
pub(crate) use check::Verdict;
use davit_sys::failpoint::reach;
pub use hold::{HoldError, LayerHold, keep_layers};
pub(crate) use record::LayerRecord;
use record::RECORD_FILE;
use staged::Staged;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;

#[derive(Debug)]
pub(crate) struct Layers {
    directory: PathBuf,
    boot: String,
    table: Mutex<HashMap<Digest, Slot>>,
    /// Taken by those who rewrite records, for as long as the disk takes; the table is not locked meanwhile.
    writing: Mutex<()>,
    /// Until the first sweep.
    aside: Mutex<Vec<Arc<Aside>>>,
    /// By name: the layers that one goes with.
    stacks: Mutex<HashMap<String, Vec<Digest>>>,
    sealer: Sealer,
    handle: Handle,
    ending: &'static AtomicBool,
}

#[derive(Debug)]
struct Slot {
    record: LayerRecord,
    birth: Birth,
    images: usize,
    holds: usize,
    rewriting: Rewriting,
}

/// Whether a layer's record is being replaced: its directory stays where it is for that long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rewriting {
    No,
    Yes,
    /// And it is to be removed after that.
    Unwanted,
}

impl Slot {
    fn new(record: LayerRecord) -> Self {
        Self { record, birth: Birth::new(), images: 0, holds: 0, rewriting: Rewriting::No }
    }

    fn is_unused(&self) -> bool {
        self.images == 0 && self.holds == 0
    }
}

/// A directory that was not what it should be, and where it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantined {
    /// Where it is now. A layer, which can be had again, goes once no container has it mounted.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Layers {
    /// Reads what is there; what is half-made is deleted in the background, what is broken is put aside and named.
    pub(crate) fn open(
        directory: PathBuf,
        boot: String,
        handle: Handle,
    ) -> io::Result<(Arc<Self>, Vec<Quarantined>)> {
        Self::open_until(hold::ending(), directory, boot, handle)
    }

    /// The same, where something else says whether davit ends.
    fn open_until(
        ending: &'static AtomicBool,
        directory: PathBuf,
        boot: String,
        handle: Handle,
    ) -> io::Result<(Arc<Self>, Vec<Quarantined>)> {
        make_directory(&directory)?;
        let layers = Arc::new(Self {
            directory,
            boot,
            table: Mutex::default(),
            writing: Mutex::default(),
            aside: Mutex::default(),
            stacks: Mutex::default(),
            sealer: Sealer::default(),
            handle,
            ending,
        });
        let (mut broken, mut stacks) = (Vec::new(), Vec::new());
        // All of them before anything gets another name.
        let entries: Vec<_> = std::fs::read_dir(&layers.directory)?.collect::<Result<_, _>>()?;
        for path in entries.iter().map(std::fs::DirEntry::path) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Ok(diff_id) = format!("sha256:{name}").parse::<Digest>() else {
                if is_half_made(name) || name.starts_with("trash-") {
                    layers.discard(path)?;
                } else if let Some(diff_id) = aside::of_name(name) {
                    layers.keep_aside(diff_id, path);
                } else if name.starts_with(stacks::STACK) {
                    stacks.push((name.to_owned(), path));
                }
                continue;
            };
            match LayerRecord::load(&path, &diff_id, &layers.boot) {
                Ok(record) => {
                    layers.table().insert(diff_id, Slot::new(record));
                }
                Err(Unusable::Unseen(error)) => return Err(error),
                Err(Unusable::Broken(reason)) => {
                    let path = layers.put_aside(diff_id, &path)?;
                    broken.push(Quarantined { path, reason });
                }
            }
        }
        for (name, path) in stacks {
            layers.find_stack(&name, path)?;
        }
        Ok((layers, broken))
    }

    fn stacks(&self) -> MutexGuard<'_, HashMap<String, Vec<Digest>>> {
        self.stacks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        // A panic elsewhere leaves the table whole: every change to it is one statement.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, diff_id: &Digest) -> PathBuf {
        self.directory.join(diff_id.hex())
    }

    /// Where a layer's files are, or would be.
    pub(crate) fn tree(&self, diff_id: &Digest) -> PathBuf {
        self.place(diff_id).join("fs")
    }

    /// Whether a layer's files have gone, by somebody else's hand.
    pub(crate) fn is_lost(&self, diff_id: &Digest) -> bool {
        match std::fs::metadata(self.tree(diff_id)) {
            Ok(metadata) => !metadata.is_dir(),
            Err(error) => !is_shortage(&error),
        }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) fn contains(&self, diff_id: &Digest) -> bool {
        self.table().contains_key(diff_id)
    }

    /// A directory to unpack into.
    pub(crate) fn stage(self: &Arc<Self>, diff_id: &Digest) -> io::Result<Staged> {
        let path = self.directory.join(format!("{}.tmp-{}", diff_id.hex(), suffix()?));
        let staged = Staged { layers: Arc::clone(self), path };
        make_directory(&staged.tree())?;
        make_directory(&staged.junk())?;
        Ok(staged)
    }

    /// Makes what was staged the layer `record.diff_id`, held by the caller. If it has come to be in the meantime, that one counts.
    pub(crate) fn commit(
        self: &Arc<Self>,
        staged: &Staged,
        mut record: LayerRecord,
    ) -> io::Result<LayerHold> {
        record.boot = Some(self.boot.clone());
        write_new(&staged.path.join(RECORD_FILE), &record.to_json()?)?;
        reach("pull.layer_record")?;
        let place = self.place(&record.diff_id);
        let diff_id = record.diff_id.clone();
        let junk = self.directory.join(format!("trash-{}", suffix()?));
        std::fs::rename(staged.junk(), &junk)?;
        self.delete_later(junk);
        // One whose files have gone makes room, and nobody rewrites its record meanwhile.
        let lost = self.contains(&diff_id) && self.is_lost(&diff_id);
        let writing = lost.then(|| self.writing.lock().unwrap_or_else(PoisonError::into_inner));
        let mut table = self.table();
        match table.get_mut(&diff_id) {
            None => {
                std::fs::rename(&staged.path, &place)?;
                table.insert(diff_id.clone(), Slot::new(record));
            }
            Some(slot) if writing.is_some() => {
                self.discard(place.clone())?;
                std::fs::rename(&staged.path, &place)?;
                let (images, holds) = (slot.images, slot.holds);
                *slot = Slot { images, holds, ..Slot::new(record) };
            }
            Some(_) => {}
        }
        drop(writing);
        reach("pull.layer")?;
        self.hold_locked(&mut table, &[diff_id]).map_err(io::Error::other)
    }

    /// Keeps `diff_ids`, bottom first, until the hold is dropped.
    pub(crate) fn hold(self: &Arc<Self>, diff_ids: &[Digest]) -> Result<LayerHold, HoldError> {
        self.hold_locked(&mut self.table(), diff_ids)
    }

    fn hold_locked(
        self: &Arc<Self>,
        table: &mut HashMap<Digest, Slot>,
        diff_ids: &[Digest],
    ) -> Result<LayerHold, HoldError> {
        if let Some(missing) = diff_ids.iter().find(|diff_id| !table.contains_key(diff_id)) {
            return Err(HoldError(missing.clone()));
        }
        Ok(self.count(table, diff_ids))
    }

    fn count(
        self: &Arc<Self>,
        table: &mut HashMap<Digest, Slot>,
        diff_ids: &[Digest],
    ) -> LayerHold {
        let mut lower: Vec<PathBuf> = self.stack_of(diff_ids).into_iter().collect();
        for diff_id in diff_ids.iter().rev() {
            // overlayfs refuses a directory that is there twice, and its upper occurrence hides the lower one anyway.
            let tree = self.tree(diff_id);
            if !lower.contains(&tree) {
                lower.push(tree);
            }
        }
        for diff_id in diff_ids {
            if let Some(slot) = table.get_mut(diff_id) {
                slot.holds += 1;
            }
        }
        let (layers, diff_ids) = (Arc::clone(self), diff_ids.to_vec());
        LayerHold { aside: Vec::new(), layers, diff_ids, lower }
    }

    /// Who is dropped has not let go: its containers run on.
    fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    fn release(&self, diff_ids: &[Digest]) {
        if self.is_ending() {
            return;
        }
        let mut table = self.table();
        for diff_id in diff_ids {
            if let Some(slot) = table.get_mut(diff_id) {
                slot.holds = slot.holds.saturating_sub(1);
            }
        }
        self.remove_unused(&mut table, diff_ids);
    }

    /// An image has come that is made of these.
    pub(crate) fn name(&self, diff_ids: &[Digest]) {
        let mut table = self.table();
        for diff_id in diff_ids {
            if let Some(slot) = table.get_mut(diff_id) {
                slot.images += 1;
            }
        }
    }

    /// An image has gone that was made of these.
    pub(crate) fn unname(&self, diff_ids: &[Digest]) {
        let mut table = self.table();
        for diff_id in diff_ids {
            if let Some(slot) = table.get_mut(diff_id) {
                slot.images = slot.images.saturating_sub(1);
            }
        }
        self.remove_unused(&mut table, diff_ids);
    }

    /// Removes every layer that nothing names and nobody holds.
    pub(crate) fn sweep(&self) -> Vec<Digest> {
        self.drop_aside();
        let mut table = self.table();
        let all: Vec<Digest> = table.keys().cloned().collect();
        self.remove_unused(&mut table, &all)
    }

    fn remove_unused(&self, table: &mut HashMap<Digest, Slot>, diff_ids: &[Digest]) -> Vec<Digest> {
        let mut removed = Vec::new();
        for diff_id in diff_ids {
            let Some(slot) = table.get_mut(diff_id).filter(|slot| slot.is_unused()) else {
                continue;
            };
            if slot.rewriting != Rewriting::No {
                slot.rewriting = Rewriting::Unwanted;
                continue;
            }
            match self.discard(self.place(diff_id)) {
                Ok(()) => {
                    table.remove(diff_id);
                    self.drop_stacks_of(diff_id);
                    removed.push(diff_id.clone());
                }
                // It stays in the table, whole and usable; the next sweep tries again.
                Err(error) => tracing::warn!(layer = %diff_id, %error, "cannot remove layer"),
            }
        }
        removed
    }

    /// Takes `path` out of the way at once; deleting it takes as long as it takes.
    fn discard(&self, path: PathBuf) -> io::Result<()> {
        let trash = self.directory.join(format!("trash-{}", suffix()?));
        match std::fs::rename(&path, &trash) {
            Ok(()) => self.delete_later(trash),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn delete_later(&self, path: PathBuf) {
        // A runtime that is shutting down forgets this; the next start finds the trash.
        drop(self.handle.spawn_blocking(move || {
            if let Err(error) = remove_tree(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot delete");
            }
        }));
    }

    /// Bytes and inodes of all layers, as counted when they were unpacked.
    pub(crate) fn usage(&self) -> (u64, u64) {
        let table = self.table();
        table.values().fold((0, 0), |(bytes, inodes), slot| {
            (bytes + slot.record.bytes, inodes + slot.record.inodes)
        })
    }

    /// How many layers there are, and their bytes.
    pub(crate) fn totals(&self) -> (usize, u64) {
        let table = self.table();
        (table.len(), table.values().map(|slot| slot.record.bytes).sum())
    }

    /// Brings everything pending to the disk, then says so in the records. Blocks.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        // One that comes after the sync has begun is not among these, even if it has the name of one that is.
        let pending = |(_, slot): &(&Digest, &Slot)| slot.record.boot.is_some();
        let pending: Vec<(Digest, Birth)> = self
            .table()
            .iter()
            .filter(pending)
            .map(|(diff_id, slot)| (diff_id.clone(), slot.birth))
            .collect();
        if pending.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(std::fs::File::open(&self.directory)?)?;
        for (diff_id, birth) in pending {
            self.rewrite(&diff_id, birth, |record| record.boot = None)?;
        }
        sync_directory(&self.directory)
    }

    /// Changes the record of the layer that came then, on disk and here; one that has gone is let be. The caller has [`Self::writing`].
    fn rewrite(
        &self,
        diff_id: &Digest,
        birth: Birth,
        change: impl FnOnce(&mut LayerRecord),
    ) -> io::Result<()> {
        let mut record = match self.table().get_mut(diff_id) {
            Some(slot) if slot.birth == birth => {
                slot.rewriting = Rewriting::Yes;
                slot.record.clone()
            }
            _ => return Ok(()),
        };
        change(&mut record);
        let written = record
            .to_json()
            .and_then(|json| replace(&self.place(diff_id).join(RECORD_FILE), &json));
        let mut table = self.table();
        if let Some(slot) = table.get_mut(diff_id) {
            if written.is_ok() {
                slot.record = record;
            }
            if std::mem::replace(&mut slot.rewriting, Rewriting::No) == Rewriting::Unwanted {
                self.remove_unused(&mut table, std::slice::from_ref(diff_id));
            }
        }
        match written {
            // Somebody else's hand.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            written => written,
        }
    }

    /// Which of the layers that had this diff id is here.
    fn birth(&self, diff_id: &Digest) -> Option<Birth> {
        self.table().get(diff_id).map(|slot| slot.birth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::apply::Applied;

    fn commit(layers: &Arc<Layers>, diff_id: &Digest) -> LayerHold {
        let staged = layers.stage(diff_id).unwrap();
        let record = LayerRecord::new(diff_id.clone(), diff_id.clone(), 1, Applied::default());
        layers.commit(&staged, record).unwrap()
    }

    fn recorded(layers: &Layers, diff_id: &Digest) -> LayerRecord {
        LayerRecord::load(&layers.place(diff_id), diff_id, "boot").unwrap()
    }

    #[tokio::test]
    async fn what_is_said_of_a_layer_that_has_gone_is_not_said_of_its_successor() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("layers");
        let (layers, _) = Layers::open(place, "boot".to_owned(), Handle::current()).unwrap();
        let id = Digest::from_sha256([7; 32]);
        let first = commit(&layers, &id);
        let birth = layers.birth(&id).unwrap();
        drop(first);
        assert!(!layers.contains(&id) && !layers.place(&id).exists());
        let second = commit(&layers, &id);
        // As a flush does that began when the first was here.
        layers.rewrite(&id, birth, |record| record.boot = None).unwrap();
        assert_eq!(recorded(&layers, &id).boot.as_deref(), Some("boot"));
        let birth = layers.birth(&id).unwrap();
        layers.rewrite(&id, birth, |record| record.boot = None).unwrap();
        assert_eq!(recorded(&layers, &id).boot, None);
        // It goes while its record is replaced: after that, and then whole.
        layers.rewrite(&id, birth, |_| drop(second)).unwrap();
        assert!(!layers.contains(&id) && !layers.place(&id).exists());
    }

    #[tokio::test]
    async fn a_rewrite_removes_nothing_that_nobody_has_let_go() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("layers");
        let id = Digest::from_sha256([7; 32]);
        let (layers, _) =
            Layers::open(place.clone(), "boot".to_owned(), Handle::current()).unwrap();
        // As if killed with it: nobody lets go.
        let _held = commit(&layers, &id);
        let (layers, broken) = Layers::open(place, "boot".to_owned(), Handle::current()).unwrap();
        assert!(broken.is_empty());
        layers.flush().unwrap();
        assert!(layers.contains(&id), "whoever needs it has not come yet");
        assert_eq!(recorded(&layers, &id).boot, None);
        // Two holds, one of which goes and comes while the record is replaced.
        let hold = layers.hold(std::slice::from_ref(&id)).unwrap();
        let mut again = None;
        let birth = layers.birth(&id).unwrap();
        layers
            .rewrite(&id, birth, |_| {
                drop(hold);
                again = Some(layers.hold(std::slice::from_ref(&id)).unwrap());
            })
            .unwrap();
        assert!(layers.contains(&id), "it was wanted again");
        drop(again);
        assert!(!layers.contains(&id));
    }
}
