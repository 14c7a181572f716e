//! Looking whether the images are still what was pulled, and letting go of those that are not.
//!
//! Owns what is found and the order of letting go: the images that a broken part belongs to, and with the last of them the part itself. A layer that a
//! container has mounted stays, and so do its images: to take it away would break what still works. Pulling again is the caller's.

use super::files::Unusable;
use super::images::Inner;
use super::layers::Verdict;
use super::{Digest, Image, Images, RemoveError};
use std::sync::Arc;

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Its manifest, configuration or record.
    Documents(Digest),
    /// A layer, by its diff id.
    Layer(Digest),
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Documents(id) => write!(f, "image {id}"),
            Self::Layer(diff_id) => write!(f, "layer {diff_id}"),
        }
    }
}

/// A part that is not what it was.
#[derive(Debug, Clone)]
pub struct Damage {
    /// Which.
    pub part: Part,
    /// What is wrong.
    pub reason: String,
    /// The images that need it; none for a layer that only a container keeps.
    pub images: Vec<Arc<Image>>,
}

/// What [`Images::check`] has looked at and found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Images looked at.
    pub images: usize,
    /// Layers looked at.
    pub layers: usize,
    /// Of these, those that can be read but have nothing to be compared with yet: they were pulled a moment ago.
    pub unsealed: usize,
    /// What is broken.
    pub damages: Vec<Damage>,
}

/// Why a broken part is still here.
#[derive(Debug, thiserror::Error)]
pub enum DiscardError {
    /// Containers have it mounted.
    #[error("{part} is in use: remove the containers of its images first")]
    InUse {
        /// The part.
        part: String,
    },
    /// An image of it stayed.
    #[error(transparent)]
    Remove(#[from] RemoveError),
}

impl Images {
    /// Reads every document and every file of every layer, and compares them with what they were when they were pulled. Takes as long as the disk does.
    ///
    /// # Errors
    /// Only if the looking itself broke off.
    pub async fn check(&self) -> std::io::Result<Checked> {
        let inner = Arc::clone(&self.0);
        let checked = tokio::task::spawn_blocking(move || inner.check());
        checked.await.map_err(std::io::Error::other)?
    }

    /// Lets go of a broken part and of the images that need it; answers the names that these can be pulled by.
    ///
    /// # Errors
    /// [`DiscardError`]; what could not be let go is as it was.
    pub async fn discard(&self, damage: &Damage) -> Result<Vec<String>, DiscardError> {
        if let Part::Layer(diff_id) = &damage.part
            && self.0.layers.holds(diff_id) > 0
        {
            return Err(DiscardError::InUse { part: damage.part.to_string() });
        }
        let mut names = Vec::new();
        for image in &damage.images {
            // What has been removed since is gone already.
            self.remove(image.id.as_str()).await?;
            let by =
                if image.repo_tags.is_empty() { &image.repo_digests } else { &image.repo_tags };
            names.extend(by.iter().cloned());
        }
        Ok(names)
    }
}

impl Inner {
    fn check(&self) -> std::io::Result<Checked> {
        let images = self.store.list();
        let mut checked = Checked { images: images.len(), ..Checked::default() };
        for image in &images {
            match self.store.reread(&image.id) {
                Ok(()) => {}
                Err(Unusable::Unseen(error)) => return Err(error),
                Err(Unusable::Broken(reason)) => {
                    let part = Part::Documents(image.id.clone());
                    let images = vec![Arc::clone(image)];
                    checked.damages.push(Damage { part, reason, images });
                }
            }
        }
        for (diff_id, hold) in self.layers.held_all() {
            checked.layers += 1;
            let verdict = self.layers.verdict(&diff_id)?;
            drop(hold);
            match verdict {
                Verdict::Whole => {}
                Verdict::Unsealed => checked.unsealed += 1,
                Verdict::Broken(reason) => {
                    let needs = |image: &&Arc<Image>| image.layers.contains(&diff_id);
                    let images = self.store.list().iter().filter(needs).cloned().collect();
                    checked.damages.push(Damage { part: Part::Layer(diff_id), reason, images });
                }
            }
        }
        Ok(checked)
    }
}
