//! The durable record of every pod and container, as files.
//!
//! Owns the names and shapes of the files below the state root's `pods/`, and that each is written whole: to a temporary name, then
//! renamed over the old one. Owns no decision: the pod's task says what to write and when; `recover` reads.
//!
//! ```text
//! <state>/boot_id                                  the boot that the records are of
//! <state>/pods/<sandbox>/sandbox.json              SandboxRecord
//!                       /hostname resolv.conf
//!                       /shim.{json,sock,log}      what daemon and shim share (davit_proto::disk)
//!                       /containers/<container>/container.json   ContainerRecord
//!                                              /config.json      the OCI spec; the directory is its bundle
//!                                              /rootfs/          where the root is mounted, in no namespace of ours
//!                                              /init.pid exit.json
//! <state>/shm/<sandbox>                            the pod's /dev/shm
//! <state>/quarantine/<sandbox>                     what could not be read
//! <root>/id                                        this davit's
//! <root>/containers/<container>/{fs,work}          the writable layer
//! ```
//!
//! Records live as long as the boot does, as the processes do, so nothing here is synced to disk.

mod features;
mod file;
mod identity;
mod layout;
mod overlay;
mod private;
mod record;

pub(crate) use features::probe_state;
pub use file::{StoreError, read_json, remove_tree, write_bytes, write_json};
pub(crate) use file::{reach, read_plain};
pub(crate) use identity::ensure_id;
pub use layout::Layout;
pub(crate) use layout::{ensure_dir, let_pass, new_dir};
pub(crate) use overlay::probe_overlay;
pub(crate) use private::share_mounts;
pub use private::{ShareError, keep_mounts_private, stop_keeping_mounts_private};
pub use record::{ContainerRecord, SandboxPhase, SandboxRecord, ShimRecord, VERSION};
