//! Layers that can't be used any more, and that containers may have mounted all the same.
//!
//! A layer whose record can't be read when davit starts gets another name at once, so that its place is free for the next pull. Overlayfs
//! follows a directory to whatever name it is given, but not what is deleted in it: it stays for the containers that were made when it was
//! whole. Only their records know who they are: each that is taken up takes a part in it, and the first sweep drops what then nobody has.
//! It goes with the last of them.

use super::{LayerHold, Layers};
use crate::image::Digest;
use crate::image::files::{ASIDE, suffix};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError, Weak};

/// A layer's directory that was put aside; it goes when this does.
#[derive(Debug)]
pub(super) struct Aside {
    diff_id: Digest,
    path: PathBuf,
    layers: Weak<Layers>,
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Of a davit that ends: the next one finds it.
        let Some(layers) = self.layers.upgrade().filter(|layers| !layers.is_ending()) else {
            return;
        };
        if let Err(error) = layers.discard(self.path.clone()) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a broken layer");
        }
    }
}

/// What was put aside under this name, if it is one of those.
pub(super) fn of_name(name: &str) -> Option<Digest> {
    let (hex, _) = name.strip_prefix(ASIDE)?.split_once('-')?;
    format!("sha256:{hex}").parse().ok()
}

impl Layers {
    /// Answers where it is now.
    pub(super) fn put_aside(self: &Arc<Self>, diff_id: Digest, path: &Path) -> io::Result<PathBuf> {
        let place = self.directory.join(format!("{ASIDE}{}-{}", diff_id.hex(), suffix()?));
        std::fs::rename(path, &place)?;
        self.keep_aside(diff_id, place.clone());
        Ok(place)
    }

    /// Keeps it until the first sweep.
    pub(super) fn keep_aside(self: &Arc<Self>, diff_id: Digest, path: PathBuf) {
        let aside = Aside { diff_id, path, layers: Arc::downgrade(self) };
        self.aside().push(Arc::new(aside));
    }

    /// Whether a layer was put aside by this start, or before it.
    pub(super) fn is_aside(&self, diff_id: &Digest) -> bool {
        self.aside().iter().any(|one| one.diff_id == *diff_id)
    }

    /// Nobody comes any more who was there before this davit.
    pub(super) fn drop_aside(&self) {
        let dropped = std::mem::take(&mut *self.aside());
        drop(dropped);
    }

    fn aside(&self) -> MutexGuard<'_, Vec<Arc<Aside>>> {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is of the layers of a container that an earlier davit has made, put aside or not. One that is missing takes none of the
    /// others from it.
    pub(crate) fn hold_left(self: &Arc<Self>, diff_ids: &[Digest]) -> LayerHold {
        let held = |diff_id: &&Digest| !self.is_lost(diff_id);
        let left: Vec<Digest> = diff_ids.iter().filter(held).cloned().collect();
        let mut table = self.table();
        let left: Vec<Digest> = left.into_iter().filter(|id| table.contains_key(id)).collect();
        let mut hold = self.count(&mut table, &left);
        let aside = self.aside();
        hold.aside = aside.iter().filter(|one| diff_ids.contains(&one.diff_id)).cloned().collect();
        hold
    }
}

#[cfg(test)]
mod tests {
    use crate::image::Digest;
    use crate::image::apply::Applied;
    use crate::image::layers::{LayerHold, LayerRecord, Layers};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::runtime::Handle;

    fn commit(layers: &Arc<Layers>, diff_id: &Digest) -> LayerHold {
        let staged = layers.stage(diff_id).unwrap();
        std::fs::create_dir(staged.tree().join("bin")).unwrap();
        let record = LayerRecord::new(diff_id.clone(), diff_id.clone(), 1, Applied::default());
        layers.commit(&staged, record).unwrap()
    }

    #[tokio::test]
    async fn what_cannot_be_read_stays_for_the_containers_that_have_it() {
        let root = tempfile::tempdir().unwrap();
        let open = || {
            Layers::open(root.path().join("layers"), "boot".to_owned(), Handle::current()).unwrap()
        };
        let (broken, whole) = (Digest::from_sha256([7; 32]), Digest::from_sha256([8; 32]));
        let both = [broken.clone(), whole.clone()];
        let (layers, _) = open();
        // As if killed with them: nobody lets go.
        let _held = [commit(&layers, &broken), commit(&layers, &whole)];
        std::fs::remove_file(layers.place(&broken).join("layer.json")).unwrap();

        let (layers, told) = open();
        assert!(layers.hold(&both).is_err() && !layers.place(&broken).exists());
        let mounted = told[0].path.join("fs/bin");
        let _killed = layers.hold_left(&both);
        assert!(layers.sweep().is_empty());
        assert!(mounted.exists() && layers.contains(&whole));
        let anew = commit(&layers, &broken);
        assert_eq!(anew.lower().len(), 1);

        // One more start, and it is still not what is broken now.
        let (layers, told) = open();
        assert!(told.is_empty() && layers.contains(&broken));
        let container = layers.hold_left(&both);
        assert!(layers.sweep().is_empty());
        assert!(mounted.exists());
        drop(container);
        assert!(!mounted.exists() && !layers.place(&broken).exists());
        assert!(!layers.contains(&whole), "nor does anybody have the other one");
    }

    #[tokio::test]
    async fn a_davit_that_ends_lets_go_of_nothing() {
        static ENDING: AtomicBool = AtomicBool::new(false);
        let root = tempfile::tempdir().unwrap();
        let open = || {
            let place = root.path().join("layers");
            Layers::open_until(&ENDING, place, "boot".to_owned(), Handle::current()).unwrap()
        };
        let (broken, whole) = (Digest::from_sha256([7; 32]), Digest::from_sha256([8; 32]));
        let (layers, _) = open();
        let held = [commit(&layers, &broken), commit(&layers, &whole)];
        ENDING.store(true, Ordering::SeqCst);
        drop(held);
        std::fs::remove_file(layers.place(&broken).join("layer.json")).unwrap();
        let (layers, told) = open();
        let container = layers.hold_left(&[broken, whole.clone()]);
        layers.sweep();
        drop(container);
        assert!(told[0].path.exists() && layers.place(&whole).exists());
    }

    #[tokio::test]
    async fn what_cannot_be_read_and_nobody_has_goes_with_the_first_sweep() {
        let root = tempfile::tempdir().unwrap();
        let place = root.path().join("layers");
        let open = || Layers::open(place.clone(), "boot".to_owned(), Handle::current()).unwrap();
        let id = Digest::from_sha256([7; 32]);
        let (layers, _) = open();
        let _held = commit(&layers, &id);
        std::fs::remove_file(layers.place(&id).join("layer.json")).unwrap();
        let (layers, told) = open();
        assert!(told[0].path.exists());
        layers.sweep();
        assert!(!told[0].path.exists());
    }
}
