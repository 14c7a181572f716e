//! Which image a text means.

use super::Snapshot;
use crate::image::{Digest, ImageRef, InvalidReference};

/// Why a text means no image, whatever is here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// It is neither a name nor an id.
    #[error(transparent)]
    Invalid(#[from] InvalidReference),
    /// Several ids begin so.
    #[error("image id {prefix:?} is ambiguous: {count} images begin so")]
    Ambiguous {
        /// As it was asked for.
        prefix: String,
        /// How many.
        count: usize,
    },
}

impl Snapshot {
    /// A name is looked for before an id, because `cafe` can be both and people mean the name.
    pub(super) fn resolve(&self, text: &str) -> Result<Option<Digest>, FindError> {
        if let Some(hex) = text.strip_prefix("sha256:").filter(|hex| is_hex(hex)) {
            return self.by_prefix(text, hex);
        }
        let found = text.parse::<ImageRef>().map(|name| self.by_name(&name));
        match found {
            Ok(Some(id)) => Ok(Some(id)),
            Ok(None) if is_hex(text) => self.by_prefix(text, text),
            Ok(None) => Ok(None),
            Err(_) if is_hex(text) => self.by_prefix(text, text),
            Err(error) => Err(error.into()),
        }
    }

    fn by_name(&self, name: &ImageRef) -> Option<Digest> {
        match (name.digest(), name.repo_tag()) {
            (Some(digest), _) => self.digests.get(&name.repo_digest(digest)).cloned(),
            (None, Some(tag)) => self.tags.get(&tag).cloned(),
            (None, None) => None,
        }
    }

    fn by_prefix(&self, text: &str, hex: &str) -> Result<Option<Digest>, FindError> {
        let mut matches = self.images.keys().filter(|id| id.hex().starts_with(hex));
        match (matches.next(), matches.count()) {
            (None, _) => Ok(None),
            (Some(id), 0) => Ok(Some(id.clone())),
            (Some(_), more) => Err(FindError::Ambiguous {
                prefix: text.chars().take(200).collect(),
                count: more + 1,
            }),
        }
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
