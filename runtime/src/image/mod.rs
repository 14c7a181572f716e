//! Images: pulled, kept, named and removed.
//!
//! Owns `images/` and `layers/` below its root, the conversation with registries, and the count of who needs a layer. Owns no
//! mount: a container asks for its layers by [`Images::hold`] and stacks the directories itself. Knows nothing of CRI.
//!
//! ```text
//!             ┌────────────── Images ──────────────┐
//!   pull ───► │ reference ─► hosts ─► registry     │   names, documents, bytes
//!             │     │                    │         │
//!             │     └─► pull ─► manifest ┘         │   one task per image, one per layer, joined by whoever asks
//!             │           │                        │
//!             │           └──► unpack ─► apply     │   one thread per layer: decompress, hash, write
//!   find ───► │ store ◄─── commit ───► layers      │ ◄─── hold
//!             └────────────────────────────────────┘
//! ```
//!
//! Invariants: an image is listed only when all of its layers are here, verified; its id is the digest of its config,
//! whichever registry it came from; no lookup waits for a pull; work that was begun is finished or undone by its own task,
//! whatever becomes of the one who asked.

mod apply;
mod auth;
mod birth;
mod check;
mod digest;
mod error;
mod files;
mod hosts;
mod images;
mod layers;
mod limits;
mod login;
mod manifest;
mod model;
mod platform;
mod pull;
mod reference;
mod registry;
mod store;
#[cfg(test)]
mod testing;
mod unpack;
pub mod view;

pub use apply::{ApplyError, Name};
pub(crate) use apply::{
    OPAQUE, Shape, Survey, apply as apply_archive, apply_diff, is_whiteout, survey,
};
pub use auth::{Auth, InvalidAuth};
pub use check::{Checked, Damage, DiscardError, Part};
pub use digest::{Digest, InvalidDigest};
pub use error::{
    ContentError, ExplainError, LocalError, OpenError, PullError, RemoveError, UsageError,
};
pub(crate) use files::remove_tree;
pub use hosts::{Capability, ConfiguredRegistry, EndpointPlan, HostsError, configured_registries};
pub use images::{Images, ImagesConfig, SweepReport, Totals, Usage};
pub use layers::{HoldError, LayerHold, Quarantined, keep_layers};
pub use limits::Limits;
pub use login::{RegistryError, Welcome};
pub use manifest::ManifestError;
pub use model::{Image, ImageConfig, LayerPlan, PullEvent, PullRequest};
pub use platform::{InvalidPlatform, Platform};
pub use reference::{ImageRef, InvalidReference};
pub use registry::FetchError;
pub use store::FindError;
pub use unpack::UnpackError;

#[cfg(test)]
mod tests;
