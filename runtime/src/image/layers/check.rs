//! Whether the layers are still what they were: sealing them once they are on disk, and comparing later.
//!
//! Sealing reads all of a layer, from memory as it has just been written, in a thread of its own that leaves the processor to everybody else.
//! Nobody waits for it. A layer without a seal, because davit was stopped first, gets one after the next start.

use super::{LayerHold, Layers, seal};
use crate::image::Digest;
use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, TryLockError};

/// How polite the thread is: the most that nice(2) has.
const NICE: i32 = 19;

/// What a layer is found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// What it was when it was sealed.
    Whole,
    /// It has no seal yet.
    Unsealed,
    /// It is not what it was, or can't be read.
    Broken(String),
}

impl Layers {
    /// Seals what is on disk and has no seal, behind everybody's back.
    pub(crate) fn seal_later(self: &Arc<Self>) {
        let layers = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("seal".to_owned()).spawn(move || {
            // Of this thread alone, as Linux has it.
            if let Err(errno) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%errno, "layers are sealed at ordinary priority");
            }
            layers.seal_all();
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "layers stay without a seal until the next pull");
        }
    }

    /// Seals until nothing is left to be sealed; at once done if somebody else does.
    fn seal_all(self: &Arc<Self>) {
        let mut tried = BTreeSet::new();
        loop {
            let _sealing = match self.sealing.try_lock() {
                Ok(guard) => guard,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let Some(diff_id) = self.unsealed(&tried) else { return };
            if let Err(error) = self.seal_one(&diff_id) {
                tracing::warn!(layer = %diff_id, %error, "cannot seal layer");
            }
            // Whatever came of it: one that has gone meanwhile and come anew is sealed after the pull that brought it.
            tried.insert(diff_id);
        }
    }

    fn unsealed(&self, except: &BTreeSet<Digest>) -> Option<Digest> {
        let table = self.table();
        let waits = |record: &super::LayerRecord| record.boot.is_none() && record.seal.is_none();
        let waiting = table.iter().filter(|(_, slot)| waits(&slot.record));
        waiting.map(|(diff_id, _)| diff_id).find(|diff_id| !except.contains(*diff_id)).cloned()
    }

    /// Does not hold the layer: whoever removes its image need not wait for this. What goes while it is read gets no seal.
    fn seal_one(&self, diff_id: &Digest) -> io::Result<()> {
        let Some(before) = self.identity(diff_id) else { return Ok(()) };
        let seal = self.seal_of(diff_id);
        let _writing = self.writing.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.identity(diff_id) != Some(before) {
            return Ok(());
        }
        let seal = seal?;
        self.rewrite(diff_id, |record| record.seal = Some(seal))
    }

    /// Which directory a layer's files are in: another one if the layer went and came again.
    fn identity(&self, diff_id: &Digest) -> Option<(u64, u64)> {
        let found = std::fs::symlink_metadata(self.tree(diff_id)).ok()?;
        Some((found.dev(), found.ino()))
    }

    fn seal_of(&self, diff_id: &Digest) -> io::Result<Digest> {
        let implied = self.table().get(diff_id).map(|slot| slot.record.implied.clone());
        let implied = implied.unwrap_or_default();
        let implied = implied.iter().map(|directory| directory.path.as_bytes()).collect();
        seal::seal(&self.tree(diff_id), &implied)
    }

    /// All layers that are here, each held, so that it stays while it is looked at.
    pub(crate) fn held_all(self: &Arc<Self>) -> Vec<(Digest, LayerHold)> {
        let mut all: Vec<Digest> = self.table().keys().cloned().collect();
        all.sort();
        let held = |id: Digest| Some((id.clone(), self.hold(&[id]).ok()?));
        all.into_iter().filter_map(held).collect()
    }

    /// Whether a layer is what it was. Blocks, and reads it all.
    pub(crate) fn verdict(&self, diff_id: &Digest) -> Verdict {
        let expected = self.table().get(diff_id).and_then(|slot| slot.record.seal.clone());
        match (self.seal_of(diff_id), expected) {
            (Err(error), _) => Verdict::Broken(format!("read it: {error}")),
            (Ok(_), None) => Verdict::Unsealed,
            (Ok(found), Some(expected)) if found == expected => Verdict::Whole,
            (Ok(_), Some(_)) => {
                Verdict::Broken("its files are not what they were when it was pulled".to_owned())
            }
        }
    }

    /// How many keep a layer that no image needs to keep: containers, pulls.
    pub(crate) fn holds(&self, diff_id: &Digest) -> usize {
        self.table().get(diff_id).map_or(0, |slot| slot.holds)
    }
}
