//! Whether the layers are still what they were: sealing them once they are on disk, and comparing later.
//!
//! Sealing reads all of a layer, from memory as it has just been written, in a thread of its own that leaves the processor to everybody else.
//! Nobody waits for it. A layer without a seal, because davit was stopped first, gets one after the next start.

use super::{LayerHold, Layers, seal};
use crate::image::Digest;
use crate::image::birth::Birth;
use crate::shortage::is_shortage;
use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

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

/// Who seals: one thread at a time, which looks once more if it was asked to while it was at it.
#[derive(Debug, Default)]
pub(super) struct Sealer(Mutex<Sealing>);

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Sealing {
    #[default]
    No,
    Yes,
    /// Somebody has asked since it last began to look: it may have passed what they mean.
    Again,
}

impl Sealer {
    fn set(&self, next: impl FnOnce(Sealing) -> Sealing) -> Sealing {
        let mut sealing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *sealing;
        *sealing = next(before);
        before
    }

    /// Whether a thread is to be made for it; otherwise the one that is there takes it up.
    fn ask(&self) -> bool {
        let busy = |before| if before == Sealing::No { Sealing::Yes } else { Sealing::Again };
        self.set(busy) == Sealing::No
    }

    /// The thread has looked at all there was: whether it is to look again, or may end.
    fn looked(&self) -> bool {
        let next = |before| if before == Sealing::Again { Sealing::Yes } else { Sealing::No };
        self.set(next) == Sealing::Again
    }

    fn ended(&self) {
        self.set(|_| Sealing::No);
    }
}

impl Layers {
    /// Seals what is on disk and has no seal, behind everybody's back.
    pub(crate) fn seal_later(self: &Arc<Self>) {
        if !self.sealer.ask() {
            return;
        }
        let layers = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("seal".to_owned()).spawn(move || {
            // Of this thread alone, as Linux has it.
            if let Err(errno) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%errno, "layers are sealed at ordinary priority");
            }
            layers.seal_all();
        });
        if let Err(error) = spawned {
            self.sealer.ended();
            tracing::warn!(%error, "layers stay without a seal until the next pull");
        }
    }

    /// Seals until nothing is left to be sealed that can be, and nobody has asked meanwhile.
    fn seal_all(&self) {
        loop {
            let mut tried = BTreeSet::new();
            while let Some((diff_id, birth)) = self.unsealed(&tried) {
                if let Err(error) = self.seal_one(&diff_id, birth) {
                    tracing::warn!(layer = %diff_id, %error, "cannot seal layer");
                }
                // Whatever came of it. One that has come anew meanwhile is asked for by the pull that brought it.
                tried.insert(diff_id);
            }
            if !self.sealer.looked() {
                return;
            }
        }
    }

    fn unsealed(&self, except: &BTreeSet<Digest>) -> Option<(Digest, Birth)> {
        let table = self.table();
        let waits = |record: &super::LayerRecord| record.boot.is_none() && record.seal.is_none();
        let mut waiting = table.iter().filter(|(_, slot)| waits(&slot.record));
        let next = waiting.find(|(diff_id, _)| !except.contains(*diff_id));
        next.map(|(diff_id, slot)| (diff_id.clone(), slot.birth))
    }

    /// Does not hold the layer: whoever removes its image need not wait for this. What goes while it is read gets no seal.
    fn seal_one(&self, diff_id: &Digest, birth: Birth) -> io::Result<()> {
        let seal = self.seal_of(diff_id);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.birth(diff_id) != Some(birth) {
            return Ok(());
        }
        let seal = seal?;
        self.rewrite(diff_id, birth, |record| record.seal = Some(seal))
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
    ///
    /// # Errors
    /// A want of descriptors or memory, which says nothing of the layer.
    pub(crate) fn verdict(&self, diff_id: &Digest) -> io::Result<Verdict> {
        let expected = self.table().get(diff_id).and_then(|slot| slot.record.seal.clone());
        Ok(match (self.seal_of(diff_id), expected) {
            (Err(error), _) if is_shortage(&error) => return Err(error),
            (Err(error), _) => Verdict::Broken(format!("read it: {error}")),
            (Ok(_), None) => Verdict::Unsealed,
            (Ok(found), Some(expected)) if found == expected => Verdict::Whole,
            (Ok(_), Some(_)) => {
                Verdict::Broken("its files are not what they were when it was pulled".to_owned())
            }
        })
    }

    /// How many keep a layer that no image needs to keep: containers, pulls.
    pub(crate) fn holds(&self, diff_id: &Digest) -> usize {
        self.table().get(diff_id).map_or(0, |slot| slot.holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_while_it_is_sealed_is_not_forgotten() {
        let sealer = Sealer::default();
        assert!(sealer.ask(), "nobody seals yet");
        assert!(!sealer.ask() && !sealer.ask(), "somebody does");
        assert!(sealer.looked(), "it was asked for since");
        assert!(!sealer.looked(), "and not since then");
        assert!(sealer.ask(), "it has ended");
        sealer.ended();
        assert!(sealer.ask());
    }
}
